"""Who gets to see a token."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.errors import ConfigError
from replicator.web.guard.token_bearer import TokenBearer, bearer_of, is_secret, trusting, withheld_from

TOKEN = "t" * 32


@pytest.mark.parametrize(
    ("url", "is_for"),
    [
        ("http://node-a:8001", True),
        ("http://node-a:8001/v1/state?force=1", True),
        ("HTTP://NODE-A:8001/", True),
        ("https://node-b/", True),
        ("https://node-b:443", True),
        ("http://node-a:8002", False),
        ("https://node-a:8001", False),
        ("http://node-b", False),
        ("http://node-a:8001@evil.example", False),
        ("http://evil.example/http://node-a:8001", False),
        ("http://node-a.evil.example:8001", False),
        ("https://evil.example", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_a_token_is_for_nodes_that_somebody_named(url: str, is_for: bool) -> None:
    assert TokenBearer(TOKEN, ["http://node-a:8001", "https://node-b/x"]).is_for(url) == is_for


def test_with_a_ca_of_their_own_it_is_for_all_that_have_a_certificate() -> None:
    bearer = TokenBearer(TOKEN, has_ca=True)
    assert bearer.is_for("https://anything.example:1")
    assert not bearer.is_for("http://anything.example:1")


@pytest.mark.parametrize(
    ("header", "secret"),
    [
        ("Authorization", True),
        ("Proxy-Authorization", True),
        ("cookie", True),
        ("X-Api-Key", True),
        ("x-apikey", True),
        ("X-Auth-Token", True),
        ("X-CSRF-Token", True),
        ("X-Session-Id", True),
        ("Idempotency-Key", False),
        ("Replicator-Ack", False),
        ("Replicator-Term", False),
        ("If-Match", False),
        ("Content-Type", False),
        ("X-Request-Id", False),
    ],
)
def test_a_header_is_a_secret_by_its_name(header: str, secret: bool) -> None:
    assert is_secret(header) == secret


def test_what_is_given_is_checked_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="token: is no token") as raised:
        bearer_of("two words", None, [], has_ca=False)
    assert "words" not in str(raised.value).replace("one word", "")
    with pytest.raises(ConfigError, match="not both"):
        bearer_of(TOKEN, tmp_path / "x", [], has_ca=False)
    with pytest.raises(ConfigError, match="token_to: 'node-a' is not a URL"):
        bearer_of(TOKEN, None, ["node-a"], has_ca=False)
    with pytest.raises(ConfigError, match=r"ca_file: .*has no certificates in PEM"):
        trusting(tmp_path / "missing")
    assert bearer_of(None, None, [], has_ca=False) is None


def test_why_it_is_withheld_names_the_node_and_no_more() -> None:
    text = str(withheld_from("http://evil.example:1/v1/x?secret=1", how="name it"))
    assert "http://evil.example:1, which only Redis named" in text
    assert "secret" not in text
