"""Commands: one at a time, ended with all that they started, and what they leave running stays."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from replicator.errors import ProgramError
from replicator.service import role_commands as module
from replicator.service.role_commands import Commands, without_secrets
from tests.support.kv import PATIENCE_S, eventually

ABOUT = {"ROLE": "primary", "TERM": "1", "NODE": "a", "GROUP": "g"}


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def lives(pid: Path) -> bool:
    try:
        stat = Path(f"/proc/{pid.read_text().strip()}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def started(line: str, said: list[ProgramError | None], *, limit_s: float = PATIENCE_S) -> Commands:
    commands = Commands({"primary": [line], "standby": []}, report=said.append)
    commands.begin("primary", about=ABOUT, limit_s=limit_s)
    return commands


@pytest.mark.parametrize("how", ["it runs for too long", "its role is over"])
@pytest.mark.parametrize("ignores", ["", "trap '' TERM; "])
def test_whoever_ends_a_command_ends_all_that_it_started(
    tmp_path: Path, how: str, ignores: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.2)
    # given a script that waits for another one, which may take no SIGTERM
    child = script(tmp_path / "child", f"{ignores}echo $$ > {tmp_path / 'pid.new'}; mv {tmp_path / 'pid.new'} "
                                       f"{tmp_path / 'pid'}\nwhile :; do sleep 0.1; done\n")  # fmt: skip
    said: list[ProgramError | None] = []
    commands = started(script(tmp_path / "parent", f"{child}\necho more\n"), said)
    eventually((tmp_path / "pid").exists)
    if how == "its role is over":
        commands.cut_short()
        assert said == []
    else:
        commands._until = 0.0
        commands.look()
        assert [str(each) for each in said if each] == [
            f"--on-primary: {tmp_path / 'parent'} ran for {PATIENCE_S:g} s and was killed"
        ]
    assert commands.running == ""
    eventually(lambda: not lives(tmp_path / "pid"))


def test_what_a_command_leaves_running_is_the_program_and_stays(tmp_path: Path) -> None:
    said: list[ProgramError | None] = []
    line = script(tmp_path / "start", f"sleep 600 >/dev/null 2>&1 &\necho $! > {tmp_path / 'pid'}\n")
    commands = started(line, said)
    commands.finish()
    assert said == [None]
    commands.cut_short()
    assert lives(tmp_path / "pid")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_one_that_is_ended_by_a_signal_has_failed(tmp_path: Path) -> None:
    said: list[ProgramError | None] = []
    commands = started(script(tmp_path / "it", "kill -9 $$\n"), said)
    commands.finish()
    assert commands.failed == "was ended by signal 9"
    assert "was ended by signal 9" in str(said[0])


def test_an_empty_one_is_not_run_and_did_not_fail() -> None:
    said: list[ProgramError | None] = []
    commands = Commands({"primary": [], "standby": ["false"]}, report=said.append)
    commands.begin("standby", about=ABOUT, limit_s=PATIENCE_S)
    commands.finish()
    assert commands.failed
    commands.begin("primary", about=ABOUT, limit_s=PATIENCE_S)
    assert (commands.running, commands.failed) == ("", "")


def test_a_command_inherits_no_url_with_a_password_in_it() -> None:
    given = {
        "REPLICATOR_REDIS": "redis://:pw@h/0",
        "REPLICATOR_ARCHIVE": "s3://bucket",
        "REPLICATOR_REDIS_PASSWORD_FILE": "/etc/password",
        "DATABASE_URL": "postgres://ann:pw@h",
    }
    assert without_secrets(given) == {name: value for name, value in given.items() if name != "REPLICATOR_REDIS"}
    plain = {"REPLICATOR_REDIS": "redis://ann@h/0?password_file=/etc/password"}
    assert without_secrets(plain) == plain
