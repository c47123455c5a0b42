"""What becomes of the keys of a change that the group went on without: a repeat is rejected, on every node."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NoReturn

from ..errors import ChangeRejected, CorruptRecord
from ..format.keyed import Keyed
from ..format.records import ChangeRecord
from .applied_state import changes_of
from .ledger import Ledger, LedgerImage

__all__ = ["with_rejections"]


def with_rejections(image: LedgerImage, skipped: ChangeRecord, reason: str) -> LedgerImage:
    """The same ledger, in which every change with a key in that record is rejected for this reason."""
    ledger = Ledger.of(image.to_bytes(), id_=str(skipped.id))

    def reject(_: Any) -> NoReturn:
        raise ChangeRejected("an operator had the group go on without it ({reason})", reason=reason)

    with suppress(CorruptRecord):  # no node can read it, so none can know a key of it
        for index, change in enumerate(changes_of(skipped)):
            if type(change) is Keyed:
                with suppress(ChangeRejected):
                    ledger.once(change, skipped.id, index, reject)
    return ledger.image()
