"""`python -m bench soak`: whether anything grows that nothing bounds, while everything happens again and again.

A registry and many small groups in a host, with writers and readers, on processes of their own. Round after round plays
all events (`events.py`). Memory, descriptors, threads, files, and what Redis has are sampled from outside (`scene.py`),
and held against what bounds them (`bounds.py`, `slopes.py`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import click

from bench.charts import Lines
from bench.harness import Report, Setting, Table
from bench.soak.bounds import Weights, bound_of
from bench.soak.events import EVENTS, StatesDiffer
from bench.soak.hosts import BATCH_BYTES, FILL, TOLD
from bench.soak.load import Load
from bench.soak.samples import MIB, can_look, private_bytes
from bench.soak.scene import HOSTS, Scene, series_there_are
from bench.soak.slopes import Judgement, Point, are_told_apart, judged, points_of, wrong_in
from replicator.errors import ReplicatorError
from replicator.format.ids import ZERO_ID

__all__ = ["FULL", "QUICK", "Sizes", "measure", "of_minutes"]

#: Of the changes to each small group between two looks at the memory of the hosts, until its first snapshot.
FILL_STEP_BYTES = 256 * 1024

#: Changes outweigh no snapshot before this; they compress to no less than half.
FILL_BYTES_MAX = 4 * MIB

#: The first part of a soak in which nothing counts, and at least so many rounds of it.
WARM_UP, WARM_UP_ROUNDS = 0.25, 1

#: So often an event is tried in a round: a short soak has one round, and a busy machine costs a lease of three seconds.
TRIES = 3

#: Requests that fail for each that does not: while nobody leads, a writer that has no answer tries again at once.
FAILED_MAX = 1.0

#: What a plot shows, of so many rounds at the most.
PLOTTED = ("node a: memory MiB", "host a: memory MiB", "redis: logs MiB")
PLOTTED_POINTS = 8


@dataclass(frozen=True, kw_only=True)
class Sizes:
    #: So many at the least: a line through fewer than three that count says nothing.
    rounds: int
    #: Of one round at the least: it rests if its events are over before.
    round_s: float
    #: The rounds together, at the least; what begins in it is played to its end.
    seconds: float = 0.0
    sample_every_s: float = 2.0
    groups: int = 50
    events: Sequence[str] = tuple(EVENTS)


FULL = Sizes(rounds=6, round_s=20.0)
#: Too short to say anything of a slope.
QUICK = Sizes(rounds=1, round_s=1.0, sample_every_s=0.3, groups=2, events=("status", "snapshot", "verify", "pause"))

#: A soak of many minutes has rounds that are as long as this at the least: the load is to be the greater part of it.
LONG_ROUND_S = 60.0


def of_minutes(sizes: Sizes, minutes: float) -> Sizes:
    """The same soak, so long."""
    long = minutes * 60 > 10 * LONG_ROUND_S
    return replace(sizes, seconds=minutes * 60, round_s=LONG_ROUND_S if long else sizes.round_s)


PROSE = """\
A Redis and three nodes of a registry under supervisord, and two processes with a node of each of many small groups (the
first leads all of them), each with a `Host`. Two writers register nodes over HTTP and take some of them out, and read
from all nodes; every small group is written to once a second, 40 changes of some 200 bytes in a record. The states stay
as large as they are. Every round plays all events: `status` and `doctor`, snapshots that are asked for, `verify`,
switchovers of the registry and of five small groups, `pause` and `resume`, kill -9 of the primary of the registry, a
clean stop and start, kill -9 of a host that leads five groups, a clean stop of it, `demote` and `promote`, kill -9 of
Redis, a log that is deleted and founded anew; forks are deleted, which no node does. Node a and host a are never ended.

*Memory* is what a process alone has (USS), with `MALLOC_ARENA_MAX=2`: else glibc keeps what was freed in up to 8 heaps
a processor, and memory rises for many rounds although nothing is kept. A round is one point, the median of its samples;
the rounds of the first quarter do not count. *Grew* is what a line through the others, by least squares, rose while it
was watched. A series without a number in *at most* must not grow: by more than a slack (2 MiB or 3 % of memory, two or
three descriptors, threads, connections or keys), and by more than three times the error of the slope. One with a number
may grow, and must never be beyond it. What is wrong ends the command with exit code 1: such a series, one of which
nothing was seen, states that differ, an event that could never be played, more requests that failed than that did not.
`make soak` is the same for an hour.

