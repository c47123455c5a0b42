"""Services of others, which keep files in a directory and know of no replication, fail over: devpi and Radicale."""

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from examples.devpi.__main__ import programs as devpi_programs
from replicator import ops
from replicator.log.redis_log import RedisLog
from replicator.sandbox.free_ports import free_ports
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import eventually

#: Programs start, on a machine that is busy.
PATIENCE_S = 120.0

ITEM = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:VEVENT\r\nUID:{0}\r\nDTSTAMP:20260101T000000Z\r\n\
DTSTART:20260101T000000Z\r\nSUMMARY:{0}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"


def client(url: str, *, auth: tuple[str, str] | None = ("user", "")) -> httpx.Client:
    return httpx.Client(base_url=url, auth=auth, trust_env=False, verify=False, timeout=PATIENCE_S)


class Pair:
    """Two nodes, `a` and `b`, each with a program that it runs while it leads, beside a directory `a-kept`, `b-kept`.

    `line`: the command of a program for a directory and a port.
    """

    def __init__(self, url: str, at: Path, line: Callable[[Path, int], str], *options: str) -> None:
        self._url = url
        self.at = at
        self._line = line
        self._options = options
        self.ports = dict(zip("ab", free_ports(2), strict=True))
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = [
            sys.executable, "-m", "replicator.workers.node", "--name", name, "--data-dir", str(self.at / name),
            "--dir", str(self.kept(name)), "--run", self._line(self.kept(name), self.ports[name]),
            "--lease-s", "3", "--publish-every-s", "0.1", *self._options,
        ]  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if not key.startswith("REPLICATOR_")}
        environment |= {"REPLICATOR_REDIS": self._url, "REPLICATOR_GROUP": "g"}
        with (self.at / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, process_group=0)
        self.nodes[name] = process

    def kept(self, name: str) -> Path:
        return self.at / f"{name}-kept"

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def answers(self, name: str, path: str) -> Callable[[], bool]:
        """Whether the program of this node does, at this path, with 200."""

        def asked() -> bool:
            try:
                with client(self.url(name)) as program:
                    return program.get(path).status_code == 200
            except httpx.HTTPError:
                return False

        return asked

    def is_published(self, log: RedisLog, path: str) -> None:
        """Wait until the standby has the file, and all that was published with it."""
        eventually((self.kept("b") / path).exists, path, patience_s=PATIENCE_S)
        eventually(
            lambda: len({node.position for node in ops.status(log).nodes if node.alive}) == 1, patience_s=PATIENCE_S
        )

    def kill(self, name: str) -> None:
        """The node, and with it its program."""
        os.killpg(self.nodes[name].pid, signal.SIGKILL)
        self.nodes.pop(name).wait()

    def end(self) -> None:
        for process in self.nodes.values():
            process.terminate()
        for process in self.nodes.values():
            process.wait()


@pytest.fixture
def log(any_redis: RedisServer) -> Iterator[RedisLog]:
    log = RedisLog(any_redis.url, "g")
    yield log
    log.close()


