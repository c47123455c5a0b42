"""TLS with a real Redis and a real Sentinel: what is verified, and what is said where that fails."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from replicator import Node
from replicator.cli import cli
from replicator.errors import ConfigError, LogUnavailable
from replicator.format.ids import ERA
from replicator.log.finders import client_for
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import Code
from replicator.sandbox.free_ports import free_port
from replicator.sandbox.redis_server import RedisServer, ServerBinary
from tests.support.certificates import Authority
from tests.support.kv import KV, LEASE_S, PATIENCE_S, eventually, in_step
from tests.support.kv import push as change
from tests.support.needs import needs
from tests.support.tls_redis import PACKAGE, tls_server
from tests.support.topology import CALM_MS, DOWN_AFTER_MS
from tests.support.worlds import lead

PASSWORD = "of-redis"
OF_SENTINEL = "of-the-sentinel"

Url = Callable[..., str]


@pytest.fixture(scope="module")
def binary() -> ServerBinary:
    binary = tls_server()
    needs(binary is not None, PACKAGE)
    assert binary is not None
    return binary


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates and passwords, by their names."""
    directory = tmp_path_factory.mktemp("files")
    authority, other = Authority(directory), Authority(directory, "other-authority")
    authority.issue("server")
    authority.issue("expired", days=-1)
    authority.issue("elsewhere", hosts=("redis.internal",))
    authority.issue("client")
    authority.issue("locked", password="of the key")
    other.issue("stranger")
    for name, text in (("redis", PASSWORD), ("sentinel", OF_SENTINEL), ("key", "of the key")):
        (directory / f"{name}.password").write_text(f"{text}\n")
        (directory / f"{name}.password").chmod(0o600)
    return directory


def tls(files: Path, port: int, **further: Any) -> dict[str, Any]:
    """The directives of a Redis with TLS, that wants a password."""
    both = str(files / "server.pem")
    return {
        "tls-port": port,
        "tls-cert-file": both,
        "tls-key-file": both,
        "tls-ca-cert-file": str(files / "authority.pem"),
        "tls-auth-clients": "optional",
        "tls-replication": "yes",
        "requirepass": PASSWORD,
        "masterauth": PASSWORD,
        **further,
    }


class Server(RedisServer):
    """Without a port for plain text. Its unix socket is for the test."""

    def __init__(self, directory: Path, binary: ServerBinary, files: Path, **further: Any) -> None:
        self.tls_port = free_port()
        super().__init__(directory, binary=binary, config=tls(files, self.tls_port, **further))

    def admin(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, password=PASSWORD)


@pytest.fixture(scope="module")
def _server(binary: ServerBinary, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("redis"), binary, files) as server:
        yield server


@pytest.fixture
def server(_server: Server, files: Path) -> Iterator[Server]:
    yield _server
    with _server.admin() as admin:
        admin.flushall()
        admin.config_set("tls-auth-clients", "optional")
        both = str(files / "server.pem")
        admin.execute_command("CONFIG", "SET", "tls-cert-file", both, "tls-key-file", both)


@pytest.fixture
def url(server: Server, files: Path) -> Url:
    def url(host: str = "127.0.0.1", *, ca: str | None = "authority.pem", **options: Any) -> str:
        given = {"password_file": files / "redis.password", **({"ssl_ca_certs": files / ca} if ca else {}), **options}
        return f"rediss://{host}:{server.tls_port}/0?" + "&".join(f"{name}={value}" for name, value in given.items())

    return url


def problem(url: str) -> str:
    with closing(RedisLog(url, "g")) as log, pytest.raises(LogUnavailable) as caught:
        log.look()
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


def test_two_nodes_replicate_over_tls(url: Url, tmp_path: Path) -> None:
    with ExitStack() as stack:
        a, b = (
            stack.enter_context(
                Node(KV(), group="g", name=name, redis=url("localhost"), data_dir=tmp_path / name, lease_s=LEASE_S)
            )
            for name in "ab"
        )
        a.promote(timeout_s=PATIENCE_S)
        a.submit(change("x"), timeout_s=PATIENCE_S)
        in_step(a, b)


def test_jobs_have_a_client_that_verifies_as_well(url: Url) -> None:
    with client_for(url()) as client:
        assert client.ping()
    with client_for(url(ca=None)) as client, pytest.raises(redis.exceptions.ConnectionError, match="VERIFY_FAILED"):
        client.ping()


