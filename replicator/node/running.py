"""What there is of a node from its start to its stop: the parts that need the data directory, put together once.

A `Node` has one, or has none. So nothing of a node springs up halfway, and what there is of one that was not started is
what it was given (`NodeSetup`).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import LogUnavailable
from ..format.ids import ORIGIN, Writer
from ..log.interface import Log
from ..replica.change_updater import ChangeUpdater
from ..replica.files_updater import FilesUpdater
from ..replica.pages_updater import PagesUpdater
from ..replica.rebuild import Rebuild
from ..replica.replica import Replica
from ..replica.state_updater import StateUpdater
from ..replica.whole_updater import WholeUpdater
from ..runtime.event_log import EventLogger
from ..state import ReplicatedState, State
from ..state.class_name import kind_of
from ..state.files import FilesState
from ..state.sqlite_pages import SQLitePages
from ..storage.checkpoint import Checkpoint
from .acks import Acks
from .async_writer import AsyncWriter
from .components import Components
from .consumer import Reader
from .duties import Duties
from .ha_loop import HaLoop
from .handover import Handover
from .identity import Name, check_data_is_mine
from .lease import Lease
from .options import NodeOptions
from .position_waits import PositionWaits
from .primary import Primary
from .problems import Problems
from .release import Release
from .scheduler import Scheduler
from .speaker import NodeSpeaker
from .url_proof import Nonces, PrimaryProof
from .vitals import Vitals
from .watch import Watch

__all__ = ["NodeSetup", "RunningNode", "joined"]

logger = EventLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSetup:
    """What a node was given, and what it has from before its start until after its stop. `stopping`: it ends."""

    name: str
    group: str
    data_dir: Path
    state: State | ReplicatedState
    options: NodeOptions
    release: Release
    log: Log
    scheduler: Scheduler
    lease: Lease
    problems: Problems
    handover: Handover
    vitals: Vitals
    watch: Watch
    stopping: threading.Event
    speaker: NodeSpeaker


class RunningNode:
    """One node, from `start` to `stop`. `checkpoint`: that of its data directory, from which the state is rebuilt."""

    def __init__(self, setup: NodeSetup, checkpoint: Checkpoint) -> None:
        log, lease, policy = setup.log, setup.lease, setup.options.policy
        me = Writer(setup.name, secrets.token_hex(16))
        setup.speaker.boot = me.boot
        self.checkpoint = checkpoint
        self.replica = _replica_of(setup, checkpoint, me)
        setup.speaker.known = self.replica.known
        self.primary = Primary(log, self.replica, lease, patience_s=lease.length_s, speaker=setup.speaker)
        self.async_writer = AsyncWriter(self.primary.commits, name=setup.name, soon=setup.scheduler.soon)
        self.acks = Acks(log, self.replica, lease)
        self.position_waits = PositionWaits(self.replica.known, name=setup.name)
        self.replica.known.turned.append(setup.watch.stir)
        setup.vitals.watch_reads(self.replica.applied.inside)
        parts = Components(
            log=log,
            replica=self.replica,
            primary=self.primary,
            acks=self.acks,
            lease=lease,
            problems=setup.problems,
            vitals=setup.vitals,
            release=setup.release,
        )
        boot = self.replica.node_state.previous_boot
        own_name = Name(log, me, checkpoint, previous_boot=boot, stopping=setup.stopping)
        self.nonces = Nonces(self.wake)
        self.primary_proof, self.proxy_proof = PrimaryProof(log), PrimaryProof(log)
        self.ha_loop = HaLoop(parts, policy, own_name, setup.handover, wake=self.wake)
        self.ha_loop.reporter.nonces = self.nonces
        reader = Reader(parts, stopping=setup.stopping)
        self.duties = Duties(
            parts,
            self.ha_loop,
            reader,
            beat_every_s=policy.beat_every_s,
            stopping=setup.stopping,
            speaker=setup.speaker,
        )
        self.policy = policy
        self._setup = setup
        self._node_work = self.duties.work(setup.name)

    def join(self) -> None:
        """Look at the group for the first time; Redis may be down. Raises `ConfigError`, `LogLost`."""
        try:
            self.ha_loop.join()
        except LogUnavailable as unavailable:
            logger.warning("node.started_alone", "%s; starting as a standby with what the checkpoint has", unavailable)

    def begin(self) -> None:
        """Have its duties done from now on. Raises `NoThread`: `end` it then."""
        self._setup.vitals.look()  # before the first beat, at which a node may take its term again
        view = self.replica.node_state.view
        has = f"what its disk has, up to {view.position.id}" if view.position != ORIGIN else "an empty data directory"
        logger.info("node.started", "started with %s", has)
        self._setup.scheduler.start(self._node_work)

    def wake(self) -> None:
        """Have the next beat soon."""
        self._setup.scheduler.wake(self._node_work)

    def end(self, *, keeps_lease: bool) -> None:
        """Finish the record under way, write the checkpoint, give the lease back. It is `stopping`.

        `keeps_lease`: let it run out instead. Raises `CheckpointError`.
        """
        self.wake()
        self.replica.close()
        # With the write lock nothing is half done; no writer gets it back.
        has_lock = self.replica.write_lock.acquire(timeout=2 * self._setup.lease.length_s)
        self.ha_loop.end(failed=self.duties.failed is not None, keeps_lease=keeps_lease)
        self._setup.log.close()
        if has_lock:
            self.replica.write_lock.release()
        self.async_writer.close()
        self.position_waits.close()
        self._setup.scheduler.stop(self._node_work)
        try:
            self.replica.flush()
        finally:
            self.checkpoint.close()
        logger.info("node.stopped", "stopped at %s", self.replica.node_state.view.position.id)


def joined(setup: NodeSetup) -> RunningNode:
    """Lock the data directory, rebuild the state, look at the group.

    Raises what `Node.start` raises; then the data directory is free again.
    """
    checkpoint = Checkpoint(setup.data_dir, setup.group, node=setup.name, opens=setup.log.sealing)
    try:
        check_data_is_mine(checkpoint, setup.release.app)
        checkpoint.note("state", kind_of(setup.state))
        checkpoint.note("on_apply_error", setup.options.on_apply_error)
        running = RunningNode(setup, checkpoint)
        running.join()
    except BaseException:
        checkpoint.close()
        raise
    return running


def _replica_of(setup: NodeSetup, checkpoint: Checkpoint, me: Writer) -> Replica:
    options = setup.options
    return Replica(
        setup.state,
        checkpoint,
        me,
        snapshot_bytes_max=options.snapshot_bytes_max,
        updater=_updater_of(setup.state),
        reads=setup.release.reads,
        rejects_errors=options.on_apply_error == "reject",
    )


def _updater_of(state: State | ReplicatedState) -> Callable[[Rebuild], StateUpdater]:
    if isinstance(state, SQLitePages):
        return partial(PagesUpdater, state=state)
    if isinstance(state, FilesState):
        return partial(FilesUpdater, state=state)
    return ChangeUpdater if isinstance(state, State) else WholeUpdater
