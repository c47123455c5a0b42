"""Passwords in files."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from replicator.errors import ConfigError
from replicator.log.password_file import FilePassword, _tell_that_it_is_exposed, is_exposed, password_of


def written(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_it_is_read_again_for_each_connection(tmp_path: Path) -> None:
    path = written(tmp_path / "p", "one\n")
    provider = FilePassword(path, "ann")
    assert provider.get_credentials() == ("ann", "one")
    written(tmp_path / "p", "two")
    assert provider.get_credentials() == ("ann", "two")
    assert FilePassword(path).get_credentials() == ("two",), "of the user `default`"


def test_a_file_that_is_gone_later_is_told_as_a_problem_of_the_connection(tmp_path: Path) -> None:
    provider = FilePassword(written(tmp_path / "p", "one"))
    (tmp_path / "p").unlink()
    with pytest.raises(redis.exceptions.ConnectionError, match="the file of the password cannot be used"):
        provider.get_credentials()


@pytest.mark.parametrize("text", ["", "\n", "one\ntwo\n", "x" * 5000])
def test_a_file_that_has_no_password_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"a-setting: .*one line, and nothing else"):
        password_of("a-setting", written(tmp_path / "p", text))


@pytest.mark.parametrize(("mode", "exposed"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_one_that_others_may_read_is_warned_of_once(
    mode: int, exposed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _tell_that_it_is_exposed.cache_clear()
    path = written(tmp_path / "p", "the password", mode)
    for _ in range(2):
        assert password_of("x", path) == "the password"
    assert is_exposed(path) is exposed
    assert [record.__dict__["event"] for record in caplog.records] == ["redis.password_readable"] * exposed
    assert "the password" not in caplog.text.replace("the password in", "")