*Until the first snapshot* shows what a Host has in memory for each group while its first changes are written, before
all of this.
"""


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Play rounds of events, and judge what was seen. Raises `RuntimeError` where there is no /proc."""
    if not can_look():
        raise RuntimeError("a soak looks at other processes through /proc/PID/smaps_rollup, which is not there")
    directory = setting.fresh("soak")
    directory.mkdir()
    with Scene(directory, sizes.groups) as scene:
        filled = _fill(scene, sizes.groups)
        with Load(list(scene.stack.urls().values())) as load, _sampling(scene, sizes.sample_every_s) as samples:
            played = _play(scene, sizes, samples.began)
            written = [scene.ask_host(name, TOLD) for name in HOSTS]
        registry, *small = scene.snapshot_bytes()
        weights = Weights(registry=registry, small=small, hosts=scene.hosts_started)
        requests = _requests(load, written)
    return _report(samples.series, played, weights, filled, sizes, requests)


# --- until the first snapshot -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What the hosts have in memory for each group, in KiB, after so many KiB of changes to each."""

    written: float
    primaries: float
    standbys: float


def _fill(scene: Scene, groups: int) -> list[Filled]:
    """Write to every small group until it has its first snapshot."""
    began = {name: private_bytes(scene.pids()[f"host {name}"]) for name in HOSTS}
    batches = FILL_STEP_BYTES // BATCH_BYTES
    found: list[Filled] = []
    while _unsnapped(scene) and len(found) * FILL_STEP_BYTES < FILL_BYTES_MAX:
        scene.ask_host("a", FILL, batches)
        scene.settle(scene.small)
        kib = {name: (private_bytes(scene.pids()[f"host {name}"]) - began[name]) / 1024 / groups for name in HOSTS}
        written = (len(found) + 1) * batches * BATCH_BYTES / 1024
        found.append(Filled(written=written, primaries=kib["a"], standbys=kib["b"]))
    if _unsnapped(scene):
        raise RuntimeError(f"{FILL_BYTES_MAX} bytes of changes made no snapshot due")
    return found


def _unsnapped(scene: Scene) -> bool:
    heads = [scene.log(group).look().head for group in scene.small]
    return any(head is None or head.snapshot_at == ZERO_ID for head in heads)


# --- rounds -----------------------------------------------------------------------------------------------------------


class Samples:
    """What was seen, by series."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.series: defaultdict[str, list[Point]] = defaultdict(list)


@contextmanager
def _sampling(scene: Scene, every_s: float) -> Iterator[Samples]:
    """Look at all there is, on a thread of its own. An error of it comes out at the end."""
    samples, ending, failed = Samples(), threading.Event(), list[BaseException]()

    def go_on() -> None:
        try:
            while not ending.wait(every_s):
                at_s = time.monotonic() - samples.began
                for name, value in scene.sampled().items():
                    samples.series[name].append(Point(at_s, value))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield samples
    finally:
        ending.set()
        thread.join()
    if failed:
        raise failed[0]


@dataclass(frozen=True, kw_only=True)
class Played:
    """When each round ended, and how often each event was played, and could not be."""

    rounds_end_s: Sequence[float]
    events: Mapping[str, int]
    failed: Mapping[str, str]
    #: Of nodes that are not of one state.
    differed: Sequence[str]

    def wrong(self, events: Sequence[str]) -> list[str]:
        """In words, what must not be. `events`: that were to be played, each once at the least."""
        never = [name for name in events if not self.events.get(name)]
        return [*self.differed, *(f"{name}: never played ({self.failed.get(name, 'no round')})" for name in never)]


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Of the load while events were played. `what`: in words."""

    what: str
    done: int
    failed: int

    @property
    def wrong(self) -> list[str]:
        if self.failed <= self.done * FAILED_MAX and self.done:
            return []
        return [
            f"{self.what}: {self.failed:,} failed, and {self.done:,} did not: at most {FAILED_MAX:g} times as many may"
        ]


def _requests(load: Load, written: Sequence[tuple[int, int, int]]) -> tuple[Requests, Requests]:
    """To the registry, and to the small groups. `written`: as the hosts tell."""
    small, refused, _ = (sum(each) for each in zip(*written, strict=True))
    return (
        Requests(what="rounds of requests to the registry", done=load.answered, failed=load.failed),
        Requests(what="changes to the small groups", done=small, failed=refused),
    )


def _play(scene: Scene, sizes: Sizes, began: float) -> Played:
    ends: list[float] = []
    events: Counter[str] = Counter()
    failed: dict[str, str] = {}
    differed: list[str] = []
    while (now_s := time.monotonic() - began) < sizes.seconds or len(ends) < sizes.rounds:
        for name in sizes.events:
            if problem := _in_the_way(scene, name, differed):
                failed[name] = problem
            else:
                events[name] += 1
        time.sleep(max(0.0, sizes.round_s - (time.monotonic() - began - now_s)))
        ends.append(time.monotonic() - began)
        click.echo(f"  round {len(ends)} after {ends[-1]:,.0f} s", err=True)
    return Played(rounds_end_s=ends, events=events, failed=failed, differed=differed)


