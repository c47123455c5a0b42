"""Which promise was broken? From notes alone: what clients were told, what nodes said, what is left at the end.

`check(run)` is a pure function. It knows what replicator promises and nothing of how. A promise may depend on what the
nemesis did: a Redis that fails over to a copy that lags loses what it had acknowledged, and then a change that was only
`appended` may be gone; but not without a trace. So a run has *losses*: spans of time in which something acknowledged
may have gone, each with the levels that it reaches.

| level | may be lost by |
|---|---|
| `appended` | a failover or a power cut of Redis, or a kill with `appendfsync everysec`; a forced promotion |
| `fsynced` | a failover or a power cut of Redis; a forced promotion |
| `replicated:N` | a failover if there are more than N replicas; a forced promotion |
| `applied:N` | a forced promotion |

A power cut is one that takes all that was written in its span, synced or not, and nothing that was written before.

The rules, each with its name:

- *kept*: a change that was acknowledged, and may not be lost, is in the final state.
- *forked*: one that was lost is in a fork, unless the primary that acknowledged it was killed within two seconds.
- *once*: no value is in a state twice.
- *sent*: nothing is in the final state that no client sent.
- *refused*: what was refused (nothing was written) is not in the final state.
- *answered*: a write with a key has an outcome that is known: its client sent it until it was answered.
- *place*: a value stands where its writer was told that it stands.
- *order*: what was acknowledged before another one was begun stands before it (while Redis lost nothing).
- *writer*: one term has one writer, in the log and among those who call themselves primary.
- *term*: the term that a node shows never goes back, across its restarts too.
- *token*: a read with the token of a value contains it.
- *fresh*: a fresh read contains all that was acknowledged, or freshly read, before it began (while Redis lost nothing).
- *history*: what a read showed is the beginning of the final state; where something was lost, or of a fork, unless the
  node was killed within two seconds.
- *position*: no place is called lost where nothing was lost.
- *equal*: all nodes end with the same state.
- *told*: the history of the group has every term that was seen, with its holder, and no other; where Redis lost
  something, every one that was seen after that.
- *settled*: once all faults are over, one node leads, the others follow, and none has given up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import merge
from itertools import pairwise
from operator import itemgetter

from replicator.format.ids import era_of

from .history import Operation
from .values import digests

__all__ = ["Event", "Fork", "Run", "Setting", "Sighting", "Term", "Verdict", "Violation", "Written", "check"]

SECOND = 1_000_000_000

#: What a node has applied is on its own disk so soon, if it can run. Killed before, it may take it along.
SAVED_AFTER = 2 * SECOND

#: With `everysec`, Redis may hold back a write of its AOF so long while the disk is busy. It answers meanwhile.
HELD_BACK = 2 * SECOND

#: Of each rule, so many are told in full.
TOLD_MAX = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What the promises depend on. `aof`: `always` or `everysec`. `replicas`: those of Redis."""

    aof: str = "always"
    replicas: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that the nemesis did, or that was seen to happen, in a span of time (ns).

    Kinds that matter here: `kill-redis`; `failover` and `power-cut` (Redis came back with older data); `force` (a
    forced promotion); `kill-node`, `pause-node`, `slow-disk` and whatever else befell `node`.
    """

    kind: str
    began: int
    ended: int
    node: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """What a node said of itself. `at`: when it was asked; it was so then, or a moment later."""

    at: int
    node: str
    boot: str
    term: int
    role: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A record that was seen in the log: its id and its writer."""

    term: int
    n: int
    node: str
    boot: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """A term and who took it."""

    term: int
    node: str
    boot: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fork:
    """What a node kept of a history that lost: all values of that history."""

    node: str
    values: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that was noted of a run.

    `finals`: the state of each node at the end. `told`: the terms in the history of the group; None: it was not asked.
    `unread`: terms that may have been written without being seen. `problems`: what kept the group from settling.
    """

    setting: Setting = field(default_factory=Setting)
    operations: Sequence[Operation] = ()
    events: Sequence[Event] = ()
    sightings: Sequence[Sighting] = ()
    written: Sequence[Written] = ()
    finals: Mapping[str, Sequence[str]] = field(default_factory=dict)
    forks: Sequence[Fork] = ()
    told: Sequence[Term] | None = None
    unread: Sequence[range] = ()
    problems: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: the rule, and what shows it."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`violations` is empty if every promise was kept. `counts`: how much was checked, and what became of it."""

    violations: Sequence[Violation]
    counts: Mapping[str, int]

    @property
    def ok(self) -> bool:
        return not self.violations


