"""What a URL asks for of TLS, and what the errors of a handshake mean."""

from __future__ import annotations

import pytest

from replicator.log.tls import Transport, hint, transport_of
from replicator.log.urls import place_of


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("unix:///tmp/x.sock", Transport(is_socket=True, logs_in=False)),
        ("redis://localhost", Transport(logs_in=False)),
        ("redis://127.0.0.7:1/2", Transport(logs_in=False)),
        ("redis://[::1]", Transport(logs_in=False)),
        ("redis://:pw@10.0.0.1", Transport(remote=("10.0.0.1",))),
        ("redis://ann@redis.internal", Transport(remote=("redis.internal",), logs_in=False)),
        ("redis+sentinel://:pw@localhost,h:1/main", Transport(remote=("h",))),
        ("rediss://:pw@h", Transport(remote=("h",), tls=True)),
        ("rediss://h?ssl_certfile=/etc/hosts", Transport(remote=("h",), tls=True)),
        ("rediss://:pw@h?ssl_cert_reqs=none", Transport(remote=("h",), tls=True, checks=False)),
        ("rediss://:pw@h?ssl_cert_reqs=optional", Transport(remote=("h",), tls=True, checks=False)),
        ("rediss://:pw@h?ssl_check_hostname=no", Transport(remote=("h",), tls=True, checks=False)),
    ],
)
def test_what_protects_a_connection_is_in_the_url(url: str, expected: Transport) -> None:
    assert transport_of(place_of(url)) == expected


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired", "has to be renewed"),
        ("CERTIFICATE_VERIFY_FAILED]: certificate is not yet valid", "clock"),
        ("CERTIFICATE_VERIFY_FAILED]: Hostname mismatch, certificate is not valid for 'h'", "of another host"),
        ("CERTIFICATE_VERIFY_FAILED]: IP address mismatch", "does not have that address"),
        ("CERTIFICATE_VERIFY_FAILED]: self-signed certificate", "?ssl_ca_certs=FILE"),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]", "?ssl_certfile=FILE"),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA]", "does not know who signed"),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED]", "has expired"),
        ("[SSL: TLSV1_ALERT_PROTOCOL_VERSION]", "another version of TLS"),
        ("[SSL: WRONG_VERSION_NUMBER]", "begins with redis instead of rediss"),
        ("EOF occurred in violation of protocol", "?ssl_certfile=FILE"),
    ],
)
def test_each_error_of_a_handshake_says_what_to_do(error: str, says: str) -> None:
    assert says in hint(error, tls=True)


def test_what_is_no_matter_of_tls_has_no_hint() -> None:
    assert hint("Connection refused", tls=True) == hint("Connection refused", tls=False) == ""
    assert "rediss instead of redis" in hint("Connection closed by server", tls=False)
    assert "may not take the certificate" in hint("Connection reset by peer", tls=True, has_certificate=True)
