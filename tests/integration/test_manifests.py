"""docker/kubernetes/ against the schemas of Kubernetes, and what those do not see. What it runs: tests/acceptance."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from replicator.cli.node import node as node_command
from replicator.web.guard.hosts import Hosts
from tests.support.manifests import MANIFESTS, NAMESPACE, pods_of, read_manifests

#: The oldest, and the newest that there are schemas of.
VERSIONS = ("1.29", "1.37")

DOCUMENTS = read_manifests()

HAPROXY = MANIFESTS.parent / "haproxy.cfg"

WORKLOADS = ("StatefulSet", "Deployment")


def of_kind(*kinds: str) -> dict[str, Any]:
    return {each["metadata"]["name"]: each for each in DOCUMENTS if each["kind"] in kinds}


def title(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", DOCUMENTS, ids=title)
def test_every_document_fits_its_schema(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_a_slip_in_a_manifest_is_found() -> None:
    slip = copy.deepcopy(of_kind("StatefulSet")["registry"])
    slip["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(slip, VERSIONS[-1], strict=True)


def test_what_selects_pods_selects_those_of_one_workload() -> None:
    labels = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in of_kind(*WORKLOADS).items()}
    assert {each["kind"] for each in DOCUMENTS} == {*WORKLOADS, "Service", "PodDisruptionBudget", "ConfigMap"}
    for document in DOCUMENTS:
        if "selector" in document.get("spec", {}):
            selector = document["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            selected = [name for name, own in labels.items() if wanted.items() <= own.items()]
            assert len(selected) == 1, title(document)
            if document["kind"] in WORKLOADS:
                assert selected == [document["metadata"]["name"]]


def test_the_services_that_are_named_exist_and_lead_to_ports_that_are_served() -> None:
    services, workloads = of_kind("Service"), of_kind(*WORKLOADS)
    for name, workload in of_kind("StatefulSet").items():
        assert services[workload["spec"]["serviceName"]]["spec"]["clusterIP"] == "None", name
    for name, service in services.items():
        (workload,) = (
            each
            for each in workloads.values()
            if service["spec"]["selector"].items() <= each["spec"]["template"]["metadata"]["labels"].items()
        )
        served = {port["name"] for port in _container(workload).get("ports", ())}
        assert {port["targetPort"] for port in service["spec"].get("ports", ())} <= served, name


def _container(workload: dict[str, Any]) -> dict[str, Any]:
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def test_every_volume_that_is_mounted_is_there() -> None:
    for name, workload in of_kind(*WORKLOADS).items():
        there = {each["name"] for each in workload["spec"]["template"]["spec"]["volumes"]}
        there |= {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", ())}
        assert {each["name"] for each in _container(workload)["volumeMounts"]} == there, name


def test_the_job_worker_has_a_volume_for_backups_that_outlives_its_pod() -> None:
    worker = of_kind(*WORKLOADS)["registry-jobs"]
    environment = {each["name"]: each["value"] for each in _container(worker)["env"]}
    mounted = {each["name"]: Path(each["mountPath"]) for each in _container(worker)["volumeMounts"]}
    (claimed,) = (each["metadata"]["name"] for each in worker["spec"]["volumeClaimTemplates"])
    assert mounted[claimed] in Path(environment["REPLICATOR_BACKUPS"]).parents


def test_every_pod_is_hardened_and_limited() -> None:
    for name, workload in of_kind(*WORKLOADS).items():
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False), name
        container = _container(workload)
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert set(container["resources"]) == {"requests", "limits"}, name


def test_a_node_is_given_time_to_hand_over_and_is_never_restarted_for_what_it_waits_for() -> None:
    registry = of_kind("StatefulSet")["registry"]
    pod, node = registry["spec"]["template"]["spec"], _container(registry)
    (_, waits_s) = node["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] >= int(waits_s) + 30, "as supervisord and systemd give it"
    paths = {probe: node[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/live", "livenessProbe": "/live", "readinessProbe": "/ready"}
    assert of_kind("PodDisruptionBudget")["registry"]["spec"]["maxUnavailable"] == 1
    (spread,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert spread["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"


def _patched(document: Any, patch: Any) -> Any:
    """As `kubectl patch` does it: lists of what has a name, or a mountPath, are merged by that."""
    if isinstance(document, dict) and isinstance(patch, dict):
        return document | {name: _patched(document.get(name), value) for name, value in patch.items()}
    if not (isinstance(document, list) and isinstance(patch, list)):
        return patch
    by = "mountPath" if any("mountPath" in each for each in patch) else "name"
    known = {each[by]: each for each in document}
    for each in patch:
        known[each[by]] = _patched(known.get(each[by]), each)
    return [each for each in known.values() if each.get("$patch") != "delete"]


def test_with_tls_the_probes_ask_by_https_and_the_node_has_what_it_needs() -> None:
    # given the patch that docs/kubernetes.md names
    plain = of_kind("StatefulSet")["registry"]
    patch = yaml.safe_load((MANIFESTS / "tls" / "nodes.yaml").read_text())
    patched = _patched(plain, patch)
    # then it is a manifest, and it still waits and restarts as before
    for version in VERSIONS:
        kubernetes_validate.validate(patched, version, strict=True)
    node, before = _container(patched), _container(plain)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert "scheme" not in before[probe]["httpGet"], "without TLS it is HTTP"
        assert node[probe] == before[probe] | {"httpGet": before[probe]["httpGet"] | {"scheme": "HTTPS"}}
    # and what it is told are options of the command, and files that are mounted
    told = {each["name"]: each.get("value") for each in node["env"]}
    assert told["REPLICATOR_ADVERTISE"] == re.sub("^http:", "https:", _told(before, "REPLICATOR_ADVERTISE"))
    assert "REPLICATOR_INSECURE" not in told
    options = {str(each.envvar) for each in node_command.params if isinstance(each, click.Option)}
    places = [each["mountPath"] for each in node["volumeMounts"]]
    for name in ("REPLICATOR_HTTP_CERT", "REPLICATOR_HTTP_KEY", "REPLICATOR_HTTP_TOKENS"):
        assert name in options
        assert str(Path(told[name]).parent) in places
    volumes = {each["name"] for each in patched["spec"]["template"]["spec"]["volumes"]}
    assert {each["name"] for each in node["volumeMounts"]} - volumes == {"data"}, "of the volumeClaimTemplates"


def _told(container: dict[str, Any], name: str) -> str:
    return str(next(each["value"] for each in container["env"] if each["name"] == name))


def test_the_load_balancer_is_that_of_the_documentation_and_knows_every_node(tmp_path: Path) -> None:
    text = of_kind("ConfigMap")["registry-haproxy"]["data"]["haproxy.cfg"]
    begins, ends = text.index("# Pods get another address"), text.index("defaults\n")
    without = text[:begins] + text[ends:]
    assert without.replace(" resolvers cluster init-addr libc,none", "") == HAPROXY.read_text()
    assert "parse-resolv-conf" in text[begins:ends]
    pods = pods_of(DOCUMENTS, directory=tmp_path, secrets={"redis": {"password": "p"}})
    told = pods["registry-haproxy-0"].container.environment
    nodes = [told[f"REPLICATOR_NODE_{name}"].removesuffix(":8000") for name in "ABC"]
    assert all(node in pods[f"registry-{number}"].aliases for number, node in enumerate(nodes))


def test_a_redirect_names_a_node_as_others_in_the_cluster_know_it(tmp_path: Path) -> None:
    pods = pods_of(DOCUMENTS, directory=tmp_path, secrets={"redis": {"password": "p"}})
    for number in range(3):
        pod = pods[f"registry-{number}"]
        told = pod.container.environment
        assert told["REPLICATOR_NAME"] == pod.name
        assert re.fullmatch(r"http://(.*):8000", told["REPLICATOR_ADVERTISE"])[1] in pod.aliases  # type: ignore[index]


def test_a_node_answers_under_every_name_by_which_the_cluster_knows_it(tmp_path: Path) -> None:
    pods = pods_of(DOCUMENTS, directory=tmp_path, secrets={"redis": {"password": "p"}})
    # HAProxy hands on the name under which it was asked itself.
    balanced = ("registry", "registry-any", "registry-primary")
    assert of_kind("Service").keys() >= set(balanced)
    for number in range(3):
        pod = pods[f"registry-{number}"]
        told = pod.container.environment
        hosts = Hosts("0.0.0.0", advertised=told["REPLICATOR_ADVERTISE"], more=told["REPLICATOR_HTTP_HOST"].split())
        for service in balanced:
            for suffix in ("", f".{NAMESPACE}", f".{NAMESPACE}.svc", f".{NAMESPACE}.svc.cluster.local"):
                assert hosts.knows(f"{service}{suffix}:8000")
        assert all(map(hosts.knows, pod.aliases))
        assert hosts.knows("10.244.0.7:8000"), "the kubelet asks by the address of the pod"
        assert not hosts.knows("evil.example")
