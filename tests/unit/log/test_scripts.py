"""The scripts as resources of the package, and what their headers say of them."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from replicator.log.redis_log import RedisLog
from replicator.log.scripts import INCLUDED, SCRIPTS

LUA = resources.files("replicator.log") / "lua"
KEYS = ("term", "log", "head", "lease", "requests", "nodes", "acks", "history", "probe")


def source(name: str) -> str:
    return (LUA / f"{name}.lua").read_text()


def header(name: str) -> str:
    """The comment at the top."""
    lines = source(name).splitlines()
    return "\n".join(line for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("--"))])


def test_the_package_holds_these_scripts_and_no_others() -> None:
    assert {entry.name for entry in LUA.iterdir()} == {f"{name}.lua" for name in (*SCRIPTS, *INCLUDED)}


@pytest.mark.parametrize("name", [*SCRIPTS, "fence"])
def test_every_key_that_a_script_uses_stands_in_its_header(name: str) -> None:
    used = {int(number) for number in re.findall(r"KEYS\[(\d)\]", source(name))}
    said = header(name) + header("fence")
    for number in used:
        assert re.search(rf"KEYS\[{number}\]|KEYS .*\b{KEYS[number - 1]}\b", said), KEYS[number - 1]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_argument_that_a_script_uses_stands_in_its_header(name: str) -> None:
    said = header(name)
    spans = [(int(first), int(last or first)) for first, last in re.findall(r"ARGV\[(\d+)(?:-(\d+))?\]", said)]
    for number in {int(number) for number in re.findall(r"ARGV\[(\d+)\]", source(name))}:
        assert any(first <= number <= last for first, last in spans), number


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_answer_of_a_script_stands_in_its_header(name: str) -> None:
    said = header(name) + (header("append") if name == "part" else "") + header("fence")
    assert "Answers" in said
    for answer in re.findall(r"return \{ '(\w+)'", source(name)):
        assert answer in said, answer


@pytest.mark.parametrize("name", ["append", "part", "promote"])
def test_a_script_checks_everything_before_its_first_write(name: str) -> None:
    """What comes after the first write cannot refuse any more: a script that fails midway is not rolled back."""
    body = source(name)
    first_write = body.index("add(id," if name != "promote" else "redis.call('XADD'")
    after = body[first_write:].split("\n", 1)[1]
    assert "error_reply" not in after
    assert set(re.findall(r"return \{ '(\w+)'", after)) <= {"ok", "halfway"}


@pytest.mark.parametrize("name", ["append", "part", "promote", "pause", "yield", "beat", "forget"])
def test_what_a_later_write_refuses_is_no_error(name: str) -> None:
    """Of an error the caller thinks that nothing was written."""
    calls = re.findall(r"redis\.call\('(\w+)'", source(name))
    writes = [call for call in calls if call in ("XADD", "XTRIM", "HSET", "SET", "INCR", "DEL", "HDEL")]
    assert len(writes) <= (2 if name == "promote" else 1), "of a broken log, what is deleted first is of no use"


def test_the_keys_of_a_group_share_one_hash_tag() -> None:
    log = RedisLog("redis://127.0.0.1:1", "registry")
    assert [key.decode() for key in log._keys] == [f"replicator:{{registry}}:{name}" for name in KEYS]
