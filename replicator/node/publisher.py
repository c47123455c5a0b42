"""The state in the log: snapshots in parts, a state that replaces what was there, patches of one without `apply`."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import Outdated
from ..format.codec import SnapshotDecoder, SnapshotEncoder, digest_of, with_ledger
from ..format.ids import ZERO_ID, RecordId
from ..format.patch import CODEC, cut
from ..format.records import PartRecord
from ..format.snapshot_parts import Cutter
from ..metrics.counters import phase
from ..protocol.node_state import NodeState, Snapshot
from ..protocol.snapshot_due import NEVER, snapshot_is_due
from ..replica.ledger import LedgerImage
from ..replica.replica import Replica
from ..runtime.backoff import Backoff
from ..runtime.counted import counted
from ..runtime.event_log import EventLogger
from ..runtime.gc_pause import HOLD_COLLECTOR_FROM_BYTES, HeldCollector
from ..runtime.log_once import Lasting, LogOnce
from ..storage.payload import Made, Published, Whole
from .commit_queue import CommitQueue
from .writer import RESEND_S, RESEND_S_MAX, RecordWriter, SnapshotBroken, now_ms

__all__ = ["Publisher"]

logger = EventLogger(__name__)

_INTERRUPTED = Lasting("snapshot.interrupted", "snapshot.complete", "the snapshot is complete")

#: What the library keeps beside a state, if that is nothing.
NO_KEYS = LedgerImage()

#: A snapshot that takes longer has the collector look at it after all: the process may need it for something else.
HOLD_COLLECTOR_FOR_S = 5.0


class Publisher:
    """Sends what the state is, one at a time. `commits`: the changes that are let in between two parts."""

    def __init__(self, writer: RecordWriter, replica: Replica, commits: CommitQueue) -> None:
        self._writer = writer
        self._replica = replica
        self._commits = commits
        self._publishing = threading.Lock()
        self._log_once = LogOnce(logger)
        #: The newest snapshot that this boot published: how long that took, and when it was over (`time.monotonic`).
        self._published_in_s = 0.0
        self._published_at = -NEVER

    @property
    def publishes(self) -> bool:
        """Whether a snapshot is under way."""
        return self._publishing.locked()

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def publish(self, *, until: float = math.inf) -> None:
        """Send a snapshot of the state as it is now. After a rebase, this is what makes the node the primary.

        What is not sent by `until` is given up (`LogUnavailable`): a snapshot without its last part means nothing.
        """
        with self._writer.held(self._publishing, until):
            began = time.monotonic()
            with HeldCollector(freezes=False) as collector:
                replica = self._replica
                if max(replica.saved.snapshot_bytes, replica.saved.changes_bytes) >= HOLD_COLLECTOR_FROM_BYTES:
                    collector.hold()
                backoff = Backoff(RESEND_S, RESEND_S_MAX)
                while not self._counted(collector, until):
                    self._log_once.tell("snapshot", _INTERRUPTED, "the snapshot was interrupted; it begins anew")
                    time.sleep(max(0.0, min(backoff.failed(), until - time.monotonic())))
                self._log_once.over("snapshot")
            self._published_at = time.monotonic()
            self._published_in_s = self._published_at - began
        with phase(self._replica.counters.snapshot_s, "sweep"):
            self._writer.sweep(until)

    def _counted(self, collector: HeldCollector, until: float) -> bool:
        counters, sent = self._replica.counters, False
        try:
            sent = self._publish_once(collector, until)
        finally:
            if sent:
                counters.snapshots += 1
            else:
                counters.snapshot_failures += 1
        return sent

    def rehearse(self) -> None:
        """Draw a snapshot and send nothing. Raises what drawing it raises.

        Parts of one that breaks off stay in the log until another one is complete.
        """
        with self._replica.applied.lock:
            pieces, ledger = self._replica.pieces(), self._replica.applied.ledger.image()
        for _ in _Parts(pieces, self._replica.snapshot_bytes_max, ledger):
            pass

    @property
    def snapshot_is_due(self) -> bool:
        """Whether the log needs another one (`protocol/snapshot_due.py`), by what this node saved, or is to."""
        replica = self._replica
        return snapshot_is_due(
            replica.saved.changes_bytes,
            replica.saved.snapshot_bytes,
            took_s=self._published_in_s,
            ago_s=time.monotonic() - self._published_at,
        )

    def _publish_once(self, collector: HeldCollector, until: float) -> bool:
        replica, began, seconds = self._replica, time.monotonic(), self._replica.counters.snapshot_s
        with self._writer.held(replica.write_lock, until):
            node_state = self._writer.check_holds(until)
            with self._writer.held(replica.applied.lock, until), phase(seconds, "begin"):
                snapshot = node_state.begin_snapshot()
                pieces, ledger = replica.pieces(), replica.applied.ledger.image()
        if node_state.view.skipped != ZERO_ID:
            ledger = self._writer.rejecting(ledger, node_state.view.skipped)
        parts = _Parts(pieces, replica.snapshot_bytes_max, ledger)
        bodies = enumerate(parts)
        while (drawn := _next(bodies, seconds)) is not None:
            index, body = drawn
            with self._writer.held(replica.write_lock, until), phase(seconds, "send"):
                node_state = self._writer.check_holds(until, snapshot.term)
                try:
                    part = self._part(node_state, snapshot, parts, index, body)
                    self._writer.write(part, until=until, rebase=snapshot.rebase)
                except SnapshotBroken:
                    return False
            self._commits.let_in()
            if time.monotonic() - began > HOLD_COLLECTOR_FOR_S:
                collector.release()
        logger.info(
            "snapshot.published",
            "published the state as of %s in %s",
            snapshot.as_of.id,
            counted(parts.count, "part"),
            parts=parts.count,
        )
        return True

    def replace(
        self,
        pieces: Iterable[Any],
        *,
        term: int | None,
        expect: RecordId | None = None,
        wants_acks: int = 0,
        until: float = math.inf,
    ) -> RecordId:
        """Make these pieces the state, on every node, at one record: its id. Everything else waits meanwhile.

        `expect`: only if the state is what it was there (`Outdated`). Raises what the state says of pieces that do not
        fit: every node would stall at them.
        """
        parts = _Parts(pieces, self._replica.snapshot_bytes_max)
        with HeldCollector(freezes=False) as collector:
            # Whoever made the pieces holds it until they are drawn, if they are many: here, until the state is built.
            collector.join()
            whole = parts.encoded()  # what cannot be encoded must not be half sent
            self._check(whole)
            with self._writer.held(self._publishing, until):
                replaced_at = self._replace(whole, term, expect, wants_acks, until)
        self._writer.sweep(until)
        return replaced_at

    def _check(self, whole: _Encoded) -> None:
        # As the others will have them: JSON has lists where a program may have given tuples.
        decoder = SnapshotDecoder(whole.codec, whole.digest, id_="new", most=self._replica.snapshot_bytes_max)
        self._replica.applied.as_now.check_pieces(decoder.pieces(whole.bodies))

    def _replace(
        self,
        whole: _Encoded,
        term: int | None,
        expect: RecordId | None,
        wants_acks: int,
        until: float,
    ) -> RecordId:
        with self._writer.held(self._replica.write_lock, until):
            node_state = self._writer.check_may_write(until)
            if term not in (None, node_state.view.term):
                raise self._writer.other_term(term)
            # The write lock keeps it so until the last part is in the log.
            if expect is not None and not node_state.view.is_unchanged_since(expect):
                raise Outdated(expect=expect, position=node_state.view.position.id)
            snapshot = node_state.begin_snapshot(replaces=True)
            # What the library keeps is not the application's to replace, and does not move under the write lock.
            whole = whole.beside(self._replica.applied.ledger.image())
            for index, body in enumerate(whole.bodies):
                node_state = self._writer.check_holds(until, snapshot.term)
                part = self._part(node_state, snapshot, whole, index, body, wants_acks)
                self._writer.write(part, until=until, bodies=whole.bodies)
            return self._replica.node_state.view.position.id

    # --- a state without apply ---------------------------------------------------------------------------------------

    def publish_state(self, whole: Whole, *, wants_acks: int, until: float = math.inf) -> Published:
        """Send what became of the state since it was published last: a patch where that is smaller than all of it."""
        replica = self._replica
        with self._writer.held(self._publishing, until):
            with self._writer.held(replica.write_lock, until):
                term = self._writer.check_may_write(until).view.term
            made = whole.make(partial(self._snapshot_of_now, until))
            if made is None:
                done = Published("nothing", replica.node_state.view.position.id)
            else:
                done = self._send_made(made, term, wants_acks=wants_acks, until=until)
            replica.applied.application.published()
        if done.what == "whole":  # nothing else cut anything
            self._writer.sweep(until)
        return done

    def _send_made(self, made: Made, term: int, *, wants_acks: int, until: float) -> Published:
        # An estimate first, to save making a snapshot of 80 MB only to see that a patch of some kB is smaller.
        if made.patch is not None and len(made.patch) <= self._replica.saved.snapshot_bytes // 2:
            return self._send_patch(cut(made.patch), term, wants_acks=wants_acks, until=until)
        whole = _Parts(made.pieces(), self._replica.snapshot_bytes_max).encoded()
        size = sum(map(len, whole.bodies))
        if made.patch is not None and len(made.patch) < size:
            return self._send_patch(cut(made.patch), term, wants_acks=wants_acks, until=until)
        return Published("whole", self._replace(whole, term, None, wants_acks, until), size)

    def _snapshot_of_now(self, until: float) -> Iterable[Any]:
        with self._writer.held(self._replica.applied.lock, until):
            return self._replica.applied.as_now.snapshot()

    def _send_patch(self, bodies: list[bytes], term: int, *, wants_acks: int, until: float) -> Published:
        for body in bodies:
            with self._writer.held(self._replica.write_lock, until):
                node_state = self._writer.check_may_write(until)
                if node_state.view.term != term:
                    raise self._writer.other_term(term)
                record = node_state.change(
                    codec=CODEC,
                    body=body,
                    digest=digest_of(body),
                    count=1,
                    at=now_ms(),
                    wants_acks=wants_acks if body is bodies[-1] else 0,
                    sealer=self._writer.sealing.sealer,
                )
                self._writer.write(record, until=until)
        return Published("patch", record.id, sum(map(len, bodies)))

    def _part(
        self,
        node_state: NodeState,
        snapshot: Snapshot,
        parts: _Parts | _Encoded,
        index: int,
        body: bytes,
        wants_acks: int = 0,
    ) -> PartRecord:
        # Which part is the last one is known only when it has been drawn.
        count = parts.count if index + 1 == parts.count else 0
        return node_state.part(
            snapshot,
            part=index,
            parts=count,
            codec=parts.codec,
            digest=parts.digest,
            body=body,
            at=now_ms(),
            wants_acks=wants_acks if count else 0,
            sealer=self._writer.sealing.sealer,
        )


def _next(bodies: Iterator[tuple[int, bytes]], seconds: defaultdict[str, float]) -> tuple[int, bytes] | None:
    """The next part of a snapshot and its number; None: that was all. The time counts as that of drawing it."""
    with phase(seconds, "draw"):
        return next(bodies, None)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A snapshot that is encoded to its end."""

    codec: str
    digest: str
    bodies: list[bytes]

    @property
    def count(self) -> int:
        return len(self.bodies)

    def beside(self, ledger: LedgerImage) -> _Encoded:
        """The same with what the library keeps before it."""
        codec, digest, packed = with_ledger(self.codec, self.digest, ledger.to_bytes())
        if not packed:
            return self
        cutter = Cutter()
        return _Encoded(codec, digest, [*cutter.feed(packed), cutter.finish(), *self.bodies])


class _Parts:
    """Draws pieces and gives bodies. `count` and `digest` are known once the last body was given."""

    def __init__(self, pieces: Iterable[Any], snapshot_bytes_max: int, ledger: LedgerImage = NO_KEYS) -> None:
        self._pieces = pieces
        self._encoder = SnapshotEncoder(most=snapshot_bytes_max, ledger=ledger.to_bytes())
        self.count = 0

    def encoded(self) -> _Encoded:
        """All of it, compressed."""
        bodies = list(self)
        return _Encoded(self.codec, self.digest, bodies)

    @property
    def codec(self) -> str:
        return self._encoder.codec

    @property
    def digest(self) -> str:
        return self._encoder.digest

    def __iter__(self) -> Iterator[bytes]:
        cutter = Cutter()
        given = 0
        for packed in self._packed():
            for body in cutter.feed(packed):
                given += 1
                yield body
        self.count = given + 1
        yield cutter.finish()

    def _packed(self) -> Iterator[bytes]:
        for piece in self._pieces:
            yield self._encoder.feed(piece)
        yield self._encoder.finish()