def _in_the_way(scene: Scene, name: str, differed: list[str]) -> str:
    """Play an event; why it could not be played, or nothing. Of states that differ the text is added to the list."""
    problem = ""
    for _ in range(TRIES):
        try:
            EVENTS[name](scene)
            return ""
        except StatesDiffer as differ:
            differed.append(str(differ))
            return ""
        except (ReplicatorError, TimeoutError) as error:
            # A machine that is too busy for one switchover is no leak. What does not come right again is told.
            problem = str(error)
            scene.settle()
    return problem


def _told(sizes: Sizes, played: Played, requests: Sequence[Requests]) -> str:
    events = ", ".join(f"{name} {number}" for name, number in played.events.items())
    missed = "".join(f" Not played: {name} ({problem})." for name, problem in played.failed.items())
    load = " ".join(f"{each.done:,} {each.what} were answered, and {each.failed:,} failed." for each in requests)
    return (
        f"{sizes.groups} small groups; {len(played.rounds_end_s)} rounds in {played.rounds_end_s[-1]:,.0f} s. Events: "
        f"{events}.{missed} {load}"
    )


# --- the report -------------------------------------------------------------------------------------------------------


def _report(
    series: Mapping[str, Sequence[Point]],
    played: Played,
    weights: Weights,
    filled: Sequence[Filled],
    sizes: Sizes,
    requests: Sequence[Requests],
) -> Report:
    judgements = _judgements(series, played, weights)
    seen = {each.name for each in judgements}
    grown = [*wrong_in(judgements), *(f"{name}: not seen" for name in series_there_are() if name not in seen)]
    wrong = [*grown, *played.wrong(sizes.events), *(line for each in requests for line in each.wrong)]
    figures = {f"{each.name} grew": each.grew for each in judgements} | {
        f"{each.name} most": each.most for each in judgements
    }
    figures |= {
        "primaries KiB a group": max(each.primaries for each in filled),
        "standbys KiB a group": max(each.standbys for each in filled),
    }
    if grown or are_told_apart(judgements):  # else it is not known whether there are any
        figures["series that must not be as they are"] = float(len(grown))
    return Report(
        title="A soak",
        prose=PROSE,
        tables=[_table(judgements), _filled_table(filled)],
        figures=figures,
        notes=[_told(sizes, played, requests), *wrong],
        charts=_charts(series, played),
        wrong=wrong,
    )


def _judgements(series: Mapping[str, Sequence[Point]], played: Played, weights: Weights) -> list[Judgement]:
    ends = played.rounds_end_s
    warm_s = min(max(ends[-1] * WARM_UP, ends[WARM_UP_ROUNDS - 1]), ends[-1]) if len(ends) > WARM_UP_ROUNDS else 0.0
    found = []
    for name, samples in sorted(series.items()):
        points = points_of(samples, ends, after_s=warm_s)
        if points:
            counting = [sample for sample in samples if sample.at_s >= warm_s]
            found.append(judged(name, counting, points, bound_of(name, points[0].value, weights)))
    return found


def _table(judgements: Sequence[Judgement]) -> Table:
    rows = [
        [
            each.name,
            *(_shown(value) for value in (each.first, each.last, each.most, each.grew)),
            _shown(each.bound.most) if each.bound.most is not None else "",
            each.verdict.value,
            each.bound.why,
        ]
        for each in judgements
    ]
    return Table(head=["series", "first", "last", "most", "grew", "at most", "verdict", "bounded by"], rows=rows)


def _filled_table(filled: Sequence[Filled]) -> Table:
    rows = [[_shown(each.written), _shown(each.primaries), _shown(each.standbys)] for each in filled]
    return Table(
        head=["until the first snapshot: KiB of changes to each group", "host a, KiB a group", "host b"], rows=rows
    )


def _charts(series: Mapping[str, Sequence[Point]], played: Played) -> list[Lines]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in PLOTTED:
        points = points_of(series.get(name, ()), played.rounds_end_s, after_s=0.0)
        every = max(1, -(-len(points) // PLOTTED_POINTS))
        if points:
            lines[name] = [(max(at_s / 60, 0.1), value) for at_s, value in points[::every]]
    title = "What is there after so many minutes of events"
    return (
        [Lines(name="soak", title=title, x_label="minutes (log scale)", y_label="MiB", series=lines)] if lines else []
    )


def _shown(figure: float) -> str:
    return f"{figure:,.2f}" if abs(figure) < 10 and figure != int(figure) else f"{figure:,.0f}"
