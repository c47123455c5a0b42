"""docker/compose.yaml as it is run without an engine: which containers a command with these profiles would start."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .containers import Container, Mount

__all__ = ["COMPOSE", "containers_of", "health_check", "read_compose", "read_env_file"]

COMPOSE = Path(__file__).parents[2] / "docker" / "compose.yaml"

#: What the images of Docker run, where a file does not say it.
ENTRYPOINTS = {"prom/prometheus": ["prometheus"]}

#: What docker/Dockerfile sets.
IMAGE = {"REPLICATOR_DATA_DIR": "/data", "REPLICATOR_HTTP": "0.0.0.0:8000"}

_VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?::-([^}]*))?\}")


def read_env_file(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def read_compose(path: Path = COMPOSE, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The document, with `${NAME:-DEFAULT}` filled in. A variable without a default and a value is an error."""
    given = environment or {}

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return _VARIABLE.sub(lambda found: "$" if found[0] == "$$" else _value(found, given), value)
        if isinstance(value, list):
            return [filled(each) for each in value]
        return {name: filled(each) for name, each in value.items()} if isinstance(value, dict) else value

    document: dict[str, Any] = filled(yaml.safe_load(path.read_text()))
    return document


def _value(found: re.Match[str], given: Mapping[str, str]) -> str:
    return given[found[1]] if found[2] is None else given.get(found[1]) or found[2]


def containers_of(
    document: Mapping[str, Any], *, profiles: Collection[str], volumes: Path, password: Path, more: Sequence[Mount] = ()
) -> dict[str, Container]:
    """By the names of their services. `volumes`: a directory for those with a name. `more`: what the images bring."""
    return {
        name: _container(name, service, volumes, password, more)
        for name, service in document["services"].items()
        if not service.get("profiles") or set(service["profiles"]) & set(profiles)
    }


def _container(
    name: str, service: Mapping[str, Any], volumes: Path, password: Path, more: Sequence[Mount]
) -> Container:
    image = service["image"].partition(":")[0]
    ours = image == "replicator"
    default = ["replicator", "node"] if ours and "command" not in service else []
    command = service.get("entrypoint", ENTRYPOINTS.get(image, [])) + service.get("command", default)
    mounts = [_mount(text, volumes) for text in service.get("volumes", ())]
    mounts += [
        Mount(source=password, target=f"/run/secrets/{secret}", read_only=True) for secret in service.get("secrets", ())
    ]
    return Container(
        host=service.get("hostname", name),
        command=command,
        environment={**(IMAGE if ours else {}), **service.get("environment", {})},
        mounts=[*more, *mounts],
        tmpfs=service.get("tmpfs", ()),
        read_only=service.get("read_only", False),
        capabilities=service.get("cap_drop") != ["ALL"],
        new_privileges="no-new-privileges:true" not in service.get("security_opt", ()),
    )


def _mount(text: str, volumes: Path) -> Mount:
    source, target, *mode = text.split(":")
    if source.startswith("."):
        return Mount(source=(COMPOSE.parent / source).resolve(strict=True), target=target, read_only=mode == ["ro"])
    (volumes / source).mkdir(parents=True, exist_ok=True)
    return Mount(source=volumes / source, target=target)


def health_check(service: Mapping[str, Any]) -> list[str]:
    """Its command."""
    kind, *words = service["healthcheck"]["test"]
    return ["sh", "-c", *words] if kind == "CMD-SHELL" else words
