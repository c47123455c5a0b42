"""A node that asks for tokens, over HTTPS, as its clients, its operators and strangers meet it."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from click.testing import CliRunner, Result

from replicator import ConfigError, NotAllowed, ops
from replicator.cli import cli
from replicator.cli.node_http import NodeHttp
from replicator.cli.watching import asked_over_http
from replicator.client import Client
from replicator.log.redis_log import RedisLog
from replicator.sandbox.free_ports import free_ports
from replicator.sandbox.redis_server import RedisServer, find_server
from tests.support.certificates import Authority
from tests.support.kv import PATIENCE_S, eventually

UPLOAD = (
    b"PUT /v1/state?force=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 60000000\r\n\r\n"
)

DOCUMENT = {"version": 1, "nodes": {}, "networks": {}, "trust_pairs": []}


class Deployment:
    """A Redis, a node with tokens and a certificate, and a command that it runs as the primary."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory / "authority")
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        self.authority.certificate("a", self.cert, self.key)
        self.tokens = {right: f"{right}{'x' * 28}" for right in ("read", "write", "admin")}
        self.file = self._secret("tokens", "".join(f"{right} {token}\n" for right, token in self.tokens.items()))
        self.files = {right: self._secret(f"{right}.token", f"{token}\n") for right, token in self.tokens.items()}
        self.redis = RedisServer(directory / "redis", binary=find_server()).start()
        (self.port,) = free_ports(1)
        self.url = f"https://127.0.0.1:{self.port}"
        self.said = directory / "node.out"
        self.environment = directory / "environment"
        self.process = self._started()
        self.log = RedisLog(self.redis.url, "g")
        eventually(lambda: any(node.http for node in ops.status(self.log).nodes), patience_s=3 * PATIENCE_S)
        ops.promote(self.log, "a", by="test", timeout_s=PATIENCE_S)
        self.trusted = ssl.create_default_context(cafile=str(self.authority.path))

    def _secret(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def _started(self) -> subprocess.Popen[bytes]:
        dump = f"{sys.executable} -c \"import os; open('{self.environment}', 'w').write(repr(dict(os.environ)))\""
        command = [
            sys.executable, "-m", "replicator.workers.node", "--name", "a", "--data-dir", str(self.directory / "a"),
            "--http", f"127.0.0.1:{self.port}", "--http-cert", str(self.cert), "--http-key", str(self.key),
            "--on-primary", dump,
        ]  # fmt: skip
        known = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
        settings = {"REDIS": self.redis.url, "GROUP": "g", "HTTP_TOKENS": str(self.file), "LOG_LEVEL": "DEBUG"}
        environment = {**known, **{f"REPLICATOR_{name}": value for name, value in settings.items()}}
        with self.said.open("wb") as out:
            return subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    def asks(self, right: str | None, **more: Any) -> httpx.Client:
        headers = {} if right is None else {"Authorization": f"Bearer {self.tokens[right]}"}
        return httpx.Client(base_url=self.url, verify=self.trusted, headers=headers, timeout=PATIENCE_S, **more)

    def command(self, *arguments: Any) -> Result:
        return CliRunner().invoke(cli, ["--redis", self.redis.url, "--group", "g", *map(str, arguments)])

    def raw(self, *parts: bytes) -> bytes:
        """What comes back for these bytes, up to the end of the connection."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        with self.trusted.wrap_socket(connection, server_hostname="localhost") as over_tls:
            received = b""
            for part in parts:
                over_tls.sendall(part)
            try:
                while more := over_tls.recv(65536):
                    received += more
            except (ConnectionResetError, ssl.SSLEOFError):
                pass
            return received

    def close(self) -> None:
        self.log.close()
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        self.redis.stop()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("access"))
    yield deployment
    deployment.close()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("REPLICATOR_")]:
        monkeypatch.delenv(name)


def test_strangers_learn_whether_it_leads_and_nothing_else(node: Deployment) -> None:
    with node.asks(None) as stranger:
        found = {path: stranger.get(f"/{path}").status_code for path in ("live", "ready", "primary", "read-only", "ui")}
        assert set(found.values()) == {200}
        refused = ("health", "metrics", "cluster", "history", "ui/events", "v1/nodes", "v1/state", "nothing")
        assert {path: stranger.get(f"/{path}").status_code for path in refused} == dict.fromkeys(refused, 401)
        assert stranger.post("/v1/nodes", json={"hostname": "evil"}).status_code == 401
    with node.asks("read") as reader:
        assert reader.get("/health").json()["role"] == "primary"
        assert reader.get("/metrics").status_code == 200
        assert reader.post("/v1/nodes", json={"hostname": "evil"}).status_code == 403
        assert "evil" not in reader.get("/v1/nodes").text


def test_the_events_of_the_page_are_for_who_may_read(node: Deployment) -> None:
    with node.asks("read") as reader, reader.stream("GET", "/ui/events") as events:
        assert events.status_code == 200
        picture = next(line for line in events.iter_lines() if line.startswith("data: "))
        assert json.loads(picture[6:])["status"]["holder"] == "a"


def test_a_connection_goes_on_after_it_was_refused(node: Deployment) -> None:
    """What was refused, its body too, is no part of the next request."""
    head = b"POST /v1/nodes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    smuggled = b'{"x": "' + b"GET /v1/state HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3 + b'"}'
    refused = head + b"Content-Length: %d\r\n\r\n" % len(smuggled) + smuggled
    bearer = f"Authorization: Bearer {node.tokens['read']}\r\n".encode()
    good = b"GET /v1/nodes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + bearer + b"\r\n"
    received = node.raw(refused, good)
    assert received.count(b"HTTP/1.1 ") == 2
    assert received.startswith(b"HTTP/1.1 401 ")
    assert b"HTTP/1.1 200 " in received
    # and a token counts for the request that it came with alone
    received = node.raw(good.replace(b"Connection: close\r\n", b""), good.replace(bearer, b""))
    assert [received.startswith(b"HTTP/1.1 200 "), received.count(b"HTTP/1.1 401 ")] == [True, 1]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"GET /live HTTP/1.0\r\n\r\n", 200, id="HTTP/1.0 without a host"),
        pytest.param(b"GET /live HTTP/1.1\r\n\r\n", 400, id="HTTP/1.1 without a host"),
        pytest.param(b"GET /live HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", 400, id="two hosts"),
        pytest.param(b"GET /live HTTP/1.1\r\nHost: evil\r\n\r\n", 421, id="a foreign host"),
        pytest.param(b"GET /live HTTP/1.1\r\nHost: a@localhost\r\n\r\n", 421, id="a host with a user"),
        pytest.param(b"GET /live HTTP/1.1\r\nHost: localhost.:1\r\n\r\n", 200, id="a host with a dot at its end"),
        pytest.param(b"GET /live HTTP/1.1\r\nHost: [::1]:1\r\n\r\n", 200, id="a host of IPv6"),
        pytest.param(b"GET http://localhost/live HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, id="a URL for a target"),
        pytest.param(b"GET http://evil/live HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, id="a foreign URL for a target"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, id="a star for a target"),
        pytest.param(b"CONNECT evil:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, id="connect"),
        pytest.param(b"OPTIONS /v1/nodes HTTP/1.1\r\nHost: localhost\r\n\r\n", 401, id="options"),
        pytest.param(b"HEAD /v1/nodes HTTP/1.1\r\nHost: localhost\r\n\r\n", 401, id="head"),
        pytest.param(b"TRACE /live HTTP/1.1\r\nHost: localhost\r\n\r\n", 401, id="trace"),
        pytest.param(b"GET /v1/%73tate HTTP/1.1\r\nHost: localhost\r\nREAD\r\n", 403, id="an escaped path"),
        pytest.param(b"GET /v1/./state HTTP/1.1\r\nHost: localhost\r\nREAD\r\n", 404, id="a path with a dot"),
        pytest.param(b"GET /v1/nodes;/../state HTTP/1.1\r\nHost: localhost\r\nREAD\r\n", 404, id="a path that goes up"),
        pytest.param(b"GET /v1/state?x HTTP/1.1\r\nHost: localhost\r\nREAD\r\n", 403, id="a query"),
        pytest.param(b"GET /live HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n", 403, id="no origin"),
        pytest.param(b"GET /v1/nodes HTTP/1.1\r\nHost: localhost\r\nREADREAD\r\n", 401, id="a token twice"),
        pytest.param(b"GET /v1/nodes HTTP/1.1\r\nHost: localhost\r\nX: 1\r\n READ\r\n", 401, id="a folded header"),
        pytest.param(
            b"POST /v1/nodes HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400,
            id="an encoding that nobody knows",
        ),
        pytest.param(
            b"POST /v1/nodes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400,
            id="two lengths",
        ),
        pytest.param(
            b"POST /v1/nodes HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\n", 400, id="a length with a sign"
        ),
        pytest.param(b"GET /live HTTP/1.1\r\nHost : localhost\r\n\r\n", 400, id="a space before the colon"),
        # Refused with its last bytes, and not before: the answer to who still sends may be lost.
        pytest.param(b"GET /live HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 16_384, 400, id="large"),
    ],
)  # fmt: skip
def test_what_is_not_said_as_it_should_be(node: Deployment, request_: bytes, status: int) -> None:
    bearer = f"Authorization: Bearer {node.tokens['read']}\r\n".encode()
    close = b"\r\nConnection: close\r\n"
    head = request_.replace(b"READ", bearer).replace(b"\r\n", close, 1)
    received = node.raw(head)
    assert int(received.split(b" ", 2)[1]) == status


def test_a_client_that_knows_the_nodes_by_redis_shows_its_token_to_whom_the_ca_vouches_for(node: Deployment) -> None:
    with Client(node.redis.url, "g", token_file=node.files["write"], ca_file=node.authority.path) as client:
        client.submit({"op": "register", "hostname": "by-ca"})
        assert "by-ca" in client.get("/v1/nodes", fresh=True).text
    with (
        Client(node.redis.url, "g", token=node.tokens["write"], http={"verify": node.trusted}) as client,
        pytest.raises(ConfigError, match=r"is not sent to https://127\.0\.0\.1:.*which only Redis named"),
    ):
        client.submit({"op": "register", "hostname": "nobody"})
    verify = {"verify": node.trusted}
    with Client(node.redis.url, "g", token=node.tokens["write"], token_to=[node.url], http=verify) as client:
        client.submit({"op": "register", "hostname": "by-name"})
    with Client(urls=[node.url], token=node.tokens["read"], ca_file=node.authority.path) as client:
        with pytest.raises(NotAllowed, match="has the right to read, and this needs that to write"):
            client.submit({"op": "register", "hostname": "nobody"})
        assert client.get("/v1/state").status_code == 403


def test_load_shows_its_token_to_a_named_node_alone(node: Deployment, tmp_path: Path) -> None:
    document = tmp_path / "registry.json"
    document.write_text(json.dumps(DOCUMENT))
    load = ("load", document, "--force", "--yes", "--any-term")
    ca = ("--ca-file", node.authority.path)
    assert "needs a token with the right to admin" in node.command(*load, *ca).stderr
    of_a_writer = node.command(*load, *ca, "--token-file", node.files["write"])
    assert (of_a_writer.exit_code, "this needs that to admin" in of_a_writer.stderr) == (3, True)
    token = ("--token-file", node.files["admin"])
    refused = node.command(*load, *token)
    assert (refused.exit_code, "is not sent to https://127.0.0.1" in refused.stderr) == (2, True)
    assert node.command(*load, *token, *ca).exit_code == 0
    assert node.command(*load, *token, *ca, "--to", node.url).exit_code == 0
    # whom nobody vouches for gets nothing, named or not
    assert node.command(*load, *token, "--to", node.url).exit_code == 6
    opened = tmp_path / "open"
    opened.write_text(node.tokens["admin"])
    opened.chmod(0o644)
    refused = node.command(*load, *ca, "--token-file", opened)
    assert (refused.exit_code, "chmod 600" in refused.stderr) == (2, True)


def test_status_watch_asks_nodes_with_a_token(node: Deployment) -> None:
    status = ops.status(node.log)

    def told(*arguments: Any) -> Any:
        return asked_over_http(status, timeout_s=PATIENCE_S, asks=NodeHttp(*arguments))["a"]

    assert told(node.files["read"], [], node.authority.path).leads is True
    assert "answers 401: give --token-file" in told(None, [], node.authority.path).problem
    assert "--token-to URL" in told(node.files["read"], []).problem


def test_tokens_that_change_count_without_a_restart(node: Deployment) -> None:
    before = node.file.read_text()
    new = "n" * 32
    try:
        node.file.write_text(before + f"read {new}\n")
        with node.asks(None) as client:
            eventually(lambda: client.get("/health", headers={"Authorization": f"Bearer {new}"}).status_code == 200)
    finally:
        node.file.write_text(before)


def test_no_token_is_anywhere_but_in_its_file(node: Deployment) -> None:
    """After all that the tests before this one did with them: not in the log, in Redis, in `ps`, in a command."""
    with node.asks("admin") as admin, node.asks("read") as reader:
        assert admin.post("/v1/nodes", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
        reader.get(f"/v1/nodes?access_token={node.tokens['read']}")
        reader.get("/v1/nodes", headers={"Replicator-Wait": "nonsense"})
    eventually(lambda: node.environment.exists() and node.environment.read_text().endswith("}"), "all of it")
    process, data = Path(f"/proc/{node.process.pid}"), node.directory / "a"
    places: dict[str, bytes] = {
        "the log": node.said.read_bytes(),
        "the environment of a command": node.environment.read_bytes(),
        "its data directory": b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file()),
        **({name: (process / name).read_bytes() for name in ("cmdline", "environ")} if process.is_dir() else {}),
    }  # fmt: skip
    with redis.Redis.from_url(node.redis.url) as client:
        places["Redis"] = b"".join(_content(client, key) for key in client.keys("*"))
        assert node.url.encode() in places["Redis"], "its heartbeat is there"
    for where, content in places.items():
        assert content, where
        for right, token in node.tokens.items():
            assert token.encode() not in content, f"the token to {right} is in {where}"


def _content(client: redis.Redis, key: bytes) -> bytes:
    read: dict[bytes, Callable[[], Any]] = {
        b"string": lambda: client.get(key),
        b"hash": lambda: client.hgetall(key),
        b"stream": lambda: client.xrange(key),
        b"zset": lambda: client.zrange(key, 0, -1),
        b"set": lambda: client.smembers(key),
        b"list": lambda: client.lrange(key, 0, -1),
    }
    return repr(read[bytes(client.type(key))]()).encode()  # type: ignore[arg-type]


# --- held connections ---


@pytest.fixture
def crowded(any_redis: RedisServer, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A node that may have 300 descriptors: its process and its port."""
    (port,) = free_ports(1)
    command = f'ulimit -n 300; exec "{sys.executable}" -m replicator.workers.node --name a'
    environment = {
        **os.environ, "REPLICATOR_REDIS": any_redis.url, "REPLICATOR_GROUP": "g", "REPLICATOR_LEASE_S": "5",
        "REPLICATOR_HTTP": f"127.0.0.1:{port}", "REPLICATOR_DATA_DIR": str(tmp_path / "a"),
    }  # fmt: skip
    process = subprocess.Popen(["/bin/sh", "-c", command], env=environment, stderr=subprocess.DEVNULL)
    yield process.pid, port
    process.terminate()
    process.wait(PATIENCE_S)


def test_half_requests_cost_a_node_neither_its_lease_nor_its_answers(
    any_redis: RedisServer, crowded: tuple[int, int]
) -> None:
    log = RedisLog(any_redis.url, "g")
    eventually(lambda: any(node.http for node in ops.status(log).nodes), patience_s=3 * PATIENCE_S)
    ops.promote(log, "a", by="test", timeout_s=PATIENCE_S)
    term, (pid, port) = ops.status(log).term, crowded
    descriptors = Path(f"/proc/{pid}/fd")
    held: list[socket.socket] = []
    ended = threading.Event()

    def hold() -> None:
        """More connections than it has descriptors, again and again, and uploads that do not end."""
        while not ended.is_set():
            for number in range(400):
                try:
                    connection = socket.create_connection(("127.0.0.1", port), timeout=1)
                    if number % 40:
                        connection.sendall(b"GET /v1/nodes HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
                    else:
                        connection.sendall(UPLOAD + b" " * 100_000)
                    held.append(connection)
                except OSError:
                    continue
                if ended.wait(0.01 if number > 330 else 0):
                    return
            for connection in held:
                connection.close()
            held.clear()

    attacker = threading.Thread(target=hold, daemon=True)
    attacker.start()
    try:
        eventually(lambda: len(held) > 300)
        leases: list[int | None] = []
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            for number in range(6):
                assert not descriptors.is_dir() or len(list(descriptors.iterdir())) < 200, "some are kept back"
                assert client.get("/ready", headers={"Connection": "close"}).status_code == 200
                assert client.post("/v1/nodes", json={"hostname": f"n{number}"}).status_code == 201
                leases.append(ops.status(log).lease_ms)
            # and when all connections to Redis break, it has descriptors for new ones
            with redis.Redis.from_url(any_redis.url) as admin:
                admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            log.close()
            log = RedisLog(any_redis.url, "g")
            eventually(lambda: client.post("/v1/nodes", json={}).status_code == 201)
            eventually(lambda: client.get("/ready", headers={"Connection": "close"}).status_code == 200)
            leases.append(ops.status(log).lease_ms)
    finally:
        ended.set()
        attacker.join()
        for connection in held:
            connection.close()
    assert all(leases), "its lease ran out"
    assert ops.status(log).term == term
    log.close()
