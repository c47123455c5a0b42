"""The soak: how its verdicts come about, and that a short one runs to its end and finds nothing.

How large a series is here, is no test of the product: that takes an hour (`make soak`).
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from click.testing import CliRunner

from bench import soak
from bench.__main__ import main
from bench.harness import Report, Setting
from bench.soak import bounds, samples
from bench.soak.bounds import Weights, bound_of
from bench.soak.scene import environment
from bench.soak.slopes import Bound, Point, Verdict, judged, line_through, points_of, wrong_in

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
    assert report.figures["series that must not be as they are"] == len(report.wrong) == 0
    # Changes are written until a group has its snapshot, and that is at 1 MiB of them in the log.
    assert 500 < float(report.tables[1].rows[-1][0].replace(",", "")) < 4096
    assert "Not played" not in report.notes[0]


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
