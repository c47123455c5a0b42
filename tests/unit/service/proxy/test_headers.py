"""Which headers go along."""

from __future__ import annotations

from typing import Any

from replicator.service.proxy.headers import answered, is_ambiguous, passed_on, trusts
from replicator.service.proxy.options import ProxyOptions

FROM_OUTSIDE = [
    (b"host", b"notes.example"),
    (b"x-forwarded-for", b"1.2.3.4"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"evil"),
    (b"x-forwarded-port", b"1"),
    (b"forwarded", b"for=1.2.3.4"),
    (b"x-real-ip", b"1.2.3.4"),
    (b"x_forwarded_for", b"1.2.3.4"),
    (b"x_real-ip", b"1.2.3.4"),
    (b"connection", b"keep-alive, x-hop"),
    (b"x-hop", b"1"),
    (b"expect", b"100-continue"),
    (b"te", b"trailers"),
    (b"authorization", b"Bearer t"),
    (b"replicator-forwarded", b"z"),
    (b"content-length", b"3"),
]


def passed(*, is_trusted: bool = False, to_program: bool = True) -> tuple[dict[bytes, bytes], bool]:
    about: dict[str, Any] = {"client": "10.0.0.9", "scheme": "http", "by": "a"}
    onward = passed_on(FROM_OUTSIDE, is_trusted=is_trusted, to_program=to_program, **about)
    return dict(onward.headers), onward.has_body


def test_what_others_say_of_the_client_is_replaced_unless_they_are_trusted() -> None:
    headers, has_body = passed()
    assert has_body
    assert headers == {
        b"host": b"notes.example",
        b"authorization": b"Bearer t",
        b"content-length": b"3",
        b"x-forwarded-host": b"notes.example",
        b"x-forwarded-for": b"10.0.0.9",
        b"x-forwarded-proto": b"http",
    }
    headers, _ = passed(is_trusted=True)
    assert headers[b"x-forwarded-for"] == b"1.2.3.4, 10.0.0.9"
    assert (headers[b"x-forwarded-proto"], headers[b"x-forwarded-host"]) == (b"https", b"evil")
    assert headers[b"x-real-ip"] == b"1.2.3.4"


def test_another_proxy_is_told_who_passed_it_on_and_a_program_is_not() -> None:
    assert passed(to_program=False)[0][b"replicator-forwarded"] == b"a"
    assert b"replicator-forwarded" not in passed()[0]


def test_a_program_has_no_say_in_what_proxies_tell_each_other() -> None:
    given = [(b"Replicator-Refused", b"busy"), (b"Keep-Alive", b"5"), (b"X-Own", b"1")]
    assert answered(given, by_program=True) == [(b"x-own", b"1")]
    assert answered(given, by_program=False) == [(b"replicator-refused", b"busy"), (b"x-own", b"1")]


def test_trust_is_by_address() -> None:
    trusted = ProxyOptions(listen="h:1", target="h:2", trust=("10.0.0.0/24", "fd00::7")).trusted
    said = {
        client: trusts(trusted, client)
        for client in ("10.0.0.9", "::ffff:10.0.0.9", "fd00::7", "10.0.1.9", "fd00::8", "testclient", None)
    }
    assert [client for client, is_trusted in said.items() if is_trusted] == ["10.0.0.9", "::ffff:10.0.0.9", "fd00::7"]
    assert not trusts((), "127.0.0.1")


def test_two_lengths_are_one_too_many() -> None:
    assert is_ambiguous([(b"content-length", b"3"), (b"transfer-encoding", b"chunked")])
    assert not is_ambiguous([(b"content-length", b"3")])
