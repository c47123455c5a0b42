"""The file with a group's keys: what it may say, and that it is looked at again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replicator.errors import ConfigError
from replicator.storage.keyring import (
    Entry,
    KeyFile,
    changed,
    cloak,
    dropped,
    new_key,
    read_entries,
    sealing_of,
    write_entries,
)

ONE, TWO = Entry(True, b"1" * 32), Entry(False, b"2" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_what_is_written_is_read_and_is_for_its_owner_alone(path: Path) -> None:
    entries = [ONE, TWO, Entry(False, None)]
    write_entries(path, entries, new=True)
    assert read_entries(path) == entries
    assert path.stat().st_mode & 0o777 == 0o600
    keyring = KeyFile(path).of("g").keyring
    assert keyring.writes is not None
    assert (keyring.writes.secret, len(keyring.opens), keyring.takes_unsealed) == (b"1" * 32, 2, True)


def test_one_that_is_there_is_not_overwritten(path: Path) -> None:
    write_entries(path, [ONE], new=True)
    with pytest.raises(ConfigError, match="is there already"):
        write_entries(path, [ONE], new=True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "0 lines that begin with `write`"),
        (f"{ONE}\n{Entry(True, b'2' * 32)}\n", "2 lines"),
        (f"{ONE}\n{Entry(False, b'1' * 32)}\n", "a key twice"),
        (str(ONE)[:-6] + "AAAAA=", "copied wrong"),
        (f"write 00000000 {str(ONE).split()[2]}", "copied wrong"),
        ("write 00000000 %%%", "copied wrong"),
        ("write 00000000 é", "copied wrong"),
        ("reads 00000000 x", "line 1 of"),
    ],
)
def test_what_is_no_key_file_is_refused_with_the_line(path: Path, text: str, problem: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=problem) as raised:
        KeyFile(path)
    assert str(ONE).split()[2] not in str(raised.value), "no key in a message"


def test_one_that_others_may_read_is_refused(path: Path) -> None:
    write_entries(path, [ONE])
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_entries(path)


def test_one_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{path} cannot be read"):
        sealing_of(path, "g")
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        sealing_of(path, "g")
    assert sealing_of("", "g") is None


def test_the_key_that_writes_is_changed_and_another_one_dropped() -> None:
    (one, two) = changed([ONE, TWO], TWO.name)
    assert (one.writes, two.writes) == (False, True)
    assert dropped([one, two], one.name) == [two]
    with pytest.raises(ConfigError, match="the one that writes"):
        dropped([one, two], two.name)
    with pytest.raises(ConfigError, match="no key 'nobody'"):
        changed([ONE, TWO], "nobody")


def test_it_is_looked_at_again_and_one_that_is_broken_changes_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_entries(path, [ONE])
    file = KeyFile(path)
    sealing = file.of("g")
    write_entries(path, [ONE, TWO])
    sealing.refresh()
    assert len(sealing.keyring.opens) == 2
    path.write_text("broken, and longer than what was there before " * 9)
    sealing.refresh()
    assert len(sealing.keyring.opens) == 2
    assert "going on with the keys that it had" in caplog.text
    path.unlink()
    sealing.refresh()
    assert len(sealing.keyring.opens) == 2


def test_a_cloaked_file_is_read_back_at_any_offset() -> None:
    data, cloaked = os.urandom(1000), cloak()
    hidden = cloaked(0, data[:333]) + cloaked(333, data[333:])
    assert hidden != data
    for start, end in ((0, 1000), (17, 18), (16, 32), (333, 999), (1000, 1000)):
        assert cloaked(start, hidden[start:end]) == data[start:end]
    assert cloak()(0, hidden) != data
    assert new_key() != new_key()
