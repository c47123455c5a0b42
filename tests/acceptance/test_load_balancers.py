"""The story of the load balancers (load_balancers.py) as a test, and the two files before it is played."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from replicator.sandbox.free_ports import free_ports
from tests.acceptance import load_balancers as story
from tests.support.needs import needs

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
