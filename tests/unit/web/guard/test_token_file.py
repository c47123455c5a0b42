"""The files of tokens: what may be in them, who may read them, and that no message shows one."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from replicator.errors import ConfigError
from replicator.web.guard import token_file
from replicator.web.guard.token_file import TokenFile, Tokens, new_token, read_token

READ, WRITE, ADMIN = (letter * 32 for letter in "rwa")

LINES = f"# who reads\nread  {READ}\n\n\twrite\t{WRITE}   \nadmin {ADMIN}\n"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_each_token_has_its_right(tmp_path: Path) -> None:
    tokens = TokenFile(written(tmp_path / "tokens", LINES))
    assert [tokens.right_of(token) for token in (READ, WRITE, ADMIN)] == ["read", "write", "admin"]
    assert [tokens.right_of(token) for token in ("", READ[1:], READ + "r", "#", "ÿ" * 32)] == [None] * 5


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "there is no token in it", id="an empty file"),
        pytest.param("# read x\n", "there is no token in it", id="comments alone"),
        pytest.param(f"{READ}\n", "line 1 is not a right and a token", id="no right"),
        pytest.param(f"\n{READ} read\n", "line 2 is not a right and a token", id="the other way round"),
        pytest.param(f"owner {READ}\n", "line 1 is not a right and a token", id="an unknown right"),
        pytest.param(f"read {READ} alice\n", "line 1 is not a right and a token", id="a third word"),
        pytest.param("read " + READ[:21], "line 1 has no token of 22 to 512", id="a short one"),
        pytest.param("read " + READ * 20, "line 1 has no token of 22 to 512", id="a long one"),
        pytest.param('read "' + READ + '"', "line 1 has no token of 22 to 512", id="quotes"),
        pytest.param(f"read {READ}\nadmin {READ}\n", "line 2 has the token of a line before it", id="twice"),
        pytest.param("#" + "x" * token_file.BYTES_MAX, "is larger than a file of tokens", id="some other file"),
    ],
)
def test_what_is_no_file_of_tokens_is_refused_without_showing_one(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        TokenFile(written(tmp_path / "tokens", text))
    assert READ[:21] not in str(raised.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o660, 0o666, 0o610])
def test_one_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "tokens", LINES, mode)
    with pytest.raises(ConfigError, match=r"others may (use|write) it .*chmod"):
        TokenFile(path)
    with pytest.raises(ConfigError, match=r"others may (use|write) it .*chmod"):
        read_token("token_file", path)


def test_one_of_another_owner_is_theirs_to_close_unless_others_may_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    path = written(tmp_path / "tokens", LINES, 0o644)
    assert TokenFile(path).right_of(READ) == "read"
    path.chmod(0o664)
    with pytest.raises(ConfigError, match="others may write it"):
        TokenFile(path)


def test_one_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        TokenFile(tmp_path / "tokens")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        TokenFile(tmp_path)


def test_what_changes_counts_a_second_later(tmp_path: Path, clock: Clock) -> None:
    path = written(tmp_path / "tokens", LINES)
    tokens = TokenFile(path, clock=clock)
    path.write_text(f"admin {READ}\n")
    assert tokens.right_of(READ) == "read"
    clock.now += token_file.READ_EVERY_S
    assert (tokens.right_of(READ), tokens.right_of(WRITE)) == ("admin", None)


@pytest.mark.parametrize("breaks", ["half", "open", "gone"])
def test_one_that_cannot_be_used_any_more_changes_nothing_and_is_told_once(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, breaks: str
) -> None:
    path = written(tmp_path / "tokens", LINES)
    tokens = TokenFile(path, clock=clock)
    if breaks == "half":
        path.write_text(f"admin {READ}\nwri")
    elif breaks == "open":
        path.chmod(0o644)
    else:
        path.unlink()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            clock.now += token_file.READ_EVERY_S
            assert tokens.right_of(READ) == "read"
        assert len(caplog.records) == 1
        assert READ not in caplog.text
        written(path, f"admin {READ}\n")
        clock.now += token_file.READ_EVERY_S
        assert tokens.right_of(READ) == "admin"
    assert "can be used again" in caplog.text


def test_all_tokens_are_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the time that it takes says nothing of which one it was like."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(token_file.hmac, "compare_digest", compare)
    tokens = Tokens([("read", READ), ("write", WRITE), ("admin", ADMIN)])
    for sent in (READ, ADMIN, "x", ""):
        compared.clear()
        tokens.right_of(sent)
        assert len(compared) == 3
        assert {len(part) for pair in compared for part in pair} == {32}


def test_a_client_has_one_token_in_a_file_of_its_own(tmp_path: Path) -> None:
    assert read_token("token_file", written(tmp_path / "token", f"{READ}\n")) == READ
    with pytest.raises(ConfigError, match="is no token") as raised:
        read_token("token_file", written(tmp_path / "tokens", LINES))
    assert READ not in str(raised.value)


def test_a_new_one_fits_and_is_another_each_time(tmp_path: Path) -> None:
    made = {new_token() for _ in range(3)}
    assert len(made) == 3
    tokens = TokenFile(written(tmp_path / "tokens", "".join(f"read {token}\n" for token in made)))
    assert {tokens.right_of(token) for token in made} == {"read"}