@pytest.mark.parametrize(
    ("certificate", "says", "do"),
    [
        ("expired", "certificate has expired", "has to be renewed"),
        ("elsewhere", "not valid for '127.0.0.1'", "does not have that address"),
        ("stranger", "unable to get local issuer certificate", "?ssl_ca_certs=FILE"),
    ],
)
def test_a_certificate_that_is_not_to_be_believed_is_refused_and_why(
    certificate: str, says: str, do: str, server: Server, files: Path, url: Url
) -> None:
    both = str(files / f"{certificate}.pem")
    with server.admin() as admin:
        admin.execute_command("CONFIG", "SET", "tls-cert-file", both, "tls-key-file", both)
    said = problem(url())
    assert says in said
    assert do in said
    if certificate == "elsewhere":
        assert "its certificate is of another host" in problem(url("localhost"))


def test_a_server_that_wants_a_certificate_gets_one(server: Server, files: Path, url: Url) -> None:
    with server.admin() as admin:
        admin.config_set("tls-auth-clients", "yes")
    assert "if it wants a certificate, the URL has ?ssl_certfile=FILE" in problem(url())
    # OpenSSL says why, if the reason comes before the end of the connection.
    unknown = "it does not know who signed the certificate of this side|it may not take the certificate of this side"
    assert re.search(unknown, problem(url(ssl_certfile=files / "stranger.pem")))
    expired = "of this side, .ssl_certfile=, has expired|it may not take the certificate of this side"
    assert re.search(expired, problem(url(ssl_certfile=files / "expired.pem")))
    ours = {"ssl_certfile": files / "client.pem", "ssl_keyfile": files / "client.key"}
    locked = {"ssl_certfile": files / "locked.pem", "ssl_password_file": files / "key.password"}
    for options in (ours, locked):
        with closing(RedisLog(url(**options), "g")) as log:
            assert log.look().head is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ssl_ca_certs": "none.pem"}, "ssl_ca_certs: there is no '"),
        ({"ssl_ca_certs": "redis.password"}, "ssl_ca_certs: .*it has not what it should, in PEM"),
        ({"ssl_certfile": "authority.pem"}, "ssl_certfile: .*it has not what it should, in PEM"),
        ({"ssl_certfile": "client.pem", "ssl_keyfile": "stranger.key"}, "the key is not that of the certificate"),
        ({"ssl_certfile": "locked.pem"}, "the key is encrypted, and ssl_password_file is missing"),
        ({"ssl_keyfile": "client.key"}, "and there is no ssl_certfile"),
    ],
)
def test_a_file_that_does_not_do_is_named_before_anything_connects(
    options: dict[str, str], says: str, files: Path
) -> None:
    given = "&".join(f"{name}={files / value}" for name, value in options.items())
    with pytest.raises(ConfigError, match=says):
        RedisLog(f"rediss://127.0.0.1:1/0?{given}", "g")


def test_a_password_that_was_changed_counts_from_the_next_connection_on(server: Server, files: Path) -> None:
    path = files / "rotated.password"
    path.write_text(PASSWORD)
    path.chmod(0o600)
    place = f"rediss://127.0.0.1:{server.tls_port}/0?ssl_ca_certs={files}/authority.pem&password_file={path}"
    with closing(RedisLog(place, "g")) as log, server.admin() as admin:
        author = lead(log)
        author.append()
        try:
            admin.config_set("requirepass", "a new one")
            assert author.append().code is Code.OK, "a connection that is open stays"
            admin.client_kill_filter(skipme=True)
            eventually(lambda: "the password, of the URL or its file, is wrong" in _refusal(log))
            path.unlink()
            assert "the file of the password cannot be used" in _refusal(log)
            path.write_text("a new one\n")
            path.chmod(0o600)
            assert log.look().term == 1
        finally:
            admin.config_set("requirepass", PASSWORD)


def _refusal(log: RedisLog) -> str:
    try:
        log.look()
    except LogUnavailable as error:
        return str(error)
    return ""


