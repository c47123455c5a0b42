"""What runs beside a program: commands at changes of the role, and publications when its file was written."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from replicator import ops
from replicator.errors import ConfigError, LogUnavailable, PromotionRefused
from replicator.node.options import NodeOptions
from replicator.service import first_file
from replicator.service import sidecar as module
from replicator.service.proxy import ProxyOptions
from replicator.service.role_commands import Commands, command
from replicator.service.serve import Program, serve
from replicator.service.sidecar import Sidecar
from replicator.state.file import FileState
from tests.support.kv import PATIENCE_S, SHORT_LEASE_S, Group, eventually
from tests.support.role_commands import hands_over, lines, telling

#: Nodes that say often how they are, and that no busy machine costs their lease.
STEADY: dict[str, Any] = {"lease_s": 10 * PATIENCE_S, "beat_every_s": 0.3}


def test_commands_are_told_each_role(group: Group, told: Path) -> None:
    a, b = group.node("a", **STEADY), group.node("b", **STEADY)
    with Sidecar(a, on_primary=telling(told), on_standby=telling(told)):
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
    a = group.primary("a", log=log, lease_s=SHORT_LEASE_S)
    with Sidecar(a, on_primary=telling(told), on_standby=telling(told)):
        # a busy machine may cost it its lease before that, and after: each time it is told the one and then the other
        eventually(lambda: lines(told)[-1:] == ["primary 1 a g"])
        log.renewals_fail = True
        eventually(lambda: lines(told)[-1] == "standby 1 a g")
        assert a.role == "primary"
        log.renewals_fail = False
        eventually(lambda: lines(told)[-1] == "primary 1 a g")
    assert set(lines(told)[::2]) == {"primary 1 a g"}
    assert set(lines(told)[1::2]) == {"standby 1 a g"}


@pytest.mark.parametrize(
    ("text", "said", "limit_s"),
    [
        ("false", "failed with exit code 1", PATIENCE_S),
        ("/no/such/program -x", "cannot be run", PATIENCE_S),
        ("sleep 600", "was killed", 0.2),
    ],
)
def test_a_command_that_fails_is_logged_and_ends_nothing(
    group: Group,
    told: Path,
    text: str,
    said: str,
    limit_s: float,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "COMMAND_TIMEOUT_S", limit_s)
    a = group.node("a", **STEADY)
    with Sidecar(a, on_primary=telling(told), on_standby=text):
        eventually(lambda: said in caplog.text)
        monkeypatch.setattr(module, "COMMAND_TIMEOUT_S", PATIENCE_S)
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: lines(told))
        monkeypatch.setattr(module, "COMMAND_TIMEOUT_S", limit_s)


def noting(told: Path, name: str, *, ends: bool = True) -> str:
    """Notes that it begins, and that it ends: once it is `let_go`, if it does not end by itself."""
    script, go = told.with_name(f"{name}.sh"), told.with_name(f"{name}.go")
    waits = "" if ends else f"while [ ! -e '{go}' ]; do sleep 0.05; done\n"
    script.write_text(f"#!/bin/sh\necho begin-{name} >> '{told}'\n{waits}echo end-{name} >> '{told}'\n")
    script.chmod(0o755)
    return str(script)


def let_go(told: Path, name: str) -> None:
    told.with_name(f"{name}.go").touch()


def test_a_command_for_a_primary_is_cut_short_when_the_node_leads_no_more(group: Group, told: Path) -> None:
    a, b = group.primary("a", **STEADY), group.node("b", **STEADY)
    with Sidecar(a, on_primary=noting(told, "primary", ends=False), on_standby=noting(told, "standby")):
        eventually(lambda: lines(told) == ["begin-primary"])
        b.promote(timeout_s=PATIENCE_S)
        eventually(lambda: lines(told) == ["begin-primary", "begin-standby", "end-standby"])


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows with each look at a command."""
    looks: list[bool] = []
    look = Commands.look

    def counted(self: Commands) -> None:
        look(self)
        looks.append(True)

    monkeypatch.setattr(Commands, "look", counted)
    return looks


