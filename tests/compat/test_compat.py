"""What earlier commits wrote is read, and goes on; nodes of the last release and of today are one group.

docs/compatibility.md says what is promised. fixtures/ has what `make.py` had each commit write.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from replicator import Node
from replicator.archive import backup
from replicator.cli import cli
from replicator.format.ids import RecordId
from replicator.sandbox.redis_server import RedisServer
from replicator.storage import forks
from replicator.storage.checkpoint_reader import CheckpointReader
from tests.compat.group import STATE, Group, NoSuchCommit, code_of, load
from tests.compat.make import FIXTURES, surface_of
from tests.compat.program import GROUP, Counters
from tests.support.kv import LEASE_S, PATIENCE_S, eventually

#: What was last released, or is to be: its nodes and today's are one group, and what programs name of it stays.
LAST_RELEASE = "94db9d597946"

#: Before there was a release the tail of an archive's segments changed. Such an archive is refused, and never misread.
OTHER_SEGMENTS = ("632c6c611878",)

WRITTEN_BY = sorted(path.name.removesuffix(".tar.gz") for path in FIXTURES.glob("*.tar.gz"))


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a commit wrote; `about`: what is in it."""

    directory: Path
    about: dict[str, Any]

    @property
    def expected(self) -> dict[str, int]:
        return dict(self.about["expected"])

    @property
    def archived(self) -> dict[str, int]:
        return dict(self.about["archived"])

    def copy_of(self, name: str, directory: Path) -> Path:
        return Path(shutil.copytree(self.directory / name, directory / name))

    def part(self, name: str) -> Path:
        path = self.directory / name
        if not path.exists():
            pytest.skip(f"{self.about['commit']} could not write one yet: {name}")
        return path


def unpacked(name: str, directory: Path) -> Written:
    with tarfile.open(FIXTURES / f"{name}.tar.gz") as packed:
        packed.extractall(directory, filter="data")
    return Written(directory=directory, about=json.loads((directory / "about.json").read_text()))


@pytest.fixture(scope="module", params=WRITTEN_BY)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return unpacked(request.param, tmp_path_factory.mktemp("written"))