def check(run: Run) -> Verdict:
    """Hold a run to every rule."""
    facts = _Facts(run)
    violations = [Violation(name, text) for name, rule in _RULES.items() for text in _first(rule(facts))]
    return Verdict(violations=violations, counts=facts.counts())


def _first(texts: Iterable[str]) -> list[str]:
    every = list(texts)
    rest = len(every) - TOLD_MAX
    return every[:TOLD_MAX] + ([f"… and {rest} more"] if rest > 0 else [])


# --- losses -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Loss:
    """Something may have been lost between these times. What was acknowledged before `since` is safe."""

    event: Event
    since: int

    @property
    def until(self) -> int:
        return self.event.ended

    def reaches(self, operation: Operation, run: Run) -> bool:
        """Whether it may have taken what was acknowledged like this."""
        # It came into the log at some time between its call and its answer.
        if (operation.ended or 0) < self.since or self.until < operation.began:
            return False
        return _LEVELS[self.event.kind](_level(operation), run.setting)


def _level(operation: Operation) -> str:
    # What could not be acknowledged at its own level is in the log all the same.
    return operation.ack if operation.outcome == "ok" else "appended"


def _by_a_failover(level: str, setting: Setting) -> bool:
    name, _, count = level.partition(":")
    return name in ("appended", "fsynced") or (name == "replicated" and int(count) < setting.replicas)


_LEVELS: dict[str, Callable[[str, Setting], bool]] = {
    "kill-redis": lambda level, setting: setting.aof == "everysec" and level == "appended",
    "failover": _by_a_failover,
    "power-cut": lambda level, setting: not level.startswith("applied"),
    "force": lambda level, setting: True,
}


def _losses(run: Run) -> list[_Loss]:
    losses = []
    for event in run.events:
        if event.kind in ("failover", "force"):
            losses.append(_Loss(event, since=0))
        elif event.kind == "power-cut":
            losses.append(_Loss(event, since=event.began))
        elif event.kind == "kill-redis" and run.setting.aof == "everysec":
            losses.append(_Loss(event, since=event.began - HELD_BACK))
    return losses


# --- what the rules share ---------------------------------------------------------------------------------------------


