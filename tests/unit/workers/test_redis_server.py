from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from replicator.workers.redis_server import listening_place

from replicator.errors import ConfigError
from replicator.log.redis_log import client_for
from replicator.sandbox.free_ports import free_port
from replicator.sandbox.redis_server import find_server
from tests.support.kv import PATIENCE_S, eventually


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("unix:///tmp/x/redis.sock", (Path("/tmp/x/redis.sock"), None)),
        ("unix:///tmp/a%20b/redis.sock?db=1", (Path("/tmp/a b/redis.sock"), None)),
        ("redis://127.0.0.1:7001/0", (None, 7001)),
        ("redis://localhost", (None, 6379)),
    ],
)
def test_the_server_listens_where_the_clients_look(url: str, place: tuple[Path | None, int | None]) -> None:
    assert listening_place(url) == place


@pytest.mark.parametrize(
    "url",
    [
        "redis://10.0.0.1:6379",
        "redis://0.0.0.0:6379",
        "redis://user:secret@127.0.0.1",
        "redis://127.0.0.1?password=secret",
        "rediss://127.0.0.1",
        "redis://127.0.0.1:99999",
        "unix://",
        "",
    ],
)
def test_a_place_that_is_not_on_this_machine_or_takes_a_password_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="REPLICATOR_REDIS") as caught:
        listening_place(url)

    assert "secret" not in str(caught.value)


def test_with_a_password_file_it_asks_for_that_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text('a "b\\c # é\n')
    file.chmod(0o600)
    url = f"redis://127.0.0.1:{free_port()}/0?password_file={file}"
    environment = {**os.environ, "REPLICATOR_DEV_DIR": str(tmp_path), "REPLICATOR_REDIS": url}
    process = subprocess.Popen([sys.executable, "-m", "replicator.workers.redis_server"], env=environment)
    try:
        with client_for(url) as client:
            eventually(lambda: _answers(client))
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(url.partition("?")[0]).ping()
        assert b"b\\c" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    file.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "replicator.workers.redis_server"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, str(file) in done.stderr) == (2, True)


def test_it_becomes_the_server_and_ends_with_its_exit_code(tmp_path: Path) -> None:
    # given the environment that the dev stack gives
    url = f"redis://127.0.0.1:{free_port()}/0"
    environment = {**os.environ, "REPLICATOR_DEV_DIR": str(tmp_path), "REPLICATOR_REDIS": url}

    # when it is run
    process = subprocess.Popen([sys.executable, "-m", "replicator.workers.redis_server"], env=environment)
    try:
        info = _info(url)

        # then the server has its very process id and directory, and SIGTERM ends it cleanly
        assert info["process_id"] == process.pid
        assert any((tmp_path / "redis").iterdir())
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


def test_a_missing_setting_is_named_and_the_exit_code_says_usage(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}

    result = subprocess.run(
        [sys.executable, "-m", "replicator.workers.redis_server"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 2
    assert "REPLICATOR_DEV_DIR" in result.stderr
    assert "Traceback" not in result.stderr


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _info(url: str) -> dict[str, object]:
    deadline = time.monotonic() + PATIENCE_S
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                info: dict[str, object] = client.info("server")
                return info
            except redis.ConnectionError:
                assert time.monotonic() < deadline, f"{find_server().id} did not start"
                time.sleep(0.02)