def test_a_command_for_a_standby_is_left_to_end_and_another_one_follows(
    group: Group, told: Path, looks: list[bool]
) -> None:
    a = group.node("a", **STEADY)
    with Sidecar(a, on_primary=noting(told, "primary"), on_standby=noting(told, "standby", ends=False)):
        eventually(lambda: lines(told) == ["begin-standby"])
        a.promote(timeout_s=PATIENCE_S)
        seen = len(looks)
        eventually(lambda: len(looks) > seen + 2)
        assert lines(told) == ["begin-standby"]
        let_go(told, "standby")
        eventually(lambda: lines(told) == ["begin-standby", "end-standby", "begin-primary", "end-primary"])


def test_the_end_of_a_node_cuts_the_command_for_a_primary_short_and_waits_for_that_of_a_standby(
    group: Group, told: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a = group.primary("a", **STEADY)
    with Sidecar(a, on_primary=noting(told, "primary", ends=False), on_standby=noting(told, "standby")):
        eventually(lambda: lines(told) == ["begin-primary"])
    assert "was cut short" in caplog.text
    assert lines(told) == ["begin-primary", "begin-standby", "end-standby"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("false", "--on-primary: false failed with exit code 1"), ("/no/such/program -x", "cannot be run")],
)
def test_a_command_that_fails_is_told_until_one_goes_well(group: Group, told: Path, text: str, said: str) -> None:
    a, b = group.primary("a", **STEADY), group.node("b", **STEADY)

    def problem() -> str:
        return next((node.problem or "" for node in ops.status(group.log()).nodes if node.node == "a"), "")

    with Sidecar(a, on_primary=text, on_standby=telling(told)):
        eventually(lambda: said in problem())
        # a node with that problem can lead all the same
        assert group.log().look().heartbeats["a"].stalled == ""
        b.promote(timeout_s=PATIENCE_S)
        eventually(lambda: lines(told))
        eventually(lambda: not problem())


def test_what_cannot_be_published_is_told_until_it_is(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_file, "MADE_WITHIN_S", 0.0)
    state = FileState(tmp_path / "ours")
    a = group.primary("a", state=state, **STEADY)

    def problem() -> str:
        return "".join(node.problem or "" for node in ops.status(group.log()).nodes)

    with Sidecar(a, state, publish_every_s=0.02):
        eventually(lambda: "not published: the state in" in problem())
        state.path.write_bytes(b"there it is")
        eventually(lambda: not problem())


# --- a switchover -----------------------------------------------------------------------------------------------------


#: Writes a counter into a file until it is told to stop, and notes the last one that it told its users.
COUNT = """
import os, sys, time
path, told, stop = sys.argv[1:]
n = int(open(path).read()) if os.path.exists(path) else 0
while not os.path.exists(stop):
    n += 1
    with open(path + ".tmp", "w") as file:
        file.write(str(n))
    os.replace(path + ".tmp", path)
    with open(told + ".tmp", "w") as file:
        file.write(str(n))
    os.replace(told + ".tmp", told)
    time.sleep(0.005)
os.unlink(stop)
"""