def test_radicale_has_what_was_put_into_it_after_a_failover_and_after_a_switchover(
    any_redis: RedisServer, log: RedisLog, tmp_path: Path
) -> None:
    def line(kept: Path, port: int) -> str:
        return shlex.join([
            sys.executable, "-m", "radicale", "--config", "", "--server-hosts", f"127.0.0.1:{port}",
            "--auth-type", "none", "--storage-filesystem-folder", str(kept),
        ])  # fmt: skip

    left_out = ["--exclude", ".Radicale.cache", "--exclude", ".Radicale.lock"]
    quiesce = ["--on-quiesce", shlex.join(["sh", "-c", f"echo $REPLICATOR_QUIESCE >> {tmp_path / 'quiesced'}"])]
    pair = Pair(any_redis.url, tmp_path, line, *left_out, *quiesce, "--auto-promote")
    try:
        pair.start("a")
        eventually(pair.answers("a", "/.web/"), "Radicale on a", patience_s=PATIENCE_S)
        with client(pair.url("a")) as dav:
            assert dav.request("PROPFIND", "/user/").status_code == 207  # which makes it
            assert dav.request("MKCALENDAR", "/user/plans/").status_code == 201
            for uid in ("one", "two"):
                assert dav.put(f"/user/plans/{uid}.ics", content=ITEM.format(uid)).status_code == 201
            pair.start("b")
            pair.is_published(log, "collection-root/user/plans/two.ics")
            # when one is deleted, and another one comes, and then all of a is killed
            assert dav.delete("/user/plans/one.ics").status_code == 200
            assert dav.put("/user/plans/three.ics", content=ITEM.format("three")).status_code == 201
        pair.is_published(log, "collection-root/user/plans/three.ics")
        pair.kill("a")
        # then b serves that
        eventually(pair.answers("b", "/user/plans/three.ics"), "Radicale on b", patience_s=PATIENCE_S)
        assert not pair.answers("b", "/user/plans/one.ics")()
        # and when a comes back, and one more is put just before a switchover, that is there too
        pair.start("a")
        eventually(lambda: {node.node for node in ops.status(log).nodes if node.alive and node.ready} == {"a", "b"})
        with client(pair.url("b")) as dav:
            assert dav.put("/user/plans/four.ics", content=ITEM.format("four")).status_code == 201
        ops.switchover(log, "a", by="test", timeout_s=PATIENCE_S)
        eventually(pair.answers("a", "/user/plans/four.ics"), "Radicale on a again", patience_s=PATIENCE_S)
        assert not pair.answers("a", "/user/plans/one.ics")()

        # and the program was told to wait around each cut, and to go on
        def ended() -> bool:
            said = (tmp_path / "quiesced").read_text().split()
            # A node that is killed says no end, and one that is in the middle of a cut none yet.
            return "end" in said and said.count("begin") - said.count("end") in (0, 1)

        eventually(ended, "as many ends as begins", patience_s=PATIENCE_S)
    finally:
        pair.end()


def wheel() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("tiny/__init__.py", "answer = 42\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("tiny-1.0.dist-info/WHEEL", tags)
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return packed.getvalue()


def uploaded(url: str) -> None:
    """A wheel, to a new index."""
    with client(url, auth=None) as devpi:
        login = devpi.post("/+login", json={"user": "root", "password": ""}).json()
        devpi.auth = httpx.BasicAuth("root", login["result"]["password"])
        assert devpi.put("/root/dev", json={"type": "stage", "bases": []}).status_code == 200
        told = {":action": "file_upload", "name": "tiny", "version": "1.0", "filetype": "bdist_wheel"}
        content = {"content": ("tiny-1.0-py3-none-any.whl", wheel())}
        assert devpi.post("/root/dev/", data=told | {"pyversion": "py3"}, files=content).status_code == 200


def test_a_wheel_that_devpi_was_given_can_be_installed_from_the_other_side(
    any_redis: RedisServer, log: RedisLog, tmp_path: Path
) -> None:
    # It wants another setuptools than ours, so it is in an environment of its own.
    programs = devpi_programs()

    def line(kept: Path, port: int) -> str:
        # Its key is to be had without half a minute of processor.
        quick = ["--argon2-memory-cost", "1024", "--argon2-time-cost", "1", "--argon2-parallelism", "1"]
        return shlex.join([str(programs / "devpi-server"), "--serverdir", str(kept), "--port", str(port), *quick])

    pair = Pair(any_redis.url, tmp_path, line, "--with-sqlite", ".sqlite", "--auto-promote")
    subprocess.run(
        [programs / "devpi-init", "--serverdir", pair.kept("a"), "--no-root-pypi"], check=True, capture_output=True
    )
    try:
        pair.start("a")
        eventually(pair.answers("a", "/+api"), "devpi on a", patience_s=PATIENCE_S)
        pair.start("b")
        uploaded(pair.url("a"))
        (file,) = pair.kept("a").glob("+files/**/*.whl")
        pair.is_published(log, str(file.relative_to(pair.kept("a"))))
        # when all of a is killed
        pair.kill("a")
        eventually(pair.answers("b", "/root/dev/+simple/tiny/"), "devpi on b", patience_s=PATIENCE_S)
        # then pip finds the file and not only its name
        pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir"]
        index = f"{pair.url('b')}/root/dev/+simple/"
        command = [*pip, "install", "--no-deps", "--target", tmp_path / "out", "--index-url", index, "tiny"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "NO_PROXY": "127.0.0.1"})
        assert (tmp_path / "out/tiny/__init__.py").read_text() == "answer = 42\n"
    finally:
        pair.end()
