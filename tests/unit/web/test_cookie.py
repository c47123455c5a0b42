"""The cookie with a position in it."""

from __future__ import annotations

from typing import Any

import pytest

from replicator import ConfigError, RecordId
from replicator.web.cookie import Cookie


@pytest.mark.parametrize(
    ("cookies", "position"),
    [
        ("replicator-position=5-1042", RecordId(5, 1042)),
        ("a=b; replicator-position=5-1042; c", RecordId(5, 1042)),
        ("a=b;replicator-position=5-1042", RecordId(5, 1042)),
        # of two, the first one that can be one: browsers send that of the longest path first
        ("replicator-position=x; replicator-position=5-1; replicator-position=5-2", RecordId(5, 1)),
        ("", None),
        ("replicator-position", None),
        ("my-replicator-position=5-1042", None),
        ("replicator-position=5-1042x", None),
        ('replicator-position="5-1042"', None),
        ("replicator-position=99999999999999999-1", None),
    ],
)
def test_it_is_read(cookies: str, position: RecordId | None) -> None:
    assert Cookie().read(cookies) == position


def test_it_is_written_as_it_is_set_up() -> None:
    cookie = Cookie(name="__Host-at", max_age_s=60, path="/app", same_site="Strict", secure=True)
    assert cookie.set_to("5-1") == "__Host-at=5-1; Max-Age=60; Path=/app; HttpOnly; SameSite=Strict; Secure"
    assert cookie.cleared == "__Host-at=; Max-Age=0; Path=/app; HttpOnly; SameSite=Strict; Secure"
    # which browsers take only like that
    assert "; Secure" in Cookie(same_site="None").set_to("5-1")


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "a b"}, {"name": ""}, {"name": "a=b"}, {"name": 7}, {"after": "reads"}, {"max_age_s": 0},
        {"max_age_s": "60"}, {"path": "app"}, {"path": "/;Domain=x"}, {"path": "/\r\n"}, {"same_site": "lax"},
        {"secure": "yes"},
    ],
)  # fmt: skip
def test_what_cannot_be_in_a_cookie_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"cookie {next(iter(settings))}"):
        Cookie(**settings)