STOP = """
import os, sys, time
open(sys.argv[1], "w").close()
while os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""


def test_a_switchover_stops_the_program_and_publishes_what_it_wrote_last(group: Group, tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(COUNT)
    (tmp_path / "stop.py").write_text(STOP)
    ours, theirs = FileState(tmp_path / "ours"), FileState(tmp_path / "theirs")
    a, b = group.primary("a", state=ours, **STEADY), group.node("b", state=theirs, **STEADY)
    program = subprocess.Popen([sys.executable, tmp_path / "count.py", ours.path, tmp_path / "told", tmp_path / "stop"])
    stop = f"{sys.executable} {tmp_path / 'stop.py'} {tmp_path / 'stop'}"
    try:
        # given that it is published rarely
        with Sidecar(a, ours, publish_every_s=0.5, on_standby=stop), Sidecar(b, theirs):
            eventually(theirs.path.exists)
            eventually(lambda: hands_over(group, "a", to="b"))
            assert {node.node: node.has_program for node in ops.status(group.log()).nodes}["a"]
            # when somebody else is to lead
            done = ops.switchover(group.log(), "b", by="ops", timeout_s=PATIENCE_S)
            # then that one has all that the users were told
            assert (done.primary, done.handed_over) == ("b", True)
            assert theirs.path.read_text() == (tmp_path / "told").read_text()
            eventually(lambda: a.role == "standby" and a.position == b.position)
            assert list(tmp_path.glob("*.replaced-*")) == []
            assert program.wait(PATIENCE_S) == 0
            eventually(lambda: a.handover.answer == "")
    finally:
        program.kill()
        program.wait()


def test_a_program_that_was_stopped_for_a_switchover_that_does_not_come_goes_on(group: Group, told: Path) -> None:
    a = group.primary("a", **STEADY)
    with Sidecar(a, on_primary=telling(told), on_standby=telling(told)) as sidecar:
        eventually(lambda: lines(told) == ["primary 1 a g"])
        eventually(lambda: "a" in group.log().look().heartbeats)
        request = group.log().request("prepare", by="ops", node="a")
        eventually(lambda: group.log().look().heartbeats["a"].prepared == request)
        assert lines(told)[1:] == ["standby 1 a g"]
        # when it has been waited for for long enough
        assert sidecar._handing_over is not None
        sidecar._handing_over = sidecar._handing_over._replace(until=time.monotonic())
        eventually(lambda: lines(told)[2:] == ["primary 1 a g"])
        eventually(lambda: group.log().look().heartbeats["a"].prepared == "")
        assert a.role == "primary"


def test_a_program_that_cannot_be_stopped_is_not_switched_over(group: Group, told: Path) -> None:
    a, b = group.primary("a", **STEADY), group.node("b", **STEADY)
    with Sidecar(a, on_primary=telling(told), on_standby="false"):
        eventually(lambda: lines(told) == ["primary 1 a g"])
        eventually(lambda: hands_over(group, "a", to="b"))
        with pytest.raises(PromotionRefused, match=r"a cannot hand over .*failed with exit code 1"):
            ops.switchover(group.log(), "b", by="ops", timeout_s=PATIENCE_S)
        # then it goes on
        eventually(lambda: lines(told)[1:] == ["primary 1 a g"])
        assert (a.role, b.role) == ("primary", "standby")


def test_what_cannot_be_published_last_is_not_switched_over(group: Group, tmp_path: Path, told: Path) -> None:
    state = FileState(tmp_path / "ours")
    a = group.primary("a", state=state, **STEADY)
    group.node("b", state=FileState(tmp_path / "theirs"), **STEADY)
    with Sidecar(a, state, publish_every_s=0.05, on_primary=telling(told), on_standby=telling(told)):
        eventually(lambda: lines(told) == ["primary 1 a g"])
        eventually(lambda: hands_over(group, "a", to="b"))
        with pytest.raises(PromotionRefused, match="there is no such file"):
            ops.switchover(group.log(), "b", by="ops", timeout_s=PATIENCE_S)
        eventually(lambda: lines(told)[1:] == ["standby 1 a g", "primary 1 a g"])


def test_a_program_that_does_not_stop_in_time_is_not_switched_over(
    group: Group, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.ops.promotion.PREPARE_TIMEOUT_S", 0.3)
    a = group.primary("a", **STEADY)
    group.node("b", **STEADY)
    with Sidecar(a, on_standby=noting(told, "standby", ends=False)):
        eventually(lambda: hands_over(group, "a", to="b"))
        with pytest.raises(TimeoutError, match="a has not said that its program has stopped; nothing was done"):
            ops.switchover(group.log(), "b", by="ops", timeout_s=PATIENCE_S)
        assert a.role == "primary"
        let_go(told, "standby")


def test_what_is_no_command_is_refused() -> None:
    assert command("on-primary", "run 'a b' c") == ["run", "a b", "c"]
    with pytest.raises(ConfigError, match=r"on-primary: .*is not a command"):
        command("on-primary", "run 'a")


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"file": Path("a"), "sqlite": Path("b")}, "file"),
        ({"sqlite": Path("b"), "sqlite_live": True}, "sqlite-live"),
        ({"file": Path("a"), "sqlite_by": "pages"}, "sqlite-by"),
        ({"sqlite": Path("b"), "sqlite_by": "pages", "key_file": Path("keys")}, "sqlite-by"),
        ({"file": Path("a"), "publish_every_s": 0.0}, "publish-every-s"),
        ({"on_standby": "'"}, "on-standby"),
        ({"proxy": ProxyOptions(listen="127.0.0.1:0", target="127.0.0.1:1")}, "proxy"),
        (
            {"proxy": ProxyOptions(listen="127.0.0.1:0", target="127.0.0.1:1", reads="local"), "run": "x"}
            | {"file": Path("a")},
            "proxy-reads",
        ),
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
            options=NodeOptions(lease_s=1.0, key_file=options.get("key_file")),
            program=Program(**{name: value for name, value in options.items() if name != "key_file"}),
        )
    assert raised.value.fields["setting"] == setting
    assert not (tmp_path / "a").exists()


def written(path: Path, content: bytes) -> None:
    """All of it at once: nobody sees a file that is not whole yet, however long this machine stands still."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)


