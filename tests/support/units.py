"""The units in docker/systemd/ as systemd reads them, and as containers: their commands, settings and directories."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from .containers import BIN, Container, Mount

__all__ = ["UNITS", "Unit", "container_of", "read_unit"]

UNITS = Path(__file__).parents[2] / "docker" / "systemd"

#: Where the units have the virtual environment.
VENV = "/srv/replicator/venv"

Unit = Mapping[str, Sequence[str]]


def read_unit(name: str) -> Unit:
    """The settings of a unit, `replicator-node@a.service` for an instance; each may be given more than once."""
    template, at, instance = name.removesuffix(".service").partition("@")
    found: dict[str, list[str]] = defaultdict(list)
    for line in (UNITS / f"{template}{at}.service").read_text().splitlines():
        if line and line[0] not in "[#;":
            setting, _, value = line.partition("=")
            found[setting].append(value.replace("%i", instance))
    return found


def container_of(name: str, *, host: str, etc: Path, state: Path, start: str = "ExecStart") -> Container:
    """What is run of a unit. `etc`: what is /etc/replicator on its host; `state`: what is /var/lib there."""
    unit = read_unit(name)
    environment = dict(shlex.split(text)[0].split("=", 1) for text in unit["Environment"])
    for text in unit["EnvironmentFile"]:
        path = etc / Path(text.removeprefix("-")).name
        if path.exists() or not text.startswith("-"):
            environment |= dict(line.split("=", 1) for line in path.read_text().splitlines())
    for directory in unit.get("StateDirectory", ()):
        (state / directory).mkdir(parents=True, exist_ok=True)
    (command,) = unit[start]
    return Container(
        host=host,
        command=shlex.split(command.removeprefix("-")),
        environment=environment,
        mounts=[
            Mount(source=BIN.parent, target=VENV, read_only=True),
            Mount(source=etc, target="/etc/replicator", read_only=True),
            *(Mount(source=state / each, target=f"/var/lib/{each}") for each in unit.get("StateDirectory", ())),
        ],
        tmpfs=["/tmp"] if unit["PrivateTmp"] == ["yes"] else [],
        read_only=unit["ProtectSystem"] == ["strict"],
        capabilities=unit["CapabilityBoundingSet"] != [""],
        new_privileges=unit["NoNewPrivileges"] != ["yes"],
    )