class _Facts:
    """A run, indexed."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.losses = _losses(run)
        self.writes = {operation.value: operation for operation in run.operations if operation.kind == "write"}
        self.acknowledged = [
            write for write in self.writes.values() if write.outcome in ("ok", "unacknowledged") and write.ended
        ]
        self.reads = [operation for operation in run.operations if operation.kind in ("read", "fresh")]
        #: The longest: where nodes differ at the end, the rule on that says so.
        self.final: Sequence[str] = max(run.finals.values(), key=len, default=())
        #: Where each value stands; the first time, if it is there twice.
        self.place: dict[str, int] = {}
        for index, value in enumerate(self.final):
            self.place.setdefault(value, index)
        self.digests = digests(self.final)
        self.gone = [write for write in self.acknowledged if write.value not in self.place]
        self.in_forks = {value for fork in run.forks for value in fork.values}

    @cached_property
    def _fork_digests(self) -> set[tuple[int, str]]:
        return {place for fork in self.run.forks for place in enumerate(digests(fork.values))}

    def is_of_a_fork(self, read: Operation) -> bool:
        """Whether what it showed is the beginning of a history that lost."""
        return (read.count, read.digest) in self._fork_digests

    def may_be_lost(self, write: Operation) -> bool:
        return any(loss.reaches(write, self.run) for loss in self.losses)

    def killed_too_soon(self, operation: Operation) -> bool:
        """Whether the node that answered was killed before it could have saved what it answered."""
        began = operation.began
        return any(
            event.kind == "kill-node"
            and event.node == operation.node
            and began <= event.began <= (operation.ended or began) + SAVED_AFTER + self._hindered(operation, event)
            for event in self.run.events
        )

    def _hindered(self, operation: Operation, kill: Event) -> int:
        """How long that node was paused, or its disk slow, in the meantime."""
        return sum(
            max(0, min(event.ended, kill.began) - max(event.began, operation.began))
            for event in self.run.events
            if event.kind in ("pause-node", "slow-disk") and event.node == operation.node
        )

    def whole(self, began: int, ended: int) -> bool:
        """Whether nothing can have been lost in this span."""
        return not any(loss.event.began <= ended and loss.until >= began for loss in self.losses)

    def place_shown_by(self, operation: Operation) -> int | None:
        """The last place of the final state that certainly was there when this was answered."""
        if operation.kind == "write":
            return self.place.get(operation.value)
        if operation.kind == "fresh" and operation.outcome == "ok" and self.is_beginning(operation):
            return operation.count - 1
        return None

    def is_beginning(self, read: Operation) -> bool:
        """Whether what it showed is the beginning of the final state."""
        return read.count < len(self.digests) and self.digests[read.count] == read.digest

    def counts(self) -> dict[str, int]:
        writes = Counter(f"{write.outcome} {write.ack}" for write in self.writes.values())
        forked = sum(write.value in self.in_forks for write in self.gone)
        return {
            **writes,
            "sent again": sum(write.attempts > 1 for write in self.writes.values()),
            "gone": len(self.gone),
            "forked": forked,
            "lost": len(self.gone) - forked,
            "reads": sum(read.kind == "read" and read.outcome == "ok" for read in self.reads),
            "fresh reads": sum(read.kind == "fresh" and read.outcome == "ok" for read in self.reads),
            "places lost": sum(read.outcome == "lost" for read in self.reads),
        }


# --- the rules: facts -> what breaks them -----------------------------------------------------------------------------


def _kept(facts: _Facts) -> Iterator[str]:
    for write in facts.gone:
        if not facts.may_be_lost(write):
            forked = " (it is in a fork)" if write.value in facts.in_forks else ""
            yield f"{_named(write)} is not in the final state{forked}, and nothing happened that may lose it"


def _forked(facts: _Facts) -> Iterator[str]:
    for write in facts.gone:
        if facts.may_be_lost(write) and write.value not in facts.in_forks and not facts.killed_too_soon(write):
            yield f"{_named(write)} was lost and is in no fork, although {write.node} had the time to save it"


def _once(facts: _Facts) -> Iterator[str]:
    for node, values in facts.run.finals.items():
        for value, count in Counter(values).items():
            if count > 1:
                yield f"{value} is in the state of {node} {count} times"


def _sent(facts: _Facts) -> Iterator[str]:
    for node, values in facts.run.finals.items():
        for value in values:
            if value not in facts.writes:
                yield f"{value!r} is in the state of {node}, and nobody sent it"


def _refused(facts: _Facts) -> Iterator[str]:
    for write in facts.writes.values():
        if write.outcome == "refused" and write.value in facts.place:
            yield f"{_named(write)} is in the final state, but was refused ({write.error})"


def _answered(facts: _Facts) -> Iterator[str]:
    for write in facts.writes.values():
        if write.key and write.outcome == "unknown":
            yield f"{_named(write)} has no answer, although it was sent again and again ({write.error})"


def _in_place(facts: _Facts) -> Iterator[str]:
    for write in facts.acknowledged:
        place = facts.place.get(write.value)
        if write.index is not None and place is not None and place != write.index:
            yield f"{_named(write)} stands at {place}, and was acknowledged at {write.index}"


def _in_order(facts: _Facts) -> Iterator[str]:
    for best, later in _after_the_acknowledged(facts, facts.acknowledged):
        place = facts.place.get(later.value)
        if place is not None and place <= best:
            earlier = f"{facts.final[best]} at {best}"
            yield f"{_named(later)} stands at {place}, behind it {earlier}, which was acknowledged before it began"


def _one_writer(facts: _Facts) -> Iterator[str]:
    writers: dict[int, set[tuple[str, str]]] = {}
    for record in facts.run.written:
        writers.setdefault(record.term, set()).add((record.node, record.boot))
    for seen in facts.run.sightings:
        if seen.role == "primary":
            writers.setdefault(seen.term, set()).add((seen.node, seen.boot))
    for term, who in sorted(writers.items()):
        if len(who) > 1:
            yield f"term {term} has {len(who)} writers: " + ", ".join(
                f"{node}/{boot[:6]}" for node, boot in sorted(who)
            )


def _terms_rise(facts: _Facts) -> Iterator[str]:
    for node in sorted({seen.node for seen in facts.run.sightings}):
        sightings = sorted((seen for seen in facts.run.sightings if seen.node == node), key=lambda seen: seen.at)
        for before, after in pairwise(sightings):
            if after.term < before.term:
                again = "" if after.boot == before.boot else ", after a restart"
                yield f"{node} was in term {before.term}, then in term {after.term}{again}"


def _contains_token(facts: _Facts) -> Iterator[str]:
    for read in facts.reads:
        if read.kind == "read" and read.outcome == "ok" and read.found != read.value:
            yield (
                f"read {read.id} on {read.node} waited for {read.token}, which contains {read.value} at {read.index}, "
                f"and showed {read.count} values with {read.found} there"
            )


def _is_fresh(facts: _Facts) -> Iterator[str]:
    fresh = [read for read in facts.reads if read.kind == "fresh" and read.outcome == "ok"]
    for best, read in _after_the_acknowledged(facts, fresh):
        if read.count <= best:
            missing = f"{facts.final[best]} at {best}, which was there before it began"
            yield f"fresh read {read.id} on {read.node} showed {read.count} values, without {missing}"


def _of_one_history(facts: _Facts) -> Iterator[str]:
    for read in facts.reads:
        if read.outcome != "ok" or facts.is_beginning(read):
            continue
        if not facts.losses or not (facts.is_of_a_fork(read) or facts.killed_too_soon(read)):
            shown = f"{read.count} values that are not the beginning of the final state"
            yield f"read {read.id} on {read.node} showed {shown}"


def _positions_stay(facts: _Facts) -> Iterator[str]:
    if facts.losses:
        return
    for read in facts.reads:
        if read.outcome == "lost":
            yield f"read {read.id} on {read.node} was told that {read.token} was lost ({read.error})"


def _equal(facts: _Facts) -> Iterator[str]:
    ends = {node: (len(values), digests(values)[-1]) for node, values in facts.run.finals.items()}
    if len(set(ends.values())) > 1:
        yield "the nodes end with different states: " + ", ".join(
            f"{node} {count} values ({digest})" for node, (count, digest) in sorted(ends.items())
        )


def _told(facts: _Facts) -> Iterator[str]:
    if facts.run.told is None:
        return
    told = {each.term: each for each in facts.run.told}
    lost_at = max((loss.until for loss in facts.losses if loss.event.kind != "force"), default=None)
    seen = [(0, Term(term=each.term, node=each.node, boot=each.boot)) for each in facts.run.written]
    seen += [
        (each.at, Term(term=each.term, node=each.node, boot=each.boot))
        for each in facts.run.sightings
        if each.role == "primary"
    ]
    # A node that has not heard yet of the loss calls itself the primary of a term from before: one of another era.
    era = era_of(max(told, default=0))
    for each in sorted(
        {
            each
            for at, each in seen
            if lost_at is None or (at > lost_at and era_of(each.term) == era) or each.term in told
        },
        key=_number,
    ):
        if told.get(each.term) != each:
            other = told.get(each.term)
            says = f"{other.node}/{other.boot[:6]} took it" if other else "nothing"
            yield f"{each.node}/{each.boot[:6]} had term {each.term}, and the history says {says}"
    if lost_at is None:
        for term in sorted(told.keys() - {each.term for _, each in seen}):
            if any(term in missed for missed in facts.run.unread):
                continue  # it was over, and trimmed, between two looks
            yield f"the history has term {term} of {told[term].node}, which nobody saw"


def _number(term: Term) -> tuple[int, str, str]:
    return term.term, term.node, term.boot


def _settled(facts: _Facts) -> Iterator[str]:
    yield from facts.run.problems


_RULES: dict[str, Callable[[_Facts], Iterator[str]]] = {
    "kept": _kept,
    "forked": _forked,
    "once": _once,
    "sent": _sent,
    "refused": _refused,
    "answered": _answered,
    "place": _in_place,
    "order": _in_order,
    "writer": _one_writer,
    "term": _terms_rise,
    "token": _contains_token,
    "fresh": _is_fresh,
    "history": _of_one_history,
    "position": _positions_stay,
    "equal": _equal,
    "told": _told,
    "settled": _settled,
}


def _named(write: Operation) -> str:
    return f"{write.value} ({write.outcome} {write.ack}, {write.node})"


def _after_the_acknowledged(facts: _Facts, later: Iterable[Operation]) -> Iterator[tuple[int, Operation]]:
    """Each operation with the last place that was acknowledged, or freshly read, before it began.

    Since the last loss before it, that is; an operation during which something may have been lost is left out. One
    sweep over all instants in their order: -1 at the end of a loss, what is known from then on, whoever wants to know.
    """
    told: list[tuple[int, int, int, Operation | None]] = [(loss.until, 0, -1, None) for loss in facts.losses]
    for operation in (*facts.acknowledged, *facts.reads):
        place = facts.place_shown_by(operation)
        if place is not None and operation.ended is not None and facts.whole(operation.began, operation.ended):
            told.append((operation.ended, 1, place, None))
    asked = [(operation.began, 2, 0, operation) for operation in later]
    best = -1
    in_order = itemgetter(0, 1)
    for _, kind, place, asker in merge(sorted(told, key=in_order), sorted(asked, key=in_order), key=in_order):
        if kind == 0:
            best = -1
        elif kind == 1:
            best = max(best, place)
        elif asker is not None and facts.whole(asker.began, asker.ended or asker.began):
            yield best, asker
