"""The program of a node runs where the node leads, and nowhere else; one that is not well costs the node its lease."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from replicator import ConfigError, LogUnavailable, Node, PromotionRefused, ops
from replicator.node.leadership import Leadership, Tenure
from replicator.runtime.process import Owner
from replicator.service import requests_under_way
from replicator.service.run import RunOptions, RunProgram, program
from replicator.service.run.keeper import ControlGroup
from replicator.service.sidecar import Sidecar
from tests.support.beacon import beacon, signs
from tests.support.kv import PATIENCE_S, Group, eventually, in_thread
from tests.support.needs import needs
from tests.support.role_commands import hands_over

#: Nobody's patience is so long, and no machine so busy: such a lease is not lost.
LONG_LEASE_S = 10 * PATIENCE_S

#: The product's own. For what has to come about within one, or takes that long.
LEASE_S = 5.0

#: For what has to wait until one is over. A busy machine may cost a node this one, which then leads on a moment later.
SHORT_LEASE_S = 2.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signs"


Beside = Callable[..., Node]


@pytest.fixture
def beside(group: Group) -> Iterator[Beside]:
    """A node that runs a program, and what looks after that."""
    with ExitStack() as stack:

        def beside(name: str, command: str, *, check: str = "", lease_s: float = LONG_LEASE_S, **more: object) -> Node:
            options = RunOptions(command=command, check=check, check_every_s=0.1, stop_s=5.0)
            node, run = with_program(group, name, options, lease_s=lease_s, **more)
            node.start()
            # It does not lead before its watchdog has answered, for which a start does not wait long.
            eventually(lambda: "watchdog" not in node.problem)
            stack.enter_context(Sidecar(node, run=run))
            return node

        yield beside


def with_program(
    group: Group, name: str, options: RunOptions, *, lease_s: float = LONG_LEASE_S, **more: object
) -> tuple[Node, RunProgram]:
    """A node, which is not started yet, and its program."""
    run = RunProgram(options, lease_s=lease_s)
    node = group.new_node(name, lease_s=lease_s, watchdog=run.unfit, **more)
    run.attach(node)
    return node, run


def terms(path: Path) -> list[tuple[int, str]]:
    return [(sign.term, sign.node) for sign in signs(path) if sign.what == "start"]


def runs(path: Path, node: Node) -> bool:
    return bool(signs(path)) and (signs(path)[-1].node, signs(path)[-1].what) == (node.name, "lives")


def assert_one_at_a_time(path: Path) -> None:
    """No two runs overlap: each has ended before the next one is seen."""
    by_run = [list(each) for _, each in groupby(signs(path), lambda sign: sign.pid)]
    assert len({each[0].pid for each in by_run}) == len(by_run), "one began while another still lived"
    assert all(one[-1].at <= other[0].at for one, other in pairwise(by_run))


def test_it_runs_where_the_node_leads_and_nowhere_else(beside: Beside, path: Path) -> None:
    a, b = (beside(name, beacon(path), lease_s=SHORT_LEASE_S) for name in "ab")
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: runs(path, a), patience_s=3 * PATIENCE_S)
    b.promote(timeout_s=PATIENCE_S)
    eventually(lambda: runs(path, b), patience_s=3 * PATIENCE_S)
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: (3, "a") in terms(path), patience_s=3 * PATIENCE_S)
    # on a busy machine it may have ended with the lease, and begun again in the same term
    assert [term for term, _ in groupby(terms(path))] == [(1, "a"), (2, "b"), (3, "a")]
    assert_one_at_a_time(path)


def test_after_a_switchover_it_waits_for_no_lease_since_the_other_one_was_ended_first(
    group: Group, beside: Beside, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given leases that are longer than anybody's patience here
    a, b = beside("a", beacon(path)), beside("b", beacon(path))
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: runs(path, a))
    eventually(lambda: hands_over(group, "a", to="b"))
    ops.switchover(group.log(), "b", by="ops", timeout_s=PATIENCE_S)
    eventually(lambda: runs(path, b))
    # when one is asked for that does not come, it leads on in the term after, and its program is there again
    monkeypatch.setattr("replicator.service.sidecar.HANDED_OVER_FOR_S", 0.2)
    group.log().request("prepare", by="ops", node="b")
    eventually(lambda: b.term == 3 and runs(path, b))
    monkeypatch.undo()
    eventually(lambda: hands_over(group, "b", to="a"))
    ops.switchover(group.log(), "a", by="ops", timeout_s=PATIENCE_S)
    eventually(lambda: runs(path, a))
    assert terms(path) == [(1, "a"), (2, "b"), (3, "b"), (4, "a")]
    assert_one_at_a_time(path)


def test_who_comes_when_a_switchover_is_given_up_keeps_the_lead(
    group: Group, beside: Beside, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.service.sidecar.HANDED_OVER_FOR_S", 0.2)
    a, b = beside("a", beacon(path)), beside("b", beacon(path))
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: runs(path, a))
    promote, refused = a.promote, []

    def too_late(**more: Any) -> int:
        if not refused:
            # given that Redis is away at first, and then that another one leads, of which this one has yet to hear
            refused.append("away")
            raise LogUnavailable(url="x", problem="away")
        eventually(lambda: "cannot lead on" in a.problem)
        b.promote(timeout_s=PATIENCE_S)
        try:
            return promote(**more)
        except PromotionRefused as error:
            refused.append(str(error))
            raise

    monkeypatch.setattr(a, "promote", too_late)
    # when a switchover is asked for that seems not to come
    group.log().request("prepare", by="ops", node="a")
    # then it is left to lead, and is not waited for; and what was in the way of the first one is no problem any more
    eventually(lambda: runs(path, b))
    eventually(lambda: not a.problem)
    assert (group.log().look().term, len(refused)) == (2, 2)
    assert "held by b, and not the expected one" in refused[1]
    assert terms(path) == [(1, "a"), (2, "b")]
    assert_one_at_a_time(path)


def test_it_ends_with_the_lease_and_begins_again_with_the_next(group: Group, beside: Beside, path: Path) -> None:
    log = group.faulty_log()
    a = beside("a", beacon(path, "rude"), log=log, lease_s=SHORT_LEASE_S)
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: runs(path, a), patience_s=3 * PATIENCE_S)
    log.renewals_fail = True
    eventually(lambda: not a.leads)
    eventually(lambda: not runs_on(path))
    begun = len(terms(path))
    log.renewals_fail = False
    eventually(lambda: len(terms(path)) > begun, patience_s=3 * PATIENCE_S)
    assert_one_at_a_time(path)


def runs_on(path: Path) -> bool:
    pid = signs(path)[-1].pid
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def test_when_the_node_stops_it_ends_in_order_first(group: Group, path: Path) -> None:
    a, run = with_program(group, "a", RunOptions(command=beacon(path), stop_s=PATIENCE_S))
    with a, Sidecar(a, run=run):
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: runs(path, a), patience_s=3 * PATIENCE_S)
    assert signs(path)[-1].what == "stop"


def test_it_goes_on_while_the_end_of_its_node_waits_for_its_answers(
    group: Group, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_under_way, "ANSWERED_WITHIN_S", 10 * PATIENCE_S)
    a, run = with_program(group, "a", RunOptions(command=beacon(path), stop_s=PATIENCE_S), lease_s=LEASE_S)
    with a, Sidecar(a, run=run) as sidecar:
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: runs(path, a), patience_s=3 * PATIENCE_S)
        with sidecar.requests.one():
            ended = in_thread(lambda: sidecar.__exit__(None, None, None), patience_s=3 * PATIENCE_S)
            eventually(lambda: sidecar.requests.is_awaited, patience_s=PATIENCE_S)
            # longer than the lease of which its keeper had heard
            seen = signs(path)[-1].at
            eventually(lambda: signs(path)[-1].at > seen + LEASE_S or signs(path)[-1].what == "stop")
            assert runs(path, a)
        ended()
    assert signs(path)[-1].what == "stop"


def test_a_program_that_was_killed_is_started_again(beside: Beside, path: Path) -> None:
    a = beside("a", beacon(path))
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: runs(path, a), patience_s=3 * PATIENCE_S)
    os.kill(signs(path)[-1].pid, signal.SIGKILL)
    eventually(lambda: len(terms(path)) == 2, patience_s=3 * PATIENCE_S)
    assert terms(path) == [(1, "a")] * 2
    assert a.leads


@pytest.mark.parametrize(
    ("kinds", "check", "says"),
    [
        (["ends"], "", "ended with exit code 3"),
        ([], "false", "does not answer: --check false ended with 1"),
        ([], "http://127.0.0.1:1/", "does not answer: http://127.0.0.1:1/ does not answer"),
    ],
    ids=["ends", "command", "url"],
)
def test_one_that_is_not_well_costs_the_node_its_lease(
    beside: Beside,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kinds: list[str],
    check: str,
    says: str,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("replicator.service.run.checking.START_S", 0.5)
    monkeypatch.setattr("replicator.service.run.checking.ANSWER_WITHIN_S", PATIENCE_S)
    monkeypatch.setattr(program, "AGAIN_S_MAX", 0.2)
    a = beside("a", beacon(path, *kinds), check=check, lease_s=LEASE_S)
    well = beacon(path.with_name("well"))
    a.promote(timeout_s=PATIENCE_S)
    b = beside("b", well, auto_promote=True, lease_s=LEASE_S)
    eventually(lambda: b.leads, patience_s=5 * PATIENCE_S)
    eventually(lambda: runs(path.with_name("well"), b), patience_s=3 * PATIENCE_S)
    # It was started so often, though on a busy machine it may not have come to write down that it was.
    started = [message for message in caplog.messages if "beacon.py" in message and message.endswith("for term 1")]
    assert len(started) == 1 + program.RESTARTS_MAX
    assert {*terms(path), (1, "a")} == {(1, "a")}
    assert says in str(a.problem)


def test_one_that_answers_is_well(beside: Beside, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.service.run.checking.ANSWER_WITHIN_S", PATIENCE_S)
    a = beside("a", beacon(path), check="true")
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: runs(path, a), patience_s=3 * PATIENCE_S)
    seen = len(signs(path))
    eventually(lambda: len(signs(path)) > seen + 50, patience_s=3 * PATIENCE_S)
    assert (terms(path), a.problem) == ([(1, "a")], "")


def test_what_it_writes_is_in_the_log(beside: Beside, caplog: pytest.LogCaptureFixture) -> None:
    script = "import sys; print('to stdout'); print('to stderr', file=sys.stderr); sys.stdout.flush()"
    with caplog.at_level("INFO"):
        a = beside("a", f'{sys.executable} -c "{script}; import time; time.sleep(1000)"')
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: {"to stdout", "to stderr"} <= set(caplog.messages), patience_s=3 * PATIENCE_S)


def keeper_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


def test_its_keeper_is_in_a_group_of_its_own(beside: Beside, path: Path) -> None:
    needs(sys.platform == "linux", "Linux")
    a = beside("a", beacon(path))
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: runs(path, a), patience_s=3 * PATIENCE_S)
    pid = signs(path)[-1].pid
    keeper = keeper_of(pid)
    assert os.getpgid(keeper) == keeper, "what ends or stops the group of the node would take it along"


def test_what_a_program_put_elsewhere_ends_before_the_next_one_begins_though_its_keeper_was_killed(
    beside: Beside, path: Path
) -> None:
    needs(has_control_groups(), "a cgroup v2 that may be written to")
    a = beside("a", beacon(path, "rude", "child"))  # the child has a session of its own
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: len({sign.pid for sign in signs(path)}) == 2, patience_s=3 * PATIENCE_S)
    first = {sign.pid for sign in signs(path)}
    os.kill(keeper_of(signs(path)[0].pid), signal.SIGKILL)
    eventually(lambda: len({sign.pid for sign in signs(path)} - first) == 2, patience_s=3 * PATIENCE_S)
    of_first = [sign.at for sign in signs(path) if sign.pid in first]
    of_second = [sign.at for sign in signs(path) if sign.pid not in first]
    assert max(of_first) < min(of_second)


def has_control_groups() -> bool:
    """Whether this process may make one."""
    with tempfile.TemporaryFile() as file:
        group = ControlGroup(file.fileno())
        group.make()
        made = bool(group.path) and Path(group.path).is_dir()
        group.end()
        return made


def test_a_keeper_that_was_stopped_keeps_no_program_alive(
    group: Group, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    needs(sys.platform == "linux", "Linux")
    a, run = with_program(group, "a", RunOptions(command=beacon(path, "rude"), stop_s=0.1), lease_s=LEASE_S)
    with caplog.at_level("INFO"), a, Sidecar(a, run=run):
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: runs(path, a), patience_s=3 * PATIENCE_S)
        os.kill(keeper_of(signs(path)[-1].pid), signal.SIGSTOP)
    assert not runs_on(path)
    assert any("has ended (SIGKILL)" in message for message in caplog.messages)


def test_what_it_writes_last_is_in_the_log(
    group: Group, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = path.with_name("last.py")
    script.write_text(LAST_WORDS)
    monkeypatch.setattr(program, "OUTPUT_WITHIN_S", PATIENCE_S)
    a, run = with_program(group, "a", RunOptions(command=f"{sys.executable} {script}", stop_s=PATIENCE_S))
    with caplog.at_level("INFO"):
        with a, Sidecar(a, run=run):
            a.promote(timeout_s=PATIENCE_S)
            eventually(lambda: "begun" in caplog.messages, patience_s=3 * PATIENCE_S)
        assert [message for message in caplog.messages if message.startswith("line ")][-1:] == ["line 2999"]


#: Writes a lot when it is told to end.
LAST_WORDS = """
import os, signal, time
def stop(*_):
    os.write(1, b"".join(b"line %d\\n" % number for number in range(3000)))
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
print("begun", flush=True)
time.sleep(1000)
"""


def test_it_is_not_begun_where_the_leadership_is_over(path: Path) -> None:
    run = RunProgram(RunOptions(command=beacon(path)), lease_s=LEASE_S)
    run.attach(Over())
    run.begin("primary", about={"TERM": "1"}, limit_s=1.0)
    run.begin("standby", about={"TERM": "1"}, limit_s=1.0)
    assert not run.running
    assert signs(path) == []


def test_that_a_program_has_ended_is_said_only_if_it_can_be_told(tmp_path: Path) -> None:
    run, node = RunProgram(RunOptions(command="true"), lease_s=LEASE_S), Over()
    node.data_dir = tmp_path
    run.attach(node)
    run._leadership = Leadership(Tenure(7, lambda _: True, lambda: None), cast("Node", None), Owner("a test"))
    assert run.ended_term == 7
    (tmp_path / "program.lock").symlink_to("nowhere")
    assert run.ended_term == 0


class Over:
    """A node that led until a moment ago, and does not know it yet."""

    data_dir = Path("nowhere")
    lease_ms = 1000

    def report(self, name: str, problem: object) -> None:
        pass

    def while_leading(self, work: Callable[[Leadership], None]) -> None:
        tenure = Tenure(1, lambda _: False, lambda: None)
        leadership = Leadership(tenure, cast("Node", None), Owner("a test"))
        leadership.lost.set()
        work(leadership)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"command": ""}, "run: is empty"),
        ({"command": "'"}, "run: .* is not a command"),
        ({"command": "true", "check": " "}, "check: is empty"),
        ({"command": "true", "check_every_s": 0.0}, "check-every-s"),
        ({"command": "true", "stop_s": -1.0}, "run-stop-s"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RunProgram(RunOptions(**options), lease_s=SHORT_LEASE_S)  # type: ignore[arg-type]


def test_a_program_and_commands_are_refused_together(group: Group) -> None:
    run = RunProgram(RunOptions(command="true"), lease_s=LEASE_S)
    with pytest.raises(ConfigError, match=r"run.*--on-primary"):
        Sidecar(group.node("a"), run=run, on_standby="true")
