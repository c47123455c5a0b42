"""What runs beside a program: commands at changes of the role, and publications when its file was written."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import beside as module
from replicator.beside import Beside, command
from replicator.errors import ConfigError, LogUnavailable
from replicator.service import serve
from replicator.state.file import FileState
from tests.kv import PATIENCE_S, Group, eventually

#: Appends what it is told to the file that it is given.
TELL = """
import os, sys
with open(sys.argv[1], "a") as file:
    print(*(os.environ[f"REPLICATOR_{name}"] for name in ("ROLE", "TERM", "NODE", "GROUP")), file=file)
"""


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path / "nodes")
    yield group
    group.close()


@pytest.fixture
def told(tmp_path: Path) -> Path:
    path = tmp_path / "told"
    path.touch()
    return path


def telling(told: Path) -> str:
    script = told.with_name("tell.py")
    script.write_text(TELL)
    return f"'{sys.executable}' '{script}' '{told}'"


def lines(told: Path) -> list[str]:
    return told.read_text().splitlines()


def test_commands_are_told_each_role(group: Group, told: Path) -> None:
    a, b = group.node("a"), group.node("b")
    with Beside(a, on_primary=telling(told), on_standby=telling(told)):
        eventually(lambda: lines(told) == ["standby 0 a g"])
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: len(lines(told)) == 2)
        b.promote(timeout_s=PATIENCE_S)
        eventually(lambda: len(lines(told)) == 3)
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: len(lines(told)) == 4)
    # and that it does not lead any more, when it ends as the primary
    assert [line.split()[0] for line in lines(told)] == ["standby", "primary", "standby", "primary", "standby"]
    assert lines(told)[1] == "primary 1 a g"
    assert lines(told)[3] == "primary 3 a g"


def test_a_primary_that_cannot_renew_its_lease_has_its_program_stop(group: Group, told: Path) -> None:
    log = group.faulty_log()
    a = group.primary("a", log=log, lease_s=0.5)
    with Beside(a, on_primary=telling(told), on_standby=telling(told)):
        eventually(lambda: lines(told) == ["primary 1 a g"])
        log.renewals_fail = True
        eventually(lambda: lines(told)[1:] == ["standby 1 a g"])
        assert a.role == "primary"
        log.renewals_fail = False
        eventually(lambda: lines(told)[2:] == ["primary 1 a g"])


@pytest.mark.parametrize(
    ("text", "said"),
    [("false", "failed with exit code 1"), ("/no/such/program -x", "cannot be run"), ("sleep 60", "was killed")],
)
def test_a_command_that_fails_is_logged_and_ends_nothing(
    group: Group, told: Path, text: str, said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMAND_TIMEOUT_S", 0.2)
    a = group.node("a")
    with Beside(a, on_primary=telling(told), on_standby=text):
        eventually(lambda: said in caplog.text)
        a.promote(timeout_s=PATIENCE_S)
        monkeypatch.setattr(module, "COMMAND_TIMEOUT_S", PATIENCE_S)
        eventually(lambda: lines(told))
        monkeypatch.setattr(module, "COMMAND_TIMEOUT_S", 0.2)


def test_what_is_no_command_is_refused() -> None:
    assert command("on-primary", "run 'a b' c") == ["run", "a b", "c"]
    with pytest.raises(ConfigError, match=r"on-primary: .*is not a command"):
        command("on-primary", "run 'a")


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"file": Path("a"), "sqlite": Path("b")}, "file"),
        ({"file": Path("a"), "publish_every_s": 0.0}, "publish-every-s"),
        ({"on_standby": "'"}, "on-standby"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_started(
    tmp_path: Path, options: dict[str, Any], setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(ConfigError) as raised:
        serve(
            name="a",
            group="g",
            redis="redis://127.0.0.1:1/0",
            data_dir=tmp_path / "a",
            http="127.0.0.1:0",
            lease_s=1.0,
            on_restart="primary",
            on_log_lost="wait",
            **options,
        )
    assert raised.value.fields["setting"] == setting
    assert not (tmp_path / "a").exists()


def test_what_is_written_is_published_and_only_by_the_primary(group: Group, tmp_path: Path) -> None:
    ours, theirs = FileState(tmp_path / "ours"), FileState(tmp_path / "theirs")
    a, b = group.primary("a", state=ours), group.node("b", state=theirs)
    with Beside(a, ours, publish_every_s=0.05), Beside(b, theirs, publish_every_s=0.05):
        for content in (b"one", b"two"):
            ours.path.write_bytes(content)
            eventually(lambda content=content: theirs.path.exists() and theirs.path.read_bytes() == content)
        # given that nobody writes
        before = a.position
        theirs.path.write_bytes(b"by mistake")
        ours.path.touch()
        eventually(lambda: ours._known is not None and ours._known[0] == ours.seen())
        assert a.position == before
        # then the next publication has the last word
        ours.path.write_bytes(b"three")
        eventually(lambda: theirs.path.read_bytes() == b"three")


def test_what_a_program_writes_when_it_is_told_to_stop_is_published(group: Group, tmp_path: Path) -> None:
    ours, theirs = FileState(tmp_path / "ours"), FileState(tmp_path / "theirs")
    a, b = group.primary("a", state=ours), group.node("b", state=theirs)
    ours.path.write_bytes(b"running")
    script = tmp_path / "stop.py"
    script.write_text("import sys; open(sys.argv[1], 'w').write('stopped')")
    with Beside(a, ours, publish_every_s=0.05, on_standby=f"{sys.executable} {script} {ours.path}") as beside:
        eventually(lambda: beside._told == ("primary", 1))
        eventually(lambda: theirs.path.exists() and theirs.path.read_bytes() == b"running")
    eventually(lambda: theirs.path.read_bytes() == b"stopped")
    eventually(lambda: b.position == a.position)


def test_what_cannot_be_published_now_is_said_once_and_published_later(
    group: Group, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = group.faulty_log()
    state = FileState(tmp_path / "ours")
    a = group.primary("a", state=state, log=log)

    def unavailable(record: Any) -> Any:
        raise LogUnavailable(url=log.url, problem="for a moment")

    with caplog.at_level(logging.INFO), Beside(a, state, publish_every_s=0.02):
        eventually(lambda: "there is no such file" in caplog.text)
        log.faults.append(unavailable)
        state.path.write_bytes(b"there it is")
        eventually(lambda: a.position.id.n == 2)
    assert "for a moment" in caplog.text
    assert caplog.text.count("there is no such file") == 1
