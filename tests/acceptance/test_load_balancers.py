"""The story of the load balancers (load_balancers.py) as a test, and the two files before it is played."""

from __future__ import annotations

import http.client
import subprocess
from pathlib import Path

import pytest

from replicator.sandbox.free_ports import free_ports
from tests.acceptance import load_balancers as story
from tests.support.kv import eventually
from tests.support.needs import needs

DOCS = story.ROOT / "docs" / "load-balancers.md"

PORTS = dict(zip(story.NAMES, (1, 2, 3), strict=True))


@pytest.fixture(autouse=True)
def _installed() -> None:
    needs(story.are_installed(), "haproxy and nginx")


def test_no_answer_through_a_load_balancer_is_wrong_whatever_befalls_the_primary(tmp_path: Path) -> None:
    transcript: list[str] = []

    wrong = story.run(tmp_path, rounds=1, lease_s=2.0, say=transcript.append)
    print(*transcript, sep="\n")

    assert wrong == []


def test_haproxy_has_nothing_to_say_about_its_file(tmp_path: Path) -> None:
    program = story.haproxy_program(free_ports(1)[0], PORTS, tmp_path)
    command = ["haproxy", "-c", "-q", "-dW", "-f", str(story.HAPROXY_CFG)]
    checked = subprocess.run(command, env=program._environment, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_nginx_has_nothing_to_say_about_its_file(tmp_path: Path) -> None:
    program = story.nginx_program(free_ports(1)[0], PORTS, tmp_path)
    checked = subprocess.run([*program._command, "-t", "-q"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_what_the_public_is_refused_is_refused_in_every_spelling(tmp_path: Path) -> None:
    # given the file with the rule of the documentation, and no node: what passes is 503
    rule = next(line for line in DOCS.read_text().splitlines() if line.startswith("http-request deny"))
    (port,) = free_ports(1)
    program = story.haproxy_program(port, PORTS, tmp_path)
    config = tmp_path / "haproxy.cfg"
    config.write_text(story.HAPROXY_CFG.read_text().replace("    acl is_read", f"    {rule}\n    acl is_read"))
    haproxy = subprocess.Popen(["haproxy", "-db", "-f", str(config)], env=program._environment)
    try:
        eventually(lambda: _status(port, "/v1/nodes") == 503)
        for path in ("/cluster", "/%63luster", "/metrics", "/ui", "/%75i/events", "/ui/", "/history?x=1"):
            assert _status(port, path) == 404, path
        assert _status(port, "/uix") == 503
    finally:
        haproxy.terminate()
        haproxy.wait()


def _status(port: int, path: str) -> int | None:
    """None: no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
