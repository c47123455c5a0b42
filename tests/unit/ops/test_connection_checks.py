"""What `doctor` says of the way to Redis."""

from __future__ import annotations

import pytest

from replicator.log.tls import Transport
from replicator.ops.connection_checks import checks_of_connection


@pytest.mark.parametrize(
    ("transport", "expected"),
    [
        (Transport(is_socket=True, logs_in=False), [("connection", "ok")]),
        (Transport(), [("connection", "ok")]),
        (Transport(logs_in=False), [("connection", "ok"), ("password", "warning")]),
        (Transport(remote=("h",)), [("connection", "warning")]),
        (Transport(remote=("h",), tls=True), [("connection", "ok")]),
        (Transport(remote=("h",), tls=True, checks=False), [("connection", "warning")]),
        (Transport(tls=True, exposed=("/p",)), [("connection", "ok"), ("password", "warning")]),
    ],
)
def test_what_is_open_is_warned_of(transport: Transport, expected: list[tuple[str, str]]) -> None:
    assert [(check.check, check.level) for check in checks_of_connection(transport)] == expected


def test_the_hosts_and_the_files_are_named() -> None:
    told = " ".join(check.message for check in checks_of_connection(Transport(remote=("h1", "h2"), exposed=("/p",))))
    assert "plain TCP to h1, h2" in told
    assert "'/p'" in told
