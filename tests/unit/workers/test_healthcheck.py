"""The health check of a container: what it asks, what it says, and that it kills what hangs, and nothing else."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from replicator.workers import healthcheck

from replicator.storage.directory_lock import DirectoryLock

#: A node as far as the check sees it: it holds the lock of its directory, and serves nothing.
HOLDS = """
import sys, time
from pathlib import Path
from replicator.storage.directory_lock import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(3600)
"""


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/live" else 503)
        self.end_headers()
        self.wfile.write(b"lag_unknown")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthcheck, "ANSWERED", tmp_path / "answered")
    monkeypatch.setattr(healthcheck, "SILENT_S", 0.0)
    monkeypatch.setenv("REPLICATOR_DATA_DIR", str(tmp_path))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whom it would kill."""
    killed: list[int] = []
    system = SimpleNamespace(environ=os.environ, kill=lambda pid, _: killed.append(pid))
    monkeypatch.setattr(healthcheck, "os", system)  # `node` ends by the real one
    return killed


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        monkeypatch.setenv("REPLICATOR_HTTP", f"127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("server")
def test_it_is_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert (healthcheck.main("live"), healthcheck.main("ready")) == (0, 1)
    assert "lag_unknown" in capsys.readouterr().out, "why it is not ready"


def test_a_node_that_has_fallen_silent_is_killed(
    server: http.server.HTTPServer, node: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    # given one that has answered, if only that it is not ready
    assert healthcheck.main("ready") == 1
    server.shutdown()
    server.server_close()
    # then
    assert healthcheck.main("ready") == 1
    assert "killed" in capsys.readouterr().out
    assert node.wait(60) == -signal.SIGKILL


def test_one_that_is_silent_for_a_moment_is_left_alone(
    server: http.server.HTTPServer, node: subprocess.Popen[bytes], killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healthcheck, "SILENT_S", 3600.0)
    assert healthcheck.main("live") == 0
    server.shutdown()
    server.server_close()
    assert healthcheck.main("live") == 1
    assert killed == []


def test_one_that_has_not_answered_yet_is_left_alone(
    node: subprocess.Popen[bytes], killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATOR_HTTP", "127.0.0.1:1")
    assert healthcheck.main("live") == 1
    # what answered last was another process, of the same number
    healthcheck.ANSWERED.write_text(f"{node.pid} 1 0.0")
    assert healthcheck.main("live") == 1
    assert killed == []


def test_the_process_is_that_of_the_lock(tmp_path: Path) -> None:
    assert healthcheck.running(tmp_path) == ""
    lock = DirectoryLock(tmp_path)
    assert healthcheck.running(tmp_path).split()[0] == str(os.getpid())
    lock.release()


@pytest.mark.parametrize("probe", ["", "alive"])
def test_what_it_does_not_know_is_an_error(probe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_HTTP", "127.0.0.1:1")
    assert healthcheck.main(probe) == 2
    monkeypatch.delenv("REPLICATOR_HTTP")
    assert healthcheck.main("live") == 2
