"""A fire drill: a group of three under a running load, one fault after the other, and what each of them cost.

`run` brings up a stack of its own (`stack.py`), has a few writers register nodes over HTTP (`load.py`), plays what is
on the menu (`faults.py`) and gives a `Report` (`report.py`). What it counts:

- Each registration has a tag of its own and is sent to one node after the other only while that is known to have had
  no effect. So it is *acknowledged*, *refused* (for certain: nothing was written) or *unknown* (no answer).
- *Lost* is what was acknowledged and is not in the state, read fresh after each fault: the fault after which it is
  first missed is the one that lost it. At the end nothing acknowledged may be there twice, and nothing that was
  refused at all.
- The *gap* of a fault is the longest time between two acknowledgements around it: nobody could write that long. It
  holds what the writers themselves need to find the new primary, as it would in life.
- *Stale* are records that came too late: their writer's term was over, or of an earlier life of Redis. After each
  change of the term the drill sends one itself, in the name of the primary before. All have to be refused.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from replicator import ops
from replicator.errors import ConfigError, LogUnavailable, ReplicatorError
from replicator.protocol.group import Head
from replicator.runtime.signals import Interruption
from replicator.sandbox.requirements import check_installed
from replicator.sandbox.stack import NODES
from replicator.storage import disk

from .faults import CRASH, FAULTS, Fault, Say
from .load import Load
from .report import FaultReport, Outcome, Report, lacking, longest_gap_s
from .stack import Scene

__all__ = ["FAULTS", "FaultReport", "Report", "run"]

_ALL = FAULTS | CRASH

#: A writer gives up waiting after a lease, and not before this: a busy machine may take half of it.
PATIENCE_S_MIN = 1.0

#: How long the load runs before the first fault, to show what is usual.
WARM_UP_S = 2.0

#: The group leads again, so it takes writes again at once; the rest is for a busy machine.
WRITE_WITHIN_S = 15.0

#: All nodes digest their state at once, and tell it with their next heartbeat.
VERIFY_TIMEOUT_S = 60.0

#: Redis was restarted: the first connection to it may be one from before.
STALE_TRIES = 3


def run(
    faults: Sequence[str],
    *,
    directory: Path | None = None,
    keep: bool = False,
    group: str = "registry",
    lease_s: float = 1.0,
    seconds_per_fault: float = 6.0,
    log_level: str = "INFO",
    say: Say = lambda _: None,
) -> Report | None:
    """Play these faults; what was found, or None if a signal ended it (`runtime/signals.py`). On the main thread only.

    `faults`: names of `FAULTS`, or of `CRASH`.
    `directory`: made if missing, never removed; without, a temporary one, which is removed unless something was found
    to be wrong, or `keep` is set. Raises `ConfigError`, and `ReplicatorError` if the stack does not come up.
    """
    for name in faults:
        if name not in _ALL:
            raise ConfigError(setting="FAULT", problem=f"{name!r} is none of {', '.join(FAULTS)}")
    check_installed()
    # From before there is anything that has to be removed.
    with Interruption() as interruption:
        path = (
            _empty(directory) if directory is not None else Path(tempfile.mkdtemp(prefix="replicator-drill-")).resolve()
        )
        report = None
        try:
            with Scene(path, group=group, lease_s=lease_s, log_level=log_level) as scene:
                drill = _Drill(scene, seconds_per_fault, say)
                say(f"starting Redis and nodes a, b, c in {path}; lease {lease_s:g} s")
                report = scene.stack.run_until(interruption, lambda _: drill.play(faults))
        finally:
            if directory is not None or keep or (report is not None and not report.passed):
                say(f"data and logs are in {path}")
            else:
                shutil.rmtree(path, ignore_errors=True)
    return report


def _empty(directory: Path) -> Path:
    try:
        disk.make_directory(directory)
        if any(directory.iterdir()):
            raise ConfigError(setting="--dir", problem=f"{directory} is not empty, and a drill begins with nothing")
    except OSError as error:
        raise ConfigError(setting="--dir", problem=f"{directory} cannot be used: {error.strerror}") from error
    return directory.resolve()


class _Drill:
    """One drill on a scene whose stack runs."""

    def __init__(self, scene: Scene, seconds_per_fault: float, say: Say) -> None:
        self._scene = scene
        self._seconds = seconds_per_fault
        #: Longer than the lease, and what it takes to notice that.
        self._lasts_s = max(2 * scene.lease_s + 1, seconds_per_fault / 2)
        self._say = say
        self._token = f"drill-{secrets.token_hex(4)}"
        self._missed: set[str] = set()
        self._stale_accepted = 0

    def play(self, faults: Sequence[str]) -> Report:
        """Play them all, or until one cannot be played to its end."""
        scene = self._scene
        head = scene.wait_settled(time.monotonic())
        reports: list[FaultReport] = []
        patience_s = max(scene.lease_s, PATIENCE_S_MIN)
        with Load(list(scene.stack.urls().values()), token=self._token, patience_s=patience_s) as load:
            self._warm_up(load, head)
            for name in faults:
                self._say(ops.Step(f"{name}, fault {len(reports) + 1} of {len(faults)}", len(reports), len(faults)))
                reports.append(self._play(name, load))
                if reports[-1].problem is not None:
                    break
        self._say("the load is stopped; comparing what was said with what is there")
        return self._checked(reports, load)

    def _warm_up(self, load: Load, head: Head) -> None:
        began = time.monotonic()
        time.sleep(WARM_UP_S)
        acknowledged = load.acknowledged_at()
        gap_ms = longest_gap_s(acknowledged, began, time.monotonic()) * 1000
        rate = len(acknowledged) / WARM_UP_S
        self._say(f"{head.node} leads in term {head.term}; {rate:.0f} writes a second, at most {gap_ms:.0f} ms apart")

    # --- one fault ---

    def _play(self, name: str, load: Load) -> FaultReport:
        """One fault, and what it cost. Whatever kept it from being played is its `problem`."""
        scene, problem = self._scene, None
        first, stale = len(load.writes), scene.stale_refused()
        began, sent, lost = time.monotonic(), 0, list[str]()
        try:
            _ALL[name].prepare(scene, lambda text: self._say(f"{name}: {text}"))
            before = scene.wait_settled(time.monotonic())
            began = time.monotonic()
            after = self._suffer(name, _ALL[name], before, load)
            sent = self._send_stale(before, after)
            lost = self._newly_missed(load)
        except (ReplicatorError, TimeoutError) as error:
            problem = str(error)
        ended, led = time.monotonic(), scene.led()
        outcomes = [write.outcome for write in load.writes[first:]]
        report = FaultReport(
            fault=name,
            acknowledged_count=outcomes.count(Outcome.ACKNOWLEDGED),
            lost_tags=lost,
            refused_count=outcomes.count(Outcome.REFUSED),
            unknown_count=outcomes.count(Outcome.UNKNOWN),
            gap_ms=round(longest_gap_s(load.acknowledged_at(), began, ended) * 1000),
            stale_refused_count=sent + scene.stale_refused() - stale,
            primary=led.node if led else None,
            term=led.term if led else 0,
            problem=problem,
        )
        self._tell(report)
        return report

    def _tell(self, report: FaultReport) -> None:
        if report.problem is not None:
            self._say(f"{report.fault}: {report.problem}")
        self._say(
            f"{report.fault}: {report.acknowledged_count} acknowledged, {len(report.lost_tags)} lost, "
            f"{report.unknown_count} unknown; {report.gap_ms} ms without a writer"
        )

    def _suffer(self, name: str, fault: Fault, before: Head, load: Load) -> Head:
        """From the beginning of a fault until all is well again, and for as long as a fault is given. Who leads."""
        scene, began, led = self._scene, time.monotonic(), before

        def look() -> None:
            nonlocal led
            now = scene.led()
            if now is not None and now.term != led.term:
                self._say(f"{name}: {now.node} leads in term {now.term} ({time.monotonic() - began:.1f} s)")
                led = now

        with fault.begin(scene, before.node) as what:
            self._say(f"{name}: {what}")
            while fault.over and time.monotonic() < began + self._lasts_s:
                scene.tick()
                look()
        over = time.monotonic()
        if fault.over:
            self._say(f"{name}: {fault.over.format(primary=before.node)}")
        after = scene.wait_settled(over, look)
        self._wait_for_a_write(load, time.monotonic())
        while time.monotonic() < began + self._seconds:
            scene.tick()
            look()
        return after

    def _wait_for_a_write(self, load: Load, since: float) -> None:
        while max(load.acknowledged_at(), default=0.0) < since:
            if time.monotonic() > since + WRITE_WITHIN_S:
                raise ReplicatorError(f"a node leads, but took no write for {WRITE_WITHIN_S:.0f} s")
            self._scene.tick()

    def _send_stale(self, before: Head, after: Head) -> int:
        """Send a record of the term that was, if there is another one; how many were refused."""
        if after.term == before.term:
            return 0
        for _ in range(STALE_TRIES - 1):
            try:
                return self._tried_stale(before)
            except LogUnavailable:
                self._scene.tick()
        return self._tried_stale(before)

    def _tried_stale(self, before: Head) -> int:
        if not self._scene.send_stale(before):
            self._stale_accepted += 1
            raise ReplicatorError(f"Redis took a record of term {before.term}, which is over")
        return 1

    def _newly_missed(self, load: Load) -> list[str]:
        acknowledged = [write for write in list(load.writes) if write.outcome is Outcome.ACKNOWLEDGED]
        missed = lacking(acknowledged, self._scene.registered(self._token)).lost
        lost = [tag for tag in missed if tag not in self._missed]
        self._missed.update(lost)
        return lost

    # --- all of them ---

    def _checked(self, faults: list[FaultReport], load: Load) -> Report:
        """Compare what the writers were told with the state, and the states of the nodes with each other."""
        problems = [f"{report.fault}: {report.problem}" for report in faults if report.problem is not None]
        digests, state = None, None
        try:
            digests = ops.verify(self._scene.log, by="replicator drill", timeout_s=VERIFY_TIMEOUT_S)
            state = self._scene.registered(self._token)
        except (ReplicatorError, TimeoutError) as error:
            problems.append(f"the states could not be compared: {error}")
        wrong = lacking(load.writes if state is not None else [], state or {})
        outcomes = [write.outcome for write in load.writes]
        unknown = [write.tag for write in load.writes if write.outcome is Outcome.UNKNOWN]
        return Report(
            faults=faults,
            acknowledged_count=outcomes.count(Outcome.ACKNOWLEDGED),
            refused_count=outcomes.count(Outcome.REFUSED),
            unknown_count=len(unknown),
            landed_count=sum(tag in (state or {}) for tag in unknown),
            lost_tags=sorted({*wrong.lost, *self._missed}),
            doubled_tags=wrong.doubled,
            appeared_tags=wrong.appeared,
            stale_accepted_count=self._stale_accepted,
            equal=digests is not None and digests.equal and set(digests.digests) == set(NODES),
            position=digests.position if digests is not None else None,
            digests=digests.digests if digests is not None else {},
            problems=problems,
        )