@pytest.fixture(scope="module")
def last_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its code."""
    try:
        return code_of(LAST_RELEASE, tmp_path_factory.mktemp("released"))
    except NoSuchCommit as missing:
        pytest.skip(str(missing))


@pytest.fixture
def mixed(any_redis: RedisServer, tmp_path: Path) -> Iterator[Group]:
    group = Group(any_redis, tmp_path)
    yield group
    group.stop()


def command(*args: object) -> str:
    result = CliRunner().invoke(cli, [*map(str, args)])
    assert result.exit_code == 0, result.output
    return result.stdout


# What was written


def test_a_log_and_checkpoints_go_on_and_a_new_node_joins(
    written: Written, any_redis: RedisServer, tmp_path: Path
) -> None:
    # given the log in another Redis, and what the nodes had
    load(any_redis.url, json.loads((written.directory / "log.json").read_text()))
    last_id = max(position(written.directory / name) for name in "ab")
    dirs = {name: written.copy_of(name, tmp_path) for name in "ab"} | {"c": tmp_path / "c"}

    # then nodes of today go on from there: the two with what they have, the third with what the log has
    with ExitStack() as stack:
        nodes = {
            name: stack.enter_context(
                Node(Counters(), group=GROUP, name=name, redis=any_redis.url, data_dir=path, lease_s=LEASE_S)
            )
            for name, path in dirs.items()
        }
        for node in nodes.values():
            eventually(lambda node=node: read(node) == written.expected, "what was there")  # type: ignore[misc]
        nodes["c"].promote(force=True, timeout_s=PATIENCE_S)
        assert nodes["c"].submit(["sum", 1]) == written.expected["sum"] + 1
        if "keyed" in written.expected:
            assert nodes["c"].submit(["keyed", 7], key="order-1") == 7, "it landed when it was written"
        told = json.loads(command("--redis", any_redis.url, "--group", GROUP, "verify", "--json"))
        assert (told["equal"], sorted(told["digests"])) == (True, ["a", "b", "c"])

    # and none of them began anew
    assert [path.name for name in "ab" for path in dirs[name].iterdir() if "damaged" in path.name] == []
    for name in "ab":
        assert position(dirs[name]) > last_id


def test_log_and_checkpoints_stand_the_proof(written: Written, any_redis: RedisServer) -> None:
    load(any_redis.url, json.loads((written.directory / "log.json").read_text()))
    dirs = [word for name in "ab" for word in ("--data-dir", written.directory / name)]
    redis_args = ("--redis", any_redis.url, "--group", GROUP)
    told = json.loads(command(*redis_args, "certify", *dirs, "--state", STATE, "--no-verify", "--json"))
    assert [node["node"] for node in told["nodes"]] == ["a", "b"]


def test_a_fork_is_read(written: Written) -> None:
    (path,) = forks.paths([written.directory / "a"])
    assert [change.change for change in forks.divergent(forks.read(path))] == [["lost", 1], ["sum", 100]]


def test_an_archive_gives_its_state(written: Written, tmp_path: Path) -> None:
    place = written.part("archive")
    if written.about["commit"] in OTHER_SEGMENTS:
        result = CliRunner().invoke(cli, ["restore", "--archive", str(place), "--state", STATE, "--to", "/dev/null"])
        assert result.exit_code == 1
        assert "it does not end as a segment does" in result.output
        return
    command("restore", "--archive", place, "--state", STATE, "--to", tmp_path / "state")
    rows = [json.loads(line) for line in (tmp_path / "state").read_text().splitlines()]
    assert dict(rows) == written.archived


def test_a_backup_gives_its_state(written: Written) -> None:
    with backup.opened(written.part("backup")) as opened:
        state = Counters()
        state.restore(opened.pieces())
    assert state.numbers == written.archived


# The last release beside today


def test_nodes_of_the_last_release_and_of_today_lead_one_after_the_other(last_release: Path, mixed: Group) -> None:
    mixed.start("old", last_release)
    mixed.start("new")
    # the old one leads
    mixed.promote("old", code=last_release)
    mixed.add("old", "sum", 1, key="first")
    mixed.equal()
    # over to the new one, by an old command
    mixed.command("switchover", "--to", "new", "--timeout", PATIENCE_S, code=last_release)
    mixed.add("new", "sum", 2, key="second")
    mixed.command("snapshot")
    mixed.add("new", "sum", 4)
    mixed.equal()
    assert mixed.nodes["new"].tell(add=["sum", 1], key="first") == 1, "the old one took it"
    # and back after a crash, by a new one
    mixed.nodes.pop("new").kill()
    mixed.promote("old", "--force", "--yes")
    mixed.add("old", "sum", 8)
    mixed.command("snapshot", code=last_release)
    mixed.start("new")
    mixed.equal()
    # a new node of either code takes the other's snapshot
    mixed.start("late", last_release)
    mixed.equal()
    for code in (None, last_release):
        told = json.loads(mixed.command("verify", "--json", code=code))
        assert (told["equal"], sorted(told["digests"])) == (True, ["late", "new", "old"])
    # what it wrote today, the last release goes on with: the way back
    mixed.stop("new")
    mixed.start("new", last_release)
    mixed.equal()
    assert {name for name in mixed.nodes if list((mixed.directory / name).glob("forks/*"))} == set()
    # none began anew from the log
    assert [path.name for path in mixed.directory.glob("*/*damaged*")] == []


def test_what_programs_name_is_still_there(tmp_path: Path) -> None:
    then = json.loads((unpacked(LAST_RELEASE, tmp_path).directory / "surface.json").read_text())
    now = surface_of(None)
    for kind, names in then.items():
        assert set(names) - set(now[kind]) == set(), kind
        gone = {name: set(parts) - set(now[kind][name]) for name, parts in names.items()}
        assert {name: parts for name, parts in gone.items() if parts} == {}, kind


def test_what_status_tells_programs_is_still_there(any_redis: RedisServer, tmp_path: Path) -> None:
    earlier = unpacked(LAST_RELEASE, tmp_path)
    load(any_redis.url, json.loads((earlier.directory / "log.json").read_text()))
    result = CliRunner().invoke(cli, ["--redis", any_redis.url, "--group", GROUP, "status", "--json"])
    then, now = json.loads((earlier.directory / "status.json").read_text()), json.loads(result.stdout)
    assert set(then) - set(now) == set()
    assert now["nodes"]
    assert set(then["nodes"][0]) - set(now["nodes"][0]) == set()


def read(node: Node[Any]) -> dict[str, int]:
    with node.reading() as state:
        return dict(state.numbers)


def position(data_dir: Path) -> RecordId:
    with CheckpointReader(data_dir / "checkpoint.sqlite") as stored:
        return stored.view.position.id
