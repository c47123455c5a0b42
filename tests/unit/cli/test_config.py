"""The settings file of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.cli.config import FILE_BYTES_MAX, load_settings
from replicator.errors import ConfigError


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "settings.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_names_may_have_dashes_or_underscores(tmp_path: Path) -> None:
    path = written(tmp_path, 'log-level = "INFO"\n[node]\ndata-dir = "data/a"\nlease_s = 2.5\n')
    assert load_settings(path) == {"log_level": "INFO", "node": {"data_dir": "data/a", "lease_s": "2.5"}}


def test_values_are_texts_as_an_option_gets_them(tmp_path: Path) -> None:
    path = written(tmp_path, "[node]\na = 5\nb = true\nc = 2.5\nd = false\ne = 'x'\nf = 0x10\n")
    assert load_settings(path) == {"node": {"a": "5", "b": "true", "c": "2.5", "d": "false", "e": "x", "f": "16"}}


@pytest.mark.parametrize("value", ["[]", "['a']", "1979-05-27", "07:32:00", "{a = 1}", "9223372036854775808"])
def test_a_value_that_no_option_takes_is_an_error_that_names_the_setting(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="lease_s must be a text, a number of at most 64 bits, or true or false"):
        load_settings(written(tmp_path, f"[node]\nlease-s = {value}\n"))


@pytest.mark.parametrize("digits", ["9" * 5000, "0x" + "f" * 5000])
def test_a_number_of_thousands_of_digits_is_an_error(tmp_path: Path, digits: str) -> None:
    with pytest.raises(ConfigError, match=r"settings\.toml: "):
        load_settings(written(tmp_path, f"group = {digits}\n"))


def test_a_null_character_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data_dir has a null character in it"):
        load_settings(written(tmp_path, '[node]\ndata-dir = "a\\u0000b"\n'))


def test_a_name_with_a_dash_and_with_an_underscore_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lease-s is there twice"):
        load_settings(written(tmp_path, "[node]\nlease-s = 1\nlease_s = 2\n"))


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, "")) == {}


@pytest.mark.parametrize(
    "text",
    ["redis = ", "redis = 1\nredis = 2", b"redis = '\xff'", "a = " + "[" * 100_000],
    ids=["not TOML", "twice", "not UTF-8", "nested"],
)
def test_what_is_not_toml_is_an_error_that_names_the_file(tmp_path: Path, text: str | bytes) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match="it is not TOML") as raised:
        load_settings(path)
    assert raised.value.fields["setting"] == str(path)


def test_a_file_that_cannot_be_read_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="directory"):
        load_settings(tmp_path)


def test_a_huge_file_is_not_a_settings_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is it a settings file"):
        load_settings(written(tmp_path, b"#" * (FILE_BYTES_MAX + 1)))
