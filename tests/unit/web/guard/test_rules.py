"""What a request is refused for, and which right it needs."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.web.guard.hosts import Hosts
from replicator.web.guard.rules import Request, Rules, right_for
from replicator.web.guard.token_file import Tokens
from replicator.web.probes import PROBES

TOKENS = {right: right[0] * 32 for right in ("read", "write", "admin")}
RULES = Rules(Hosts("127.0.0.1"), Tokens(list(TOKENS.items())))
OPEN = Rules(Hosts("127.0.0.1"), None)

JSON = ("Content-Type", "application/json")


def request(
    method: str = "GET",
    path: str = "/v1/nodes",
    *headers: tuple[str, str],
    host: str | None = "localhost:8001",
    target: str | None = None,
) -> Request:
    given = [*([("Host", host)] if host is not None else []), *headers]
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in given]
    return Request.of(method, path, target if target is not None else path, raw)


def bearing(right: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {TOKENS[right]}")


def code(asked: Request, rules: Rules = RULES) -> str | None:
    refused = rules.refusal(asked)
    return None if refused is None else f"{refused.status} {refused.code}"


# --- rights ---


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        *[("GET", f"/{probe}", None) for probe in ("live", "ready", "primary", "standby", "read-only")],
        ("HEAD", "/primary", None), ("OPTIONS", "/primary", None),
        *[("GET", f"/{probe}", "read") for probe in ("health", "cluster", "history", "metrics")],
        ("GET", "/ui", None), ("GET", "/ui/", None), ("GET", "/ui/page.js", None), ("GET", "/ui/events", "read"),
        ("POST", "/ui/do/promote", "admin"), ("POST", "/ui/preview", "admin"), ("POST", "/ui", "write"),
        ("GET", "/v1/nodes", "read"), ("HEAD", "/v1/nodes", "read"), ("OPTIONS", "/v1/nodes", "read"),
        ("POST", "/v1/nodes", "write"), ("DELETE", "/v1/nodes/1", "write"), ("BREW", "/v1/nodes", "write"),
        ("GET", "/v1/state", "admin"), ("PUT", "/v1/state", "admin"), ("HEAD", "/v1/state", "admin"),
        ("POST", "/live", "write"), ("GET", "/live/", "read"), ("GET", "//live", "read"), ("GET", "/LIVE", "read"),
        ("GET", "/nothing", "read"), ("GET", "", "read"),
    ],
)  # fmt: skip
def test_what_a_request_needs(method: str, path: str, right: str | None) -> None:
    assert right_for(request(method, path)) == right


def test_every_probe_was_thought_of() -> None:
    assert {probe for probe in PROBES if right_for(request("GET", f"/{probe}")) is None} == {
        "live", "ready", "primary", "standby", "read-only",
    }  # fmt: skip


def test_to_have_a_probe_wait_takes_the_right_to_read() -> None:
    assert code(request("GET", "/ready", ("Replicator-Wait", "5-1042"))) == "401 no_token"
    assert code(request("GET", "/ready", ("Replicator-Wait", "5-1042"), bearing("read"))) is None


@pytest.mark.parametrize("needed", TOKENS)
@pytest.mark.parametrize("given", TOKENS)
def test_a_right_has_those_before_it(needed: str, given: str) -> None:
    asked = {"read": ("GET", "/v1/nodes"), "write": ("DELETE", "/v1/nodes/1"), "admin": ("GET", "/v1/state")}[needed]
    order = list(TOKENS)
    allowed = order.index(given) >= order.index(needed)
    refused = RULES.refusal(request(*asked, bearing(given)))
    assert (refused is None) == allowed
    if refused is not None:
        assert (refused.status, refused.code, refused.more["needs"]) == (403, "right_missing", needed)
        assert given in refused.message
        assert needed in refused.message


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", f"Basic {TOKENS['admin']}")],
        [("Authorization", TOKENS["admin"])],
        [("Authorization", f"Bearer {TOKENS['admin']}x")],
        [("Authorization", f"Bearer {TOKENS['admin'][:-1]}")],
        [("Authorization", f"Bearer {TOKENS['admin']}, Bearer x")],
        [("Authorization", f"Bearer {TOKENS['admin']}"), ("Authorization", "Bearer x")],
        [("Authorization", "Bearer x"), ("Authorization", f"Bearer {TOKENS['admin']}")],
        [("Authorization", "Bearer \xff\xfe")],
    ],
)
def test_what_is_no_token_of_ours(headers: list[tuple[str, str]]) -> None:
    refused = RULES.refusal(request("GET", "/v1/nodes", *headers))
    assert refused is not None
    assert (refused.status, refused.code) == (401, "wrong_token")
    assert TOKENS["admin"][:8] not in refused.message


def test_the_scheme_is_written_in_any_letters_and_a_token_in_its_own() -> None:
    assert code(request("GET", "/v1/nodes", ("AUTHORIZATION", f"bEARER   {TOKENS['read']} "))) is None
    assert code(request("GET", "/v1/nodes", ("Authorization", f"Bearer {TOKENS['read'].upper()}"))) == "401 wrong_token"


def test_without_a_file_nobody_is_asked_but_the_other_rules_hold() -> None:
    assert code(request("DELETE", "/v1/nodes/1"), OPEN) is None
    assert code(request("PUT", "/v1/state", JSON, ("Content-Length", "9")), OPEN) is None
    assert code(request(host="evil.example"), OPEN) == "421 foreign_host"
    assert code(request("GET", "/", ("Origin", "http://evil.example")), OPEN) == "403 foreign_origin"
    assert code(request("POST", "/", ("Content-Length", "1")), OPEN) == "415 unsupported_media_type"


# --- the address ---


@pytest.mark.parametrize("target", ["*", "", "http://localhost:8001/v1/nodes", "//evil", "localhost:8001", "v1/nodes"])
def test_a_target_is_a_path(target: str) -> None:
    asked = request("GET", "/live", target=target)
    assert code(asked) == (None if target.startswith("/") else "400 invalid_target")


def test_a_foreign_host_is_told_before_anything_else_is() -> None:
    assert code(request(host="evil.example:8001")) == "421 foreign_host"
    assert code(request("GET", "/live", host="evil.example")) == "421 foreign_host"
    asked = request("POST", "/v1/nodes", ("Origin", "http://evil.example"), bearing("admin"), host="evil.example")
    assert code(asked) == "421 foreign_host"


def test_no_host_is_that_of_a_probe_and_two_are_nobodys() -> None:
    assert code(request("GET", "/primary", host=None)) is None
    assert code(request("GET", "/primary", ("Host", "localhost:8001"))) == "421 foreign_host"


# --- other pages ---

OURS: list[Any] = [
    [],
    [("Origin", "http://localhost:8001")],
    [("Origin", "https://localhost:8001")],
    [("Origin", "http://LOCALHOST:8001"), ("Sec-Fetch-Site", "same-origin")],
    [("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")],
    [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")],
]

FOREIGN: list[Any] = [
    [("Origin", "null")],
    [("Origin", "")],
    [("Origin", "http://evil.example")],
    [("Origin", "http://localhost")],
    [("Origin", "http://localhost:8002")],
    [("Origin", "http://127.0.0.1:8001")],
    [("Origin", "http://localhost:8001.evil.example")],
    [("Origin", "http://localhost:8001@evil.example")],
    [("Origin", "ftp://localhost:8001")],
    [("Origin", "http://[localhost:8001")],
    [("Origin", "http://localhost:8001 http://evil.example")],
    [("Origin", "http://localhost:8001"), ("Origin", "http://evil.example")],
    [("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-site")],
    [("Sec-Fetch-Site", "")],
    [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
    [("Origin", "http://localhost:8001"), ("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")],
    [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")],
    [
        ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"),
        ("Origin", "http://evil.example"),
    ],
]  # fmt: skip


@pytest.mark.parametrize("headers", OURS)
def test_our_own_page_and_whoever_has_no_page(headers: list[tuple[str, str]]) -> None:
    assert code(request("GET", "/v1/nodes", *headers, bearing("read"))) is None


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("headers", FOREIGN)
def test_another_page_even_with_a_token(headers: list[tuple[str, str]], method: str) -> None:
    assert code(request(method, "/v1/nodes", *headers, bearing("admin"), JSON)) == "403 foreign_origin"


def test_a_form_that_another_page_sends_is_no_link() -> None:
    followed = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
    assert code(request("POST", "/v1/nodes", *followed, bearing("write"), JSON)) == "403 foreign_origin"


# --- what a write is ---


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ([JSON, ("Content-Length", "2")], False),
        ([("Content-Type", "Application/JSON ; charset=utf-8"), ("Content-Length", "2")], False),
        ([JSON], False),
        ([], False),
        ([("Content-Length", "0")], False),
        ([("Content-Length", "2")], True),
        ([("Transfer-Encoding", "chunked")], True),
        ([("Content-Type", "text/plain"), ("Content-Length", "2")], True),
        ([("Content-Type", "text/plain")], True),
        ([("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", "0")], True),
        ([("Content-Type", "text/plain; application/json"), ("Content-Length", "2")], True),
        ([("Content-Type", "application/jsonp"), ("Content-Length", "2")], True),
        ([("Content-Type", ""), ("Content-Length", "2")], True),
        ([JSON, ("Content-Type", "text/plain"), ("Content-Length", "2")], True),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_write_is_json_and_says_so(method: str, headers: list[tuple[str, str]], is_refused: bool) -> None:
    found = code(request(method, "/v1/nodes", bearing("write"), *headers))
    assert found == ("415 unsupported_media_type" if is_refused else None)


def test_a_node_that_takes_no_writes_says_where_they_go_whatever_they_are() -> None:
    beside = Rules(Hosts("127.0.0.1"), None, elsewhere=lambda: "send writes to the proxy")
    for headers in ((), (JSON,), (("Content-Type", "text/plain"), ("Content-Length", "3"))):
        refused = beside.refusal(request("POST", "/posts", *headers))
        assert refused is not None
        assert (refused.status, refused.code, refused.message) == (404, "no_writes_here", "send writes to the proxy")
    assert code(request("GET", "/posts"), beside) is None
    # what is of the node itself, and who may not know
    assert code(request("POST", "/ui/do/promote", JSON), beside) is None
    assert code(request("POST", "/primary", JSON), beside) is None
    assert code(request("POST", "/posts", ("Origin", "http://elsewhere")), beside) == "403 foreign_origin"