def test_doctor_sees_how_it_is_reached(url: Url, server: Server, files: Path) -> None:
    def said(redis_url: str) -> dict[str, str]:
        result = CliRunner().invoke(cli, ["--redis", redis_url, "--group", "g", "doctor"])
        rows = [line.split(None, 2) for line in result.stdout.splitlines()]
        return {row[0]: " ".join(row[1:]) for row in rows if len(row) == 3 and row[0] in ("connection", "password")}

    with closing(RedisLog(url(), "g")) as log:
        lead(log)
    assert said(url()) == {"connection": "ok it goes over TLS, and the server's certificate is verified"}
    assert "warning TLS does not verify the server" in said(url(ssl_cert_reqs="none"))["connection"]
    assert "warning TLS does not verify the server" in said(url(ssl_check_hostname="no"))["connection"]
    (files / "redis.password").chmod(0o644)
    try:
        assert "warning others than its owner may read" in said(url())["password"]
    finally:
        (files / "redis.password").chmod(0o600)
    over_socket = f"{server.url}?password_file={files}/redis.password"
    assert said(over_socket) == {"connection": "ok it goes over a socket of this machine"}


# --- sentinels -------------------------------------------------------------------------------------------------------


def test_sentinels_have_tls_and_a_password_of_their_own(binary: ServerBinary, files: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        master = stack.enter_context(Server(tmp_path / "redis-0", binary, files))
        follow = {"replicaof": ["127.0.0.1", str(master.tls_port)]}
        replica = stack.enter_context(Server(tmp_path / "redis-1", binary, files, **follow))
        with replica.admin() as admin:
            eventually(lambda: admin.info("replication")["master_link_status"] == "up")
        sentinel = stack.enter_context(closing(SentinelWithTLS(tmp_path, binary, files, master.tls_port)))
        ca = f"ssl_ca_certs={files}/authority.pem&password_file={files}/redis.password"
        place = f"rediss+sentinel://127.0.0.1:{sentinel.port}/main/0?{ca}"
        log = stack.enter_context(closing(RedisLog(f"{place}&{sentinel.login}", "g", timeout_s=PATIENCE_S)))
        eventually(lambda: _refusal(log) == "")
        assert "its password goes into the URL as ?sentinel_password=" in problem(place)
        assert "?ssl_ca_certs=FILE" in problem(place.replace("authority.pem", "other-authority.pem"))
        assert lead(log).append().code is Code.OK
        eventually(sentinel.knows_the_replica)
        sentinel.take_for_dead_after(DOWN_AFTER_MS)
        master.kill()
        eventually(lambda: _refusal(log) == "")
        assert lead(log, "b").term == ERA + 1


class SentinelWithTLS:
    """One that decides alone. Its user is the one that `replicator acl sentinel` prints."""

    def __init__(self, directory: Path, binary: ServerBinary, files: Path, master: int) -> None:
        self.port = free_port()
        self._files = files
        printed = CliRunner().invoke(
            cli,
            ["--group", "g", "acl", "sentinel", "--aclfile", "--password-file", str(files / "sentinel.password")],
        )
        path = directory / "sentinel.conf"
        path.write_text(
            "\n".join(
                [
                    "port 0",
                    "bind 127.0.0.1",
                    f"dir {directory}",
                    *(f"{name} {value}" for name, value in _for_sentinel(files, self.port).items()),
                    f"requirepass {PASSWORD}{OF_SENTINEL}",
                    printed.stdout.strip(),
                    f"sentinel monitor main 127.0.0.1 {master} 1",
                    f"sentinel auth-pass main {PASSWORD}",
                    f"sentinel down-after-milliseconds main {CALM_MS}",
                    "sentinel failover-timeout main 2000",
                    "",
                ]
            )
        )
        with (directory / "sentinel.log").open("w") as log:
            self._process = subprocess.Popen([str(binary.path), str(path), "--sentinel"], stdout=log, stderr=log)

    @property
    def login(self) -> str:
        return f"sentinel_username=g-sentinel&sentinel_password_file={self._files}/sentinel.password"

    def _client(self) -> redis.Redis:
        authority = str(self._files / "authority.pem")
        return redis.Redis(port=self.port, ssl=True, ssl_ca_certs=authority, password=f"{PASSWORD}{OF_SENTINEL}")

    def knows_the_replica(self) -> bool:
        with self._client() as client:
            return bool(client.sentinel_master("main")["num-slaves"] == 1)

    def take_for_dead_after(self, ms: int) -> None:
        with self._client() as client:
            client.sentinel_set("main", "down-after-milliseconds", ms)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _for_sentinel(files: Path, port: int) -> dict[str, Any]:
    return {name: value for name, value in tls(files, port).items() if name.startswith("tls-")}