def test_what_is_written_is_published_and_only_by_the_primary(group: Group, tmp_path: Path) -> None:
    ours, theirs = FileState(tmp_path / "ours"), FileState(tmp_path / "theirs")
    a, b = group.primary("a", state=ours, **STEADY), group.node("b", state=theirs, **STEADY)
    with Sidecar(a, ours, publish_every_s=0.05), Sidecar(b, theirs, publish_every_s=0.05):
        for content in (b"one", b"two"):
            written(ours.path, content)
            eventually(lambda content=content: theirs.path.exists() and theirs.path.read_bytes() == content)
        # given that nobody writes
        eventually(lambda: a.position == b.position)
        before = a.position
        theirs.path.write_bytes(b"by mistake")
        ours.path.touch()
        eventually(lambda: ours._known is not None and ours._known[0] == ours.seen())
        assert a.position == before
        # then the next publication has the last word
        written(ours.path, b"three")
        eventually(lambda: theirs.path.read_bytes() == b"three")


def test_what_a_program_writes_when_it_is_told_to_stop_is_published(group: Group, tmp_path: Path) -> None:
    ours, theirs = FileState(tmp_path / "ours"), FileState(tmp_path / "theirs")
    a, b = group.primary("a", state=ours, **STEADY), group.node("b", state=theirs, **STEADY)
    ours.path.write_bytes(b"running")
    script = tmp_path / "stop.py"
    script.write_text("import sys; open(sys.argv[1], 'w').write('stopped')")
    with Sidecar(a, ours, publish_every_s=0.05, on_standby=f"{sys.executable} {script} {ours.path}") as beside:
        eventually(lambda: beside._told == ("primary", 1))
        eventually(lambda: theirs.path.exists() and theirs.path.read_bytes() == b"running")
    eventually(lambda: theirs.path.read_bytes() == b"stopped")
    eventually(lambda: b.position == a.position)


def test_what_cannot_be_published_now_is_said_once_and_published_later(
    group: Group, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_file, "MADE_WITHIN_S", 0.0)
    log = group.faulty_log()
    state = FileState(tmp_path / "ours")
    a = group.primary("a", state=state, log=log, **STEADY)

    def unavailable(record: Any) -> Any:
        raise LogUnavailable(url=log.url, problem="for a moment")

    with caplog.at_level(logging.INFO), Sidecar(a, state, publish_every_s=0.02):
        eventually(lambda: "there is no such file" in caplog.text)
        log.faults.append(unavailable)
        written(state.path, b"there it is")
        eventually(lambda: a.position.id.n == 2)
    assert "for a moment" in caplog.text
    said = [r for r in caplog.records if r.levelno == logging.ERROR and "there is no such file" in r.getMessage()]
    assert len(said) == 1


def test_a_file_that_its_program_has_not_made_yet_is_no_trouble(
    group: Group, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_file, "MADE_WITHIN_S", math.inf)
    state = FileState(tmp_path / "ours")
    with caplog.at_level(logging.INFO):
        a = group.primary("a", state=state, **STEADY)
        with Sidecar(a, state, publish_every_s=0.02) as beside:
            eventually(lambda: "is not there yet" in caplog.text)
            assert "there is no such file" in beside.publish_now().problem, "who waits for it is told"
            written(state.path, b"made")
            eventually(lambda: a.position.id.n == 2)
            assert not [r.getMessage() for r in caplog.records if r.levelno > logging.INFO]
            # it was there, and is gone
            state.path.unlink()
            eventually(lambda: [r for r in caplog.records if r.levelno == logging.ERROR])
    assert caplog.text.count("is not there yet") == 1


def test_a_bug_is_told_once_and_tried_more_and_more_rarely(
    group: Group, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    def broken(self: Sidecar) -> None:
        tries.append(time.monotonic())
        raise ValueError("seven")

    monkeypatch.setattr(Sidecar, "_tell", broken)
    with caplog.at_level(logging.INFO), Sidecar(group.node("a")):
        eventually(lambda: len(tries) > 1)
        time.sleep(2.0)
    assert len(tries) < 10, "on a slow machine there are fewer"
    assert sum("a bug in replicator" in record.getMessage() for record in caplog.records) == 1
