"""TLS that only one side speaks: neither is told so by the other, and the error says what may be wrong."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from replicator.errors import LogUnavailable
from replicator.log.redis_log import RedisLog

OPENSSL = shutil.which("openssl")

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="there is no openssl to make a certificate with")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that signs itself; the file has the key, too."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *(str(OPENSSL), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(path), "-out", f"{path}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    """Start something that answers each connection with an error of Redis; gives its port."""
    with ExitStack() as open_now:

        def serve(context: ssl.SSLContext | None = None) -> int:
            listener = open_now.enter_context(socket.create_server(("127.0.0.1", 0)))
            threading.Thread(target=answer, args=(listener, context), daemon=True).start()
            port: int = listener.getsockname()[1]
            return port

        yield serve


def answer(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        try:
            with context.wrap_socket(connection, server_side=True) if context else connection as spoken:
                spoken.recv(1000)
                spoken.sendall(b"-ERR something\r\n")
                spoken.recv(1000)
        except OSError:
            connection.close()


def context(certificate: Path, *, wants_one: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if wants_one:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate)
    return context


def problem(url: str) -> str:
    log = RedisLog(url, "g")
    try:
        with pytest.raises(LogUnavailable) as raised:
            log.look()
    finally:
        log.close()
    return str(raised.value)


def test_a_port_of_tls_that_is_spoken_to_without(serve: Callable[..., int], certificate: Path) -> None:
    text = problem(f"redis://127.0.0.1:{serve(context(certificate))}/0")
    assert "if this port speaks TLS, the URL begins with rediss instead of redis" in text


def test_a_port_without_tls_that_is_spoken_to_with_it(serve: Callable[..., int]) -> None:
    text = problem(f"rediss://127.0.0.1:{serve()}/0")
    assert "if this port does not speak TLS, the URL begins with redis instead of rediss" in text


def test_a_certificate_that_nobody_known_signed(serve: Callable[..., int], certificate: Path) -> None:
    assert "?ssl_ca_certs=FILE" in problem(f"rediss://127.0.0.1:{serve(context(certificate))}/0")


def test_a_server_that_wants_a_certificate(serve: Callable[..., int], certificate: Path) -> None:
    port = serve(context(certificate, wants_one=True))
    text = problem(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
    assert "if it wants a certificate, the URL has ?ssl_certfile=FILE" in text


def test_with_the_right_certificate_both_understand_each_other(serve: Callable[..., int], certificate: Path) -> None:
    port = serve(context(certificate))
    text = problem(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
    assert "something" in text
    assert "TLS" not in text


def test_a_server_that_is_not_there_is_no_matter_of_tls(serve: Callable[..., int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert "TLS" not in problem(f"redis://127.0.0.1:{port}/0")
    assert "TLS" not in problem(f"rediss://127.0.0.1:{port}/0")
