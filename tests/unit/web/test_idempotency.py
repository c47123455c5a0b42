"""The header Idempotency-Key, as the headers of each framework have it."""

from __future__ import annotations

from typing import Any

import pytest
from django.http.request import HttpHeaders
from starlette.datastructures import Headers
from werkzeug.datastructures import EnvironHeaders
from werkzeug.datastructures import Headers as WerkzeugHeaders

from replicator import InvalidHeader, Key
from replicator.web.idempotency import idempotency_key


def starlette(*texts: str) -> Any:
    return Headers(raw=[(b"idempotency-key", text.encode("latin-1")) for text in texts])


def flask(*texts: str) -> Any:
    # as WSGI has it: several are joined
    return EnvironHeaders({"HTTP_IDEMPOTENCY_KEY": ",".join(texts)} if texts else {})


def quart(*texts: str) -> Any:
    return WerkzeugHeaders([("Idempotency-Key", text) for text in texts])


def django(*texts: str) -> Any:
    return HttpHeaders({"HTTP_IDEMPOTENCY_KEY": ",".join(texts)} if texts else {})


def plain(*texts: str) -> Any:
    return {"idempotency-key": ", ".join(texts)} if texts else {}


def text(*texts: str) -> Any:
    return ", ".join(texts) if texts else None


each_framework = pytest.mark.parametrize("headers", [starlette, flask, quart, django, plain, text])


@each_framework
@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ('"8e03978e-40d5"', "8e03978e-40d5"),
        ('  "a b" ', "a b"),
        (r'"a\"b\\c"', r'a"b\c'),
        (f'"{"k" * 256}"', "k" * 256),
    ],
)
def test_a_string_in_quotes_is_a_key_without_them(headers: Any, sent: str, key: str) -> None:
    assert idempotency_key(headers(sent)) == key
    assert idempotency_key(headers(sent), required=True) == key


@each_framework
@pytest.mark.parametrize(
    "sent",
    [
        "",
        '""',
        "bare",
        "'single'",
        '"open',
        '"a"b"',
        r'"a\b"',
        '"a";p=1',
        '"a", "b"',
        '"ü"',
        '"a\tb"',
        f'"{"k" * 257}"',
    ],
)
def test_whatever_else_is_refused_and_told_what_to_send(headers: Any, sent: str) -> None:
    with pytest.raises(InvalidHeader, match="Idempotency-Key must be a string in double quotes") as raised:
        idempotency_key(headers(sent))
    assert (raised.value.status, raised.value.code, raised.value.field) == (400, "invalid_header", "Idempotency-Key")


@each_framework
def test_one_that_is_sent_twice_is_refused(headers: Any) -> None:
    with pytest.raises(InvalidHeader):
        idempotency_key(headers('"a"', '"a"'))


@each_framework
def test_a_request_without_one_has_none_unless_it_has_to(headers: Any) -> None:
    assert idempotency_key(headers()) is None
    assert idempotency_key(headers(), content=b"body") is None
    with pytest.raises(InvalidHeader, match="Idempotency-Key is missing"):
        idempotency_key(headers(), required=True)


def test_with_a_content_it_is_a_key_for_what_differs_from_attempt_to_attempt() -> None:
    key = idempotency_key(starlette('"a"'), content=b"body")
    assert isinstance(key, Key)
    assert (str(key), key.fingerprint) == ("a", Key("a", content=b"body").fingerprint)
