"""docker/kubernetes/ as it is run without a cluster: which containers its workloads come to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .containers import Container, Mount

__all__ = ["MANIFESTS", "NAMESPACE", "Pod", "pods_of", "read_manifests"]

MANIFESTS = Path(__file__).parents[2] / "docker" / "kubernetes"

#: As docs/kubernetes.md has it.
NAMESPACE = "replicator"

_VARIABLE = re.compile(r"\$(\$|\((\w+)\))")


@dataclass(frozen=True, kw_only=True)
class Pod:
    """`aliases`: the further names by which it is known in the cluster."""

    name: str
    spec: Mapping[str, Any]
    container: Container
    aliases: Sequence[str]

    @property
    def of_the_container(self) -> Mapping[str, Any]:
        (only,) = self.spec["containers"]
        told: Mapping[str, Any] = only
        return told

    def probe(self, kind: str) -> tuple[int, str]:
        """The port and the path that it asks."""
        asked = self.of_the_container[kind]["httpGet"]
        ports = {port["name"]: port["containerPort"] for port in self.of_the_container["ports"]}
        return ports[asked["port"]], asked["path"]


def read_manifests() -> list[dict[str, Any]]:
    return [each for path in sorted(MANIFESTS.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]


def pods_of(
    documents: Sequence[Mapping[str, Any]], *, directory: Path, secrets: Mapping[str, Mapping[str, str]]
) -> dict[str, Pod]:
    """By their names. `directory`: for their volumes. `secrets`: what was made by hand."""
    files = dict(secrets) | {
        each["metadata"]["name"]: each["data"] for each in documents if each["kind"] == "ConfigMap"
    }
    found = {}
    for workload in documents:
        for name, aliases in _names(workload, documents):
            spec = workload["spec"]["template"]["spec"]
            container = _container(name, spec, directory / name, files)
            found[name] = Pod(name=name, spec=spec, container=container, aliases=aliases)
    return found


def _names(workload: Mapping[str, Any], documents: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Of its pods, with their further names."""
    name = workload["metadata"]["name"]
    if workload["kind"] == "StatefulSet":
        service = workload["spec"]["serviceName"]
        for number in range(workload["spec"]["replicas"]):
            own = f"{name}-{number}.{service}"
            others = [own, f"{own}.{NAMESPACE}.svc", f"{own}.{NAMESPACE}.svc.cluster.local"]
            # One that stands for all of them, where it has no address of its own.
            yield f"{name}-{number}", others + ([service] if workload["spec"]["replicas"] == 1 else [])
    elif workload["kind"] == "Deployment":
        for number in range(workload["spec"]["replicas"]):
            yield f"{name}-{number}", []


def _container(
    name: str, spec: Mapping[str, Any], directory: Path, files: Mapping[str, Mapping[str, str]]
) -> Container:
    (told,) = spec["containers"]
    volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
    environment: dict[str, str] = {}
    for each in told.get("env", ()):
        environment[each["name"]] = _value(each, {"metadata.name": name, "metadata.namespace": NAMESPACE}, environment)
    mounts, tmpfs = [], []
    for mount in told.get("volumeMounts", ()):
        volume = volumes.get(mount["name"], {})
        if "emptyDir" in volume:
            tmpfs.append(mount["mountPath"])
            continue
        source = directory / mount["name"]
        source.mkdir(parents=True)
        key = volume.get("secret", {}).get("secretName") or volume.get("configMap", {}).get("name")
        for file, text in files[key].items() if key else ():
            (source / file).write_text(text)
        mounts.append(Mount(source=source, target=mount["mountPath"], read_only=mount.get("readOnly", False)))
    security = told["securityContext"]
    return Container(
        host=name,
        command=[_expanded(word, environment) for word in (*told["command"], *told.get("args", ()))],
        environment=environment,
        mounts=mounts,
        tmpfs=tmpfs,
        read_only=security["readOnlyRootFilesystem"],
        capabilities=security["capabilities"]["drop"] != ["ALL"],
        new_privileges=security["allowPrivilegeEscalation"],
    )


def _value(variable: Mapping[str, Any], fields: Mapping[str, str], before: Mapping[str, str]) -> str:
    if "valueFrom" in variable:
        return fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
    return _expanded(variable["value"], before)


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` of a variable that was set before; `$$` is a `$`."""
    return _VARIABLE.sub(lambda found: "$" if found[1] == "$" else environment.get(found[2], found[0]), text)
