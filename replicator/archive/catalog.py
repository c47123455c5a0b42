"""What is in an archive: its timelines, the segments of each, and the histories that they make together.

A **timeline** is one unbroken chain of records. Another one begins where the chain breaks, or where somebody should
know: a new run of Redis, a rebase, another log, a gap. It names its parent, the position in another timeline whose
history it continues, if the archive has that. A **lineage** is a timeline with all that comes before it: the history of
a state.

Nothing but the segments' names and footers is asked. A footer is read when it is needed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..format.ids import ZERO_ID, Position, RecordId
from ..format.records import CLOSED, Opens, Record
from ..storage.keyring import Keys
from .errors import ArchiveDamaged
from .places import SEGMENT, Place
from .segment import TAIL_BYTES, Footer, Snapshot, footer_of, records_of, verified

__all__ = ["Catalog", "Lineage", "name_of"]


def name_of(timeline: int, number: int) -> str:
    return f"{timeline:06d}/{number:010d}.segment"


class Catalog:
    """The segments at a place, as they were when this was made; `add` those that this process published since.

    `keys`: those of the groups that have some. `is_closed`: nobody looks into the records.
    """

    def __init__(self, place: Place, *, keys: Keys | None = None, is_closed: bool = False) -> None:
        self.place = place
        self._keys = keys
        self._is_closed = is_closed
        self._footers: dict[str, Footer] = {}
        #: The numbers of the segments of each timeline, in order.
        self.timelines: dict[int, list[int]] = {}
        for name in place.names():
            match = SEGMENT.fullmatch(name)
            assert match is not None
            self.timelines.setdefault(int(match[1]), []).append(int(match[2]))
        self._look_for_newer()

    def _look_for_newer(self) -> None:
        # A list may lag behind: what comes next has a name that is known.
        newest = max(self.timelines, default=0)
        number = self.timelines[newest][-1] if newest else 0
        while True:
            if newest and self.place.exists(name_of(newest, number + 1)):
                number += 1
                self.timelines[newest].append(number)
            elif self.place.exists(name_of(newest + 1, 1)):
                newest, number = newest + 1, 1
                self.timelines[newest] = [1]
            else:
                return

    def opens(self, footer: Footer) -> Opens:
        """What opens the records of the group that this segment is of."""
        if self._is_closed:
            return CLOSED
        return None if self._keys is None else self._keys.of(footer.group)

    @property
    def newest(self) -> Footer | None:
        """The footer of the newest segment."""
        if not self.timelines:
            return None
        timeline = max(self.timelines)
        return self.footer(timeline, self.timelines[timeline][-1])

    def footer(self, timeline: int, number: int) -> Footer:
        """Raises `ArchiveDamaged`, `ArchiveUnavailable`."""
        name = name_of(timeline, number)
        if name not in self._footers:
            self._footers[name] = self._read_footer(name)
        return self._footers[name]

    def _read_footer(self, name: str) -> Footer:
        found = footer_of(name, self.place.read(name, -TAIL_BYTES))
        if isinstance(found, int):
            found = footer_of(name, self.place.read(name, -found))
        if isinstance(found, int) or found.name != name:
            raise ArchiveDamaged(name=name, problem="it is another segment than its name says, or was cut short")
        return found

    def footers(self, timeline: int) -> Iterator[Footer]:
        return (self.footer(timeline, number) for number in self.timelines[timeline])

    def data(self, footer: Footer) -> bytes:
        """The whole file, whose hash is right. Raises `ArchiveDamaged`."""
        data = self.place.read(footer.name)
        if verified(footer.name, data).last != footer.last:
            raise ArchiveDamaged(name=footer.name, problem="it changed under the reader")
        return data

    def add(self, footer: Footer) -> None:
        self._footers[footer.name] = footer
        self.timelines.setdefault(footer.timeline, []).append(footer.number)

    def remove(self, footer: Footer) -> None:
        del self._footers[footer.name]
        numbers = self.timelines[footer.timeline]
        numbers.remove(footer.number)
        if not numbers:
            del self.timelines[footer.timeline]

    def lineage(self, timeline: int) -> Lineage:
        """The history of a timeline. Raises `ArchiveDamaged`."""
        stretches: list[_Stretch] = []
        upto: Position | None = None
        while timeline in self.timelines:
            stretches.append(_Stretch(timeline, upto, self._count(timeline, upto)))
            first = self.footer(timeline, self.timelines[timeline][0])
            if first.parent is None or first.number != 1:  # older segments were removed, and all before them
                break
            timeline, upto = first.parent.timeline, Position.parse(first.parent.position)
        return Lineage(self, stretches[::-1])

    def _count(self, timeline: int, upto: Position | None) -> int:
        """How many of its segments begin at that position at the latest."""
        numbers = self.timelines[timeline]
        if upto is None:
            return len(numbers)
        return bisect_left(numbers, True, key=lambda number: self.footer(timeline, number).first_id > upto.id)

    def find(self, position: Position) -> int | None:
        """The timeline that has this position in a segment of its own; None: none has."""
        for timeline in sorted(self.timelines, reverse=True):
            lineage = self.lineage(timeline)
            record = lineage.record(position.id)
            if record is not None and record.position == position:
                return lineage.footer(lineage.index_of(position.id)).timeline
        return None


class _Stretch(NamedTuple):
    """The first `segment_count` segments of a timeline, and in them what is up to a position; None: all."""

    timeline: int
    upto: Position | None
    segment_count: int


class Lineage:
    """A history: the segments that it is in, oldest first."""

    def __init__(self, catalog: Catalog, stretches: Sequence[_Stretch]) -> None:
        self._catalog = catalog
        self._places = [
            (stretch.timeline, number, stretch.upto)
            for stretch in stretches
            for number in catalog.timelines[stretch.timeline][: stretch.segment_count]
        ]

    def __len__(self) -> int:
        """How many segments there are."""
        return len(self._places)

    @property
    def timeline(self) -> int:
        return self._places[-1][0]

    def footer(self, index: int) -> Footer:
        timeline, number, _ = self._places[index]
        return self._catalog.footer(timeline, number)

    def end(self, index: int) -> Position:
        """The last position of this history in that segment."""
        upto, end = self._places[index][2], self.footer(index).end
        return end if upto is None or end.id < upto.id else upto

    def index_of(self, id: RecordId) -> int:
        """The first segment with a record of that id, or a later one; `len`: there is none."""
        return bisect_left(range(len(self)), id, key=lambda index: self.end(index).id)

    def record(self, id: RecordId) -> Record | None:
        """The record of that id, if this history has it."""
        index = self.index_of(id)
        if index == len(self) or self.footer(index).first_id > id:
            return None
        return next((record for record in self.records(index) if record.id >= id and record.id == id), None)

    def records(self, index: int, *, after: RecordId = ZERO_ID) -> Iterator[Record]:
        """The records from that segment on whose ids are above `after`, in order.

        Raises `ArchiveDamaged` where one does not follow the one before it.
        """
        chain: str | None = None
        for at in range(index, len(self)):
            footer, upto = self.footer(at), self._places[at][2]
            if chain is not None and footer.prev != chain:
                raise ArchiveDamaged(name=footer.name, problem="what comes before it is missing")
            opens = self._catalog.opens(footer)
            for record in records_of(footer, self._catalog.data(footer), after=after, opens=opens):
                if upto is not None and record.id > upto.id:
                    break
                yield record
            chain = self.end(at).chain

    def snapshots(self, index: int) -> list[Snapshot]:
        """The complete snapshots in that segment which are of this history."""
        upto = self._places[index][2]
        return [each for each in self.footer(index).snapshots if upto is None or RecordId.parse(each.last) <= upto.id]
