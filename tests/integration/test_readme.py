"""The examples in README.md and docs/states.md do what they say, over a real Redis."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from replicator import Node
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import PATIENCE_S

ROOT = Path(__file__).parents[2]

EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(document: str) -> list[str]:
    return EXAMPLE.findall((ROOT / document).read_text())


def run(program: str, directory: Path) -> str:
    path = directory / "example.py"
    path.write_text(program)
    done = subprocess.run(
        [sys.executable, path], cwd=directory, capture_output=True, text=True, timeout=3 * PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def execute(program: str, names: dict[str, Any]) -> None:
    exec(compile(program, "an example", "exec", dont_inherit=True), names)


def test_the_first_example_leads_writes_and_reads(any_redis: RedisServer, tmp_path: Path) -> None:
    first = examples("README.md")[0]
    assert first.count("redis://localhost:6379/0") == 1
    assert run(first.replace("redis://localhost:6379/0", any_redis.url), tmp_path) == "True\n"
    assert (tmp_path / "data/a").is_dir()


def test_the_second_process_reads_what_the_first_one_wrote(any_redis: RedisServer, tmp_path: Path) -> None:
    first, second = (each.replace("redis://localhost:6379/0", any_redis.url) for each in examples("README.md")[:2])
    the_class, *_ = first.partition("node = Node(")
    token = run(f"{first}\nprint(token)\n", tmp_path).split()[-1]
    assert run(f"{the_class}\ntoken = {token!r}\n{second}", tmp_path) == "True\n"
    assert (tmp_path / "data/b").is_dir()


def test_the_class_of_the_documents_its_writes_and_its_test_go_together(any_redis: RedisServer, tmp_path: Path) -> None:
    the_class, writes, its_test, *_ = examples("docs/states.md")
    names: dict[str, Any] = {"pytest": pytest}
    execute(f"{the_class}\n{its_test}", names)
    names["test_percent_is_at_most_100"]()
    with Node(names["FlagState"](), group="g", name="a", redis=any_redis.url, data_dir=tmp_path) as node:
        node.promote(timeout_s=PATIENCE_S)
        execute(writes, names | {"node": node})
        with node.reading() as state:
            assert list(state.flags) == ["dark-mode"]


def test_the_mapping_of_the_documents_is_written_read_and_replaced(any_redis: RedisServer, tmp_path: Path) -> None:
    mapping = examples("docs/states.md")[3]
    made, calls = re.split(r"^node = .*\n", mapping, maxsplit=1, flags=re.MULTILINE)
    names: dict[str, Any] = {}
    execute(made, names)
    with Node(names["DictState"](), group="g", name="a", redis=any_redis.url, data_dir=tmp_path) as node:
        node.promote(timeout_s=PATIENCE_S)
        execute(calls, names | {"node": node})
        with node.reading() as flags:
            assert flags == {"dark-mode": True}
