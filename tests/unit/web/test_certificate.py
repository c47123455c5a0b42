"""The certificate of a server: it is read again when it changes, and not while it does not fit its key."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from pathlib import Path

import pytest
from starlette.applications import Starlette

from replicator.errors import ConfigError
from replicator.web.certificate import Certificate
from replicator.web.server import WebServer
from tests.support.certificates import Authority
from tests.support.kv import PATIENCE_S, eventually


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


class Files:
    def __init__(self, authority: Authority, directory: Path) -> None:
        self._authority = authority
        self._directory = directory
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        self.renew("first")

    def renew(self, name: str, *, key: bool = True) -> None:
        cert_now, key_now = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        self._authority.certificate(name, cert_now, key_now)
        os.replace(cert_now, self.cert)
        if key:
            os.replace(key_now, self.key)


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Files:
    return Files(authority, tmp_path)


def name_at(port: int, authority: Authority, *, named: bool = True) -> str:
    """The name in the certificate that a new connection gets."""
    context = ssl.create_default_context(cafile=str(authority.path))
    context.check_hostname = named
    raw = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    with context.wrap_socket(raw, server_hostname="localhost" if named else None) as connection:
        found = connection.getpeercert()
        assert found is not None
        return dict(pair for part in found["subject"] for pair in part)["commonName"]  # type: ignore[misc]


def test_one_that_changes_is_the_one_of_the_next_connection(files: Files, authority: Authority) -> None:
    with WebServer(Starlette(), certificate=Certificate(files.cert, files.key)) as web:
        assert web.url == f"https://127.0.0.1:{web.port}"
        assert [name_at(web.port, authority, named=named) for named in (True, False)] == ["first", "first"]
        files.renew("second")
        eventually(lambda: name_at(web.port, authority) == "second")
        assert name_at(web.port, authority, named=False) == "second"


def test_one_that_does_not_fit_its_key_is_not_taken(
    files: Files, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), WebServer(Starlette(), certificate=Certificate(files.cert, files.key)) as web:
        files.renew("second", key=False)
        eventually(lambda: "the certificate stays as it was" in caplog.text)
        assert name_at(web.port, authority) == "first"
        files.renew("third")
        eventually(lambda: name_at(web.port, authority) == "third")


def test_what_is_none_is_told_when_it_is_given(files: Files, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"http-cert: .*missing\.pem: No such file"):
        Certificate(tmp_path / "missing.pem", files.key)
    with pytest.raises(ConfigError, match="are no certificate and key, in PEM"):
        Certificate(files.key, files.key)
    files.key.chmod(0o640)
    with pytest.raises(ConfigError, match=r"http-key: .*has a secret in it, and others may use it.*chmod 600"):
        Certificate(files.cert, files.key)


def test_old_versions_of_tls_are_refused(files: Files) -> None:
    assert Certificate(files.cert, files.key).context.minimum_version >= ssl.TLSVersion.TLSv1_2
