"""Where a write goes: to the primary, and nowhere that a client names."""

from __future__ import annotations

import pytest

from replicator.web.failures import Refusal
from replicator.web.head import Head
from replicator.web.redirect import on_the_primary
from tests.support.sites import FakeNode, standby


def head_of(raw_path: bytes, query: bytes = b"") -> Head:
    return Head("POST", raw_path.decode(), raw_path, query, None, "", False)


@pytest.mark.parametrize(
    "target",
    [
        b"@evil.example/",
        b".evil.example/",
        b"1/",
        b"http://evil.example/x",
        b"*",
        b"/../admin",
        b"/a/..",
        b"/a/%2E%2e/b",
        b"/a/..%2fb",
        b"/a\\..\\b",
        b"/./a",
    ],
)
def test_what_is_no_path_below_the_primary_is_refused(target: bytes) -> None:
    for head in (head_of(target), head_of(target)._replace(raw_path=b"")):
        with pytest.raises(Refusal) as refused:
            on_the_primary(standby("http://node-b.internal/app"), head)
        assert (refused.value.status, refused.value.code) == (400, "invalid_target")


def test_nothing_is_refused_where_nothing_would_be_sent_on() -> None:
    for node in (FakeNode(primary_http="http://b"), standby(None)):
        assert on_the_primary(node, head_of(b"@evil.example/")) is None


@pytest.mark.parametrize(
    ("path", "query", "url"),
    [
        (b"/a%20b/...", b"x=%20y&z", "http://b:1/a%20b/...?x=%20y&z"),
        (b"//elsewhere/x", b"", "http://b:1//elsewhere/x"),
        (b"", b"x", "http://b:1?x"),
        # neither ends before its end
        (b"/a#b?c", b"x=1#y?z", "http://b:1/a%23b%3Fc?x=1%23y?z"),
        (b"/v\xe9\r\n", b"\xff \n", "http://b:1/v%E9%0D%0A?%FF%20%0A"),
    ],
)
def test_the_path_and_the_query_stay_what_they_are(path: bytes, query: bytes, url: str) -> None:
    assert on_the_primary(standby("http://b:1/"), head_of(b"/")._replace(raw_path=path, path="", query=query)) == url
