"""What a setting may be: every kind of value that somebody might give."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ConfigError
from replicator.runtime import checks


def refused(check: Callable[[], Any], *, setting: str = "it") -> str:
    with pytest.raises(ConfigError) as raised:
        check()
    assert raised.value.fields["setting"] == setting
    text = str(raised.value)
    assert text.isprintable(), "it can be shown anywhere"
    assert len(text) < 400
    return text


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "0", "-", "..a", "x" * 64])
def test_a_name_is_made_of_what_means_nothing_anywhere(name: str) -> None:
    assert checks.name("it", name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a b", "a\tb", "a\nb", "a\n", "a/b", "{a}", "a:b", "ä", "x" * 65, "x" * 10_000),
        *("a\u00a0b", "a\u2028b", "a\0b", "a\ud800b", "\u0663", None, 1, b"a", ["a"]),
    ],
)
def test_anything_else_is_no_name(name: object) -> None:
    assert "is not a name" in refused(lambda: checks.name("it", name))


@given(st.text(max_size=70))
def test_a_name_can_stand_in_a_list_that_spaces_part(name: str) -> None:
    assert not checks.is_name(name) or f"1/{name} 2/x".split() == [f"1/{name}", "2/x"]


@pytest.mark.parametrize("value", [0, 0.5, 5, 86_400])
def test_seconds_are_a_number(value: float) -> None:
    assert checks.seconds("it", value) == value


@pytest.mark.parametrize("value", ["5", True, None, math.nan, math.inf, -math.inf, 5j, [5]])
def test_what_is_no_number_is_no_time(value: object) -> None:
    assert "is not a number of seconds" in refused(lambda: checks.seconds("it", value))


@pytest.mark.parametrize(
    "value",
    [-0.1, 0.09, 5.1, 1e300, 10**400, 10**9000],
    ids=lambda value: f"{value:.1e}"[:8] if value < 1e300 else "large",
)
def test_seconds_are_bounded(value: float) -> None:
    refused(lambda: checks.seconds("it", value, least=0.1, most=5))


@pytest.mark.parametrize("value", [0, 4, 2.0, "2", True, None])
def test_a_whole_number_is_one(value: object) -> None:
    refused(lambda: checks.whole("it", value, least=1, most=3))
    assert checks.whole("it", 2, least=1, most=3) == 2


@pytest.mark.parametrize("value", ["no", "false", 0, 1, None])
def test_what_python_takes_for_true_is_no_flag(value: object) -> None:
    refused(lambda: checks.flag("it", value))
    assert checks.flag("it", True) is True


def test_a_choice_is_one_of_the_words() -> None:
    assert checks.choice("it", "a", ("a", "b")) == "a"
    for value in ("c", "", None, ["a"], {}):
        assert "is none of a, b" in refused(lambda value=value: checks.choice("it", value, ("a", "b")))  # type: ignore[misc]


@pytest.mark.parametrize("text", ["", "because", "ein Grund: größer\u00a0als 5 €", "理由"])
def test_a_line_is_any_text_that_can_be_shown(text: str) -> None:
    assert checks.line("it", text) == text


@pytest.mark.parametrize(
    "text", ["a\nb", "a\rb", "a\x1b[2Jb", "a\0b", "a\u2028b", "a\ud800b", "a\u202eb", None, 5, "x" * 2001]
)
def test_what_a_terminal_obeys_or_nobody_can_write_is_no_line(text: object) -> None:
    refused(lambda: checks.line("it", text))


@given(st.text(st.characters()))
def test_what_others_wrote_is_shown_on_one_line_and_as_it_is_where_that_does_no_harm(text: str) -> None:
    plain = checks.plain(text)
    assert checks.line("it", plain[:2000]) == plain[:2000]
    assert plain == text or "\\" in plain


def test_a_directory_is_a_path_that_is_not_empty(tmp_path: Path) -> None:
    assert checks.directory("it", tmp_path) == checks.directory("it", str(tmp_path)) == tmp_path
    for value in ("", "a\0b", None, 5, b"a"):
        refused(lambda value=value: checks.directory("it", value))  # type: ignore[misc]


@pytest.mark.parametrize(
    "url", ["", "http://a", "https://a.example:8443/base", "http://127.0.0.1:1", "http://[::1]:8000"]
)
def test_a_url_leads_to_a_host(url: str) -> None:
    assert checks.url("it", url) == url


@pytest.mark.parametrize(
    "url",
    ["a:8000", "ftp://a", "http://", "http://:8000", "http://a:x", "http://a:0", "http://a:70000", "http://a b", "http://a\n",
     None,
     "javascript:x", "http://[::1", "http://a\"b"],
)  # fmt: skip
def test_anything_else_is_no_url(url: object) -> None:
    refused(lambda: checks.url("it", url))


@pytest.mark.parametrize("url", ["http://u:s3cret@a:8000", "https://u@a", "http://:s3cret@a", "http://@a"])
def test_a_url_that_everybody_is_told_has_no_password(url: str) -> None:
    told = refused(lambda: checks.public_url("it", url))
    assert "everybody is told" in told
    assert "s3cret" not in told
    assert checks.public_url("it", "http://a:8000/x") == "http://a:8000/x"


@pytest.mark.parametrize("url", ["http://a/?q=1", "http://a/x#y", "http://a/../x", "http://a/%2e", "http://a/@x"])
def test_a_url_that_others_would_not_believe_is_refused_where_it_is_given(url: str) -> None:
    assert "http://HOST:PORT" in refused(lambda: checks.public_url("it", url))


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "0.0", "0x0", "[::]", "[0:0:0:0:0:0:0:0]", "[::ffff:0.0.0.0]"])
def test_a_url_of_every_address_leads_nowhere(host: str) -> None:
    assert "give one at which others reach it" in refused(lambda: checks.url("it", f"http://{host}:8000"))


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.0", "::1", "::ffff:10.0.0.1", "fe80::", "localhost", "node-a"])
def test_an_address_is_somewhere(host: str) -> None:
    assert not checks.is_anywhere(host)
