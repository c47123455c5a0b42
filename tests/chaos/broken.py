"""Rules taken out of replicator, in one process, to show that chaos notices. The product has no switch for any of this.

`python -m tests.chaos.node --break NAME` applies one before the node starts. Each has a scenario in `scenarios.py` that
makes its absence show; the same scenario passes with the rule in place.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from replicator.format.ids import RecordId, Writer
from replicator.format.keyed import Keyed
from replicator.format.records import Record
from replicator.log import scripts
from replicator.node.writer import RecordWriter, Sent
from replicator.protocol import election, fold, node_state
from replicator.protocol.fold import Row, View
from replicator.replica.ledger import Ledger
from replicator.storage.checkpoint import Checkpoint, Loaded

__all__ = ["VARIANTS", "Variant"]


class Variant(NamedTuple):
    """A rule that is missing, and the rule of the checker that says so."""

    about: str
    apply: Callable[[], None]
    caught_by: str


def _boot_check() -> None:
    def holds(view: View, me: Writer, run: str) -> bool:
        return (view.holder.node, view.holder.run) == (me.node, run)

    _hold_by(holds)
    _without_in_scripts(b" or head.boot ~= boot")


def _keep_holder_over_run() -> None:
    def holds(view: View, me: Writer, run: str) -> bool:
        return view.holder[:2] == me

    _hold_by(holds)
    _without_in_scripts(b"  if head.run ~= run then\n    return { 'newrun' }\n  end\n")


def _hold_by(holds: Callable[[View, Writer, str], bool]) -> None:
    for module in (fold, election, node_state):
        module.holds = holds  # type: ignore[attr-defined]


def _without_in_scripts(text: bytes) -> None:
    """Every script from now on lacks this text."""
    make = scripts._Script.__init__

    def make_without(script: Any, name: str) -> None:
        make(script, name)
        assert text in script.text, "the scripts have changed: mend this"
        script.text = script.text.replace(text, b"")
        script.sha = hashlib.sha1(script.text, usedforsecurity=False).hexdigest().encode()

    scripts._Script.__init__ = make_without  # type: ignore[assignment, method-assign]


def _apply_before_append() -> None:
    def write(
        writer: RecordWriter,
        record: Any,
        *,
        until: float = math.inf,
        rebase: bool = False,
        changes: list[Any] | None = None,
        bodies: Sequence[bytes] = (),
        since: Sequence[float] = (),
    ) -> list[Any]:
        sent = Sent(record, rebase)
        results = writer._fold(sent, changes=changes, bodies=bodies)
        writer._send(sent, uncertain=False, until=until)
        return results

    RecordWriter.write = write  # type: ignore[assignment, method-assign]


def _reader_term_and_chain() -> None:
    def in_sync(view: View, record: Record, me: Writer) -> bool:
        return view.in_sync

    def lax(row: Row) -> Row:
        if row.condition is fold._follows:
            row = row._replace(condition=in_sync)
        return row._replace(become=fold._led) if row.become is fold._followed else row

    fold.TABLE = tuple(lax(row) for row in fold.TABLE if row.condition is not fold._is_stale)


def _forget_term() -> None:
    load = Checkpoint.load

    def load_without(checkpoint: Checkpoint) -> Loaded | None:
        loaded = load(checkpoint)
        return loaded and loaded._replace(view=loaded.view._replace(term=0, holder=fold.NOBODY))

    Checkpoint.load = load_without  # type: ignore[assignment, method-assign]


def _keys_in_apply() -> None:
    def once(
        ledger: Ledger, keyed: Keyed, id_: RecordId, index: int, apply: Callable[[Any], Any], typed: Any = None
    ) -> Any:
        return apply(keyed.change)

    Ledger.once = once  # type: ignore[method-assign]


VARIANTS = {
    "boot-check": Variant(
        "a boot stamps only the term that it took itself, and the log takes nothing from another boot",
        _boot_check,
        caught_by="writer",
    ),
    "apply-before-append": Variant(
        "the primary applies a change once it is in the log, and not before", _apply_before_append, caught_by="history"
    ),
    "reader-term-and-chain": Variant(
        "a reader ignores what is stale, and applies nothing that does not follow what it has",
        _reader_term_and_chain,
        caught_by="equal",
    ),
    "keep-holder-over-run": Variant(
        "a term that was taken in another run of Redis is held by nobody", _keep_holder_over_run, caught_by="kept"
    ),
    "keys-in-apply": Variant("a change whose key is known is not applied again", _keys_in_apply, caught_by="once"),
    "forget-term": Variant("the term is on disk before anything of it is applied", _forget_term, caught_by="term"),
}
