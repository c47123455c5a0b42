"""An archive in an object store: a real S3 server, spoken to over HTTP."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from click.testing import CliRunner

from replicator.archive.archiver import Archiver, Settings
from replicator.archive.catalog import Catalog
from replicator.archive.checking import check
from replicator.archive.errors import ArchiveInUse, ArchiveUnavailable
from replicator.archive.folding import fold
from replicator.archive.object_store import ObjectStore
from replicator.archive.opening import place_of
from replicator.archive.places import Place, Taken
from replicator.archive.status import Status, read_status, write_status
from replicator.archive.target import Wanted, resolve
from replicator.cli import cli
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.kv import KV, in_thread
from tests.support.logs import Pen

URL = "s3://backups/registry"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Place]:
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    if files.exists("backups"):
        files.rm("backups", recursive=True)
    files.mkdir("backups")
    return lambda: place_of(URL)


class Scene:
    def __init__(self, place: Place) -> None:
        self.server = MemoryRedis()
        self.pen = Pen(self.server)
        self.pen.promote()
        self.now = 0.0
        self.place = place
        self.archiver = self.another(place)

    def another(self, place: Place, **settings: Any) -> Archiver:
        """Begun without a look at who is at work there: what is left is the condition of the PUT."""
        wanted = Settings(**({"snapshot_every_s": 0.0} | settings))
        archiver = Archiver(MemoryLog(self.server, "g"), place, wanted, clock=lambda: self.now)
        archiver.begin()
        return archiver

    def turns(self, count: int = 3) -> None:
        for _ in range(count):
            self.now += 10.0
            self.archiver.turn()

    def pushed(self, stack: Any, at: str = "latest") -> list[Any]:
        target = resolve(Catalog(self.place), Wanted.parse(at))
        return next(iter(fold(target, stack, make_state=KV).pieces()))[1]


def test_what_was_archived_can_be_had_again(store: Callable[[], Place], stack: Any) -> None:
    scene = Scene(store())
    ids = []
    for number in range(4):
        ids.append(str(scene.pen.change(number).id))
        scene.turns(2)
    check(Catalog(store()), rules=True)
    for count, id_ in enumerate(ids, 1):
        assert scene.pushed(stack, id_) == list(range(count))
    status = read_status(store())
    assert status is not None
    assert status.position == ids[-1]
    shown = CliRunner().invoke(cli, ["show", "--archive", URL, "--output", "json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)["archive"]["segment_count"] == 4


def test_of_two_archivers_one_is_refused_by_the_put(store: Callable[[], Place]) -> None:
    scene = Scene(store())
    other = scene.another(store())
    scene.pen.change(1)
    scene.turns(2)
    scene.pen.change(2)
    scene.archiver = other
    with pytest.raises(ArchiveInUse, match="who wrote 000001/0000000001"):
        scene.turns()
    check(Catalog(store()), rules=True)


def test_a_put_whose_answer_was_lost_may_be_repeated(store: Callable[[], Place]) -> None:
    place = store()
    place.publish("000001/0000000001.segment", b"one")
    place.publish("000001/0000000001.segment", b"one")
    with pytest.raises(Taken):
        place.publish("000001/0000000001.segment", b"two")
    assert place.read("000001/0000000001.segment") == b"one"


def test_a_list_that_lags_is_only_a_beginning(
    store: Callable[[], Place], stack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(store())
    for number in range(4):
        scene.pen.change(number)
        scene.turns(2)
    names = ObjectStore.names
    monkeypatch.setattr(ObjectStore, "names", lambda self: names(self)[:-2])
    assert scene.pushed(stack) == [0, 1, 2, 3]
    scene.archiver = scene.another(store())
    scene.pen.change(4)
    scene.turns()
    assert scene.pushed(stack) == [0, 1, 2, 3, 4]


def test_an_archiver_that_is_at_work_is_noticed(store: Callable[[], Place]) -> None:
    place = store()
    working = Status(group="g", host="there", every_ms=20_000)  # for so long, and longer, it may be late
    write_status(place, working)
    going: list[bool] = [True]

    def work() -> None:
        while going:
            write_status(place, working)

    done = in_thread(work)
    try:
        with pytest.raises(ArchiveInUse, match="there is archiving there"), store().held():
            pass
    finally:
        going.clear()
        done()
    working.every_ms = 300
    write_status(place, working)
    with store().held():
        pass  # it does not say anything any more
    working.ended = True
    write_status(place, working)
    with store().held():
        pass


def test_a_store_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
    # given a port that is taken, and at which nobody listens
    silent = stack.enter_context(socket.socket())
    silent.bind(("127.0.0.1", 0))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ArchiveUnavailable, match="s3://backups/registry cannot be read or written"):
        place_of(URL).names()
