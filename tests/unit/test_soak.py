"""The soak: how its verdicts come about, and that a short one runs to its end and finds nothing.

How large a series is here, is no test of the product: that takes an hour (`make soak`).
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from bench import soak
from bench.__main__ import main
from bench.goals import GOALS
from bench.harness import Report, Setting
from bench.soak import Requests, Sizes, bounds, events, samples
from bench.soak.bounds import Weights, bound_of
from bench.soak.events import StatesDiffer
from bench.soak.scene import Scene, environment, series_there_are
from bench.soak.slopes import POINTS_MIN, Bound, Point, Verdict, judged, line_through, points_of, wrong_in
from replicator.errors import NotRunning, ReplicatorError
from replicator.log.scripts import KEYS

FREE = Bound(why="nothing", slack=2.0)
BOUNDED = Bound(why="a number", slack=2.0, most=100.0)


def series(value: Callable[[int], float], rounds: int = 12) -> list[Point]:
    return [Point(60.0 * number, value(number)) for number in range(rounds)]


def verdict(points: list[Point], bound: Bound) -> Verdict:
    return judged("a: b", points, points, bound).verdict


def test_a_line_is_the_one_that_least_squares_give() -> None:
    assert line_through(series(lambda number: 5.0 + 3 * number)) == pytest.approx((3 / 60, 0.0), abs=1e-12)
    # by hand: y = 1, 2, 2 at x = 0, 1, 2
    line = line_through([Point(0, 1), Point(1, 2), Point(2, 2)])
    assert line == pytest.approx((0.5, (1 / 6 / 2) ** 0.5))
    with pytest.raises(ValueError, match="2 points"):
        line_through([Point(0, 1), Point(1, 2)])


def test_what_grows_round_after_round_and_is_bounded_by_nothing_is_wrong() -> None:
    leak = series(lambda number: 50.0 + 0.3 * number)
    assert verdict(leak, FREE) is Verdict.GROWS
    found = judged("node a: memory MiB", leak, leak, FREE)
    assert found.grew == pytest.approx(3.3)
    assert found.per_hour == pytest.approx(0.3 * 60)
    assert wrong_in([found]) == ["node a: memory MiB: GROWS, +3.3 in the time watched, to 53.3 (nothing)"]


def test_a_growth_within_the_slack_is_none() -> None:
    assert verdict(series(lambda number: 50.0 + 0.15 * number), FREE) is Verdict.STEADY


def test_a_leak_is_found_in_noise_and_noise_is_no_leak() -> None:
    noise = random.Random(7)
    up_and_down = [noise.gauss(0.0, 3.0) for _ in range(60)]
    assert verdict(series(lambda number: 50.0 + up_and_down[number], 60), FREE) is Verdict.STEADY
    assert verdict(series(lambda number: 50.0 + 0.3 * number + up_and_down[number], 60), FREE) is Verdict.GROWS
    # A saw, whose last tooth is the highest: it rose, but no line says so.
    assert verdict(series(lambda number: 10.0 * (number % 5) + number / 20, 15), FREE) is Verdict.STEADY


def test_what_shrinks_is_steady() -> None:
    assert verdict(series(lambda number: 50.0 - number), FREE) is Verdict.STEADY


def test_what_has_a_number_may_grow_up_to_there_and_no_sample_may_be_beyond() -> None:
    grows = series(lambda number: 50.0 + number)
    assert verdict(grows, BOUNDED) is Verdict.BOUNDED
    assert not Verdict.BOUNDED.is_wrong
    # between two rounds' medians, once
    beyond = judged("a: b", [*grows, Point(1.0, 100.5)], grows, BOUNDED)
    assert beyond.verdict is Verdict.BEYOND
    assert beyond.most == 100.5
    assert wrong_in([beyond])
    assert verdict(series(lambda _: 100.0), BOUNDED) is Verdict.STEADY


def test_two_rounds_say_nothing_of_a_slope_but_all_of_a_number() -> None:
    assert verdict(series(lambda number: 100.0 * number, 2), FREE) is Verdict.UNKNOWN
    assert verdict(series(lambda number: 101.0 * number, 2), BOUNDED) is Verdict.BEYOND
    assert not Verdict.UNKNOWN.is_wrong


def test_a_round_is_one_point_and_those_that_began_in_the_warm_up_do_not_count() -> None:
    seen = [Point(at_s, at_s * 10) for at_s in range(1, 31)]
    seen[14] = Point(15, 10_000)  # what an event did for a moment
    assert points_of(seen, [10, 20, 30], after_s=0) == [Point(5.5, 55), Point(15.5, 165), Point(25.5, 255)]
    assert points_of(seen, [10, 20, 30], after_s=10) == [Point(15.5, 165), Point(25.5, 255)]
    assert points_of(seen, [10, 20, 30], after_s=11) == [Point(25.5, 255)]
    # one of which nothing was seen (the process was away all the time) is none
    assert points_of(seen[:10], [10, 20, 30], after_s=0) == [Point(5.5, 55)]


def test_every_series_is_told_what_bounds_it() -> None:
    weights = Weights(registry=20_000, small=[10_000] * 3)
    for name in ("node a: memory MiB", "host a: descriptors", "node b: threads", "redis: scripts", "redis: keys"):
        assert bound_of(name, 50.0, weights).most is None
    # Two snapshots, and three times what makes one due, of four groups.
    logs = bound_of("redis: logs MiB", 5.0, weights)
    assert logs.most == pytest.approx(4 * 3 * bounds.OVERHEAD, rel=0.02)
    node, host = (bound_of(f"{whose}, disk: MiB", 5.0, weights).most for whose in ("node a", "host a"))
    assert node is not None
    assert host == pytest.approx(3 * node, rel=0.02)
    assert bound_of("log files: MiB", 5.0, weights).most == 160
    assert bound_of("redis: memory MiB", 5.0, weights).most is not None
    # A host that is killed leaves a key for a day.
    assert bound_of("redis: alarms", 5.0, Weights(registry=0, small=[], hosts=7)).most == 7


def test_what_is_set_for_the_processes_of_a_soak_is_not_there_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOAK_ONE", "before")
    monkeypatch.delenv("SOAK_TWO", raising=False)
    with environment({"SOAK_ONE": "1", "SOAK_TWO": "2"}):
        assert (os.environ["SOAK_ONE"], os.environ["SOAK_TWO"]) == ("1", "2")
    assert os.environ["SOAK_ONE"] == "before"
    assert "SOAK_TWO" not in os.environ


#: A process that takes memory and a file when it is told to.
GROWING = """
import sys
print("small", flush=True)
sys.stdin.readline()
kept = [b"x" * 2**20 for _ in range(20)]
file = open(sys.argv[1], "wb")
file.write(kept[0])
file.flush()
print("large", flush=True)
sys.stdin.readline()
"""


def test_a_process_is_seen_from_outside_until_it_ends(tmp_path: Path) -> None:
    if not samples.can_look():
        pytest.skip("no /proc")
    command = [sys.executable, "-c", GROWING, str(tmp_path / "file")]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "small\n"
        before = samples.of_process(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "large\n"
        after = samples.of_process(process.pid)
        process.stdin.close()
    assert after["descriptors"] == before["descriptors"] + 1
    assert after["memory MiB"] > before["memory MiB"] + 15
    assert samples.of_directory(tmp_path) == {"files": 1, "MiB": 1}
    assert samples.of_process(process.pid) == {}


def test_an_hour_has_longer_rounds_than_the_short_form() -> None:
    assert soak.FULL.rounds - 1 - soak.FULL.rounds * soak.WARM_UP > POINTS_MIN
    hour = soak.of_minutes(soak.FULL, 60)
    assert (hour.seconds, hour.round_s, hour.groups) == (3600, soak.LONG_ROUND_S, soak.FULL.groups)
    assert soak.of_minutes(soak.FULL, 3).round_s == soak.FULL.round_s


def test_a_short_soak_runs_to_its_end(tmp_path: Path) -> None:
    if not samples.can_look():
        pytest.skip("no /proc")
    report = soak.measure(Setting(url="", directory=tmp_path), soak.QUICK)
    names = {row[0] for row in report.tables[0].rows}
    for whose in ("node a", "node b", "node c", "host a", "host b", "redis"):
        assert {f"{whose}: memory MiB", f"{whose}: descriptors", f"{whose}: threads", f"{whose}, disk: MiB"} <= names
    assert {"redis: logs MiB", "redis: keys", "redis: alarms", "redis: connections"} <= names
    assert set(series_there_are()) <= names
    assert report.wrong == []
    assert "series that must not be as they are" not in report.figures, "one round says nothing of a slope"
    # Changes are written until a group has its snapshot, and that is at 1 MiB of them in the log.
    assert 500 < float(report.tables[1].rows[-1][0].replace(",", "")) < 4096
    assert "Not played" not in report.notes[0]


class StillScene:
    """One whose groups are always in step."""

    settled = 0

    def settle(self) -> None:
        self.settled += 1


def test_states_that_differ_and_events_that_were_never_played_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    tried: list[str] = []

    def status(_: Any) -> None:
        tried.append("status")
        if tried.count("status") == 1:
            raise TimeoutError("busy for a moment")

    def verify(_: Any) -> None:
        raise StatesDiffer("the states of g differ: {}")

    def kill(_: Any) -> None:
        raise NotRunning("c")

    def pause(_: Any) -> None:
        tried.append("pause")
        if tried.count("pause") <= soak.TRIES:
            raise TimeoutError("busy all the round")

    played_events = {each.__name__: each for each in (status, verify, kill, pause)}
    monkeypatch.setattr(soak, "EVENTS", played_events)
    scene: Any = StillScene()
    # when
    played = soak._play(scene, Sizes(rounds=2, round_s=0.0, events=tuple(played_events)), time.monotonic())
    # then
    assert len(played.rounds_end_s) == 2
    assert played.events == {"status": 2, "verify": 2, "pause": 1}
    differ, never = played.wrong(tuple(played_events))[:2], played.wrong(tuple(played_events))[2:]
    assert differ == ["the states of g differ: {}"] * 2
    assert len(never) == 1
    assert never[0].startswith("kill: never played (")
    assert scene.settled == 1 + 2 * soak.TRIES + soak.TRIES, "before each further try"
    assert set(played.failed) == {"kill", "pause"}, "told, too"


def test_verify_of_a_soak_tells_states_that_differ_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    report = SimpleNamespace(differ=True, digests={"a": "1", "b": "2"})
    monkeypatch.setattr(events.ops, "verify", lambda *_, **__: report)
    scene: Any = SimpleNamespace(registry=SimpleNamespace(group="g"), small=[], log=None)
    assert not issubclass(StatesDiffer, ReplicatorError)
    with pytest.raises(StatesDiffer, match="the states of g differ"):
        events.verify(scene)


@pytest.mark.parametrize(("done", "failed", "is_wrong"), [(10, 10, False), (10, 11, True), (0, 0, True)])
def test_requests_that_failed_have_a_bound(done: int, failed: int, is_wrong: bool) -> None:
    assert bool(Requests(what="changes", done=done, failed=failed).wrong) == is_wrong


def reported(series: dict[str, list[Point]], rounds: int) -> Report:
    """Of a soak of rounds of a second, with nothing else to be told."""
    played = soak.Played(rounds_end_s=[1.0 + number for number in range(rounds)], events={}, failed={}, differed=[])
    filled = [soak.Filled(written=1.0, primaries=1.0, standbys=1.0)]
    sizes = Sizes(rounds=rounds, round_s=1.0, events=())
    return soak._report(series, played, Weights(registry=1, small=[1]), filled, sizes, [])


def test_a_soak_that_is_too_short_measured_nothing() -> None:
    samples = {name: [Point(number + 0.5, 1.0) for number in range(6)] for name in series_there_are()}
    goal = next(goal for goal in GOALS if goal.of == "soak")
    assert goal.measured(reported(samples, 3).figures) is None
    assert reported(samples, 3).wrong == []
    assert goal.measured(reported(samples, 6).figures) == 0


def test_a_series_of_which_nothing_was_seen_is_wrong() -> None:
    samples = {name: [Point(number + 0.5, 1.0) for number in range(6)] for name in series_there_are()}
    samples["redis: logs MiB"] = samples["redis: logs MiB"][:1]  # in the warm-up, and never again
    del samples["node b: threads"]
    report = reported(samples, 6)
    assert report.wrong == ["node b: threads: not seen", "redis: logs MiB: not seen"]
    assert report.figures["series that must not be as they are"] == 2


class StillRedis:
    """As much of a redis-py client as samples need. Every key weighs a MiB."""

    def __init__(self, *names: str) -> None:
        self.keys = [f"replicator:{name}".encode() for name in names]

    def info(self, _: str) -> dict[str, int]:
        return {"connected_clients": 1, "number_of_cached_scripts": 2, "used_memory_dataset": 20 * samples.MIB}

    def scan_iter(self, **_: Any) -> Iterator[bytes]:
        return iter(self.keys)

    def dbsize(self) -> int:
        return len(self.keys)

    def pipeline(self, **_: Any) -> Any:
        return SimpleNamespace(memory_usage=lambda *_, **__: None, execute=lambda: [samples.MIB for _ in self.keys])


def test_the_keys_that_are_weighed_are_those_of_the_log() -> None:
    found = samples.of_redis(StillRedis(*(f"{{g}}:{name}" for name in KEYS), "{g}:alarm"))
    assert tuple(found) == samples.OF_REDIS
    assert (found["logs MiB"], found["requests and acks MiB"]) == (1, 2)
    assert (found["keys"], found["alarms"], found["besides the keys MiB"]) == (len(KEYS), 1, 20 - len(KEYS) - 1)
    assert bound_of("redis: requests and acks MiB", 0.1, Weights(registry=1, small=[1])).most == 1.0


def test_a_redis_that_is_away_is_not_seen_and_another_problem_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, 1)
    monkeypatch.setattr(scene, "pids", dict)
    problems: list[Exception] = [redis.ConnectionError("away"), redis.TimeoutError("slow"), KeyError("commands")]

    def of_redis(_: Any) -> dict[str, float]:
        raise problems.pop(0)

    monkeypatch.setattr(samples, "of_redis", of_redis)
    scene.client = None
    for _ in range(2):
        assert not any(name.startswith("redis: ") for name in scene.sampled())
    with pytest.raises(KeyError):
        scene.sampled()


def test_what_grows_ends_the_command_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    def grown(_: Setting, sizes: soak.Sizes) -> Report:
        told.append(sizes.seconds)
        return Report(title="A soak", prose="", tables=[], wrong=["node a: threads: GROWS"])

    monkeypatch.setattr(soak, "measure", grown)
    out = tmp_path / "benchmarks.md"
    result = CliRunner().invoke(main, ["soak", "--minutes", "90", "--out", str(out)])
    assert result.exit_code == 1
    assert "node a: threads: GROWS" in result.output
    assert told == [5400]
    assert "## A soak" in out.read_text()
