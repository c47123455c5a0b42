"""What a publication of a directory takes of a processor: by its bytes, as any payload, and by file, as it is done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from bench.harness import Table
from replicator.format.codec import SnapshotEncoder
from replicator.state.directory import DirectoryState
from replicator.storage.payload import Made, Whole
from replicator.storage.published_files import PublishedFiles

__all__ = ["Spent", "by_bytes_and_by_file", "table_of"]

MOST = 10_000_000_000

#: Longer than a directory has to be left alone before it is read.
STILL_S = 0.1

#: How often each is done, for a median: every so often, a standby looks at all of it.
TURNS = 3

FILES_A_DIRECTORY = 50


@dataclass(frozen=True)
class Spent:
    """Seconds of a processor, of either side, and the bytes of the patch."""

    primary_s: float
    standby_s: float
    patch_bytes: int


class Way(Protocol):
    """A primary and a standby, without a log between them."""

    def publish(self) -> Made: ...

    def take(self, made: Made) -> None: ...


class _Pair:
    def __init__(self, ours: Path, theirs: Path, kind: type[Whole], data: Path) -> None:
        self.ours, self.theirs = DirectoryState(ours), DirectoryState(theirs)
        places = [data / role for role in ("primary", "standby")]
        for place in places:
            place.mkdir(parents=True)
        self.primary, self.standby = (kind(place, snapshot_bytes_max=MOST) for place in places)

    def publish(self) -> Made:
        made = self.primary.make(self.ours.snapshot)
        assert made is not None
        return made

    def drawn(self, made: Made) -> Iterator[Any]:
        """What the standby is given, and what was made is published."""
        if made.patch is not None:
            self.adopted(made.digest)
            return self.standby.rebuilt(made.patch, id_="1-2")
        encoder = SnapshotEncoder(most=MOST)
        bodies = [*map(encoder.feed, made.pieces()), encoder.finish()]
        self.adopted(encoder.digest)
        return self.standby.received(encoder.codec, encoder.digest, bodies, id_="1-1")

    def adopted(self, digest: str) -> None:
        is_adopted = self.primary.adopts_made(digest)
        assert is_adopted
        self.ours.published()


class ByBytes(_Pair):
    """A patch of the payload (`storage/payload.py`); `restore` is given all pieces."""

    def __init__(self, ours: Path, theirs: Path, data: Path) -> None:
        super().__init__(ours, theirs, Whole, data)

    def take(self, made: Made) -> None:
        self.theirs.restore(self.drawn(made))
        self.standby.adopt()


class ByFile(_Pair):
    """A change of files (`storage/published_files.py`)."""

    def __init__(self, ours: Path, theirs: Path, data: Path) -> None:
        super().__init__(ours, theirs, PublishedFiles, data)
        assert isinstance(self.primary, PublishedFiles)
        self.primary.source = self.ours

    def take(self, made: Made) -> None:
        for _ in self.drawn(made):
            pass
        assert isinstance(self.standby, PublishedFiles)
        assert self.standby.coming is not None
        self.theirs.restore_files(self.standby.coming, iter(()), change=self.standby.change)
        self.standby.adopt()


def _steps(paths: list[Path]) -> Iterator[tuple[str, Callable[[Path], object]]]:
    yield "the first publication", lambda _: None
    # After the first one, whatever was written just now is read once.
    yield "", partial(_rewrite, paths[0])
    for turn in range(TURNS):
        path = paths[turn]
        yield "a file of 2 kB was rewritten", partial(_rewrite, path)
        yield "a new file of 2 kB", partial(_rewrite, Path("new"))
        yield "it was deleted", lambda top: (top / "new").unlink()
        yield "500 bytes were added to a file", partial(_append, path)
        yield "a file was renamed", partial(_rename, path, Path(f"renamed{turn}"))
        last = paths[-1 - turn * FILES_A_DIRECTORY % len(paths)]
        yield "a directory was renamed", partial(_rename, last.parent, Path(f"d-{turn}"))


def _rename(path: Path, to: Path, top: Path) -> None:
    # In the shortest form there is one directory, and after a turn it is gone.
    if (top / path).exists():
        (top / path).rename(top / to)
    else:
        _rewrite(to, top)


def _rewrite(path: Path, top: Path) -> None:
    (top / path).parent.mkdir(exist_ok=True)
    (top / path).write_bytes(os.urandom(2000))


def _append(path: Path, top: Path) -> None:
    (top / path).parent.mkdir(exist_ok=True)
    with (top / path).open("ab") as file:
        file.write(os.urandom(500))


def by_bytes_and_by_file(ours: Path, paths: list[Path], directory: Path) -> dict[str, tuple[Spent, Spent]]:
    """Both ways, one after the other at each step, of the directory `ours`, in which there are these files."""
    ways: list[Way] = [kind(ours, directory / f"{kind.__name__}.kept", directory / kind.__name__) for kind in KINDS]
    found: dict[str, list[tuple[Spent, Spent]]] = {}
    for name, do in _steps(paths):
        do(ours)
        time.sleep(STILL_S)
        first, second = (_spent(way) for way in ways)
        if name:
            found.setdefault(name, []).append((first, second))
    return {name: (_median(by_bytes), _median(by_file)) for name, (by_bytes, by_file) in _sides(found)}


def _sides(found: dict[str, list[tuple[Spent, Spent]]]) -> Iterator[tuple[str, tuple[list[Spent], list[Spent]]]]:
    for name, each in found.items():
        yield name, ([one for one, _ in each], [two for _, two in each])


KINDS = (ByBytes, ByFile)


def _spent(way: Way) -> Spent:
    began = time.process_time()
    made = way.publish()
    published = time.process_time()
    way.take(made)
    patch_bytes = len(made.patch) if made.patch is not None else 0
    return Spent(published - began, time.process_time() - published, patch_bytes)


def _median(each: list[Spent]) -> Spent:
    sides = median(one.primary_s for one in each), median(one.standby_s for one in each)
    return Spent(*sides, int(median(one.patch_bytes for one in each)))


def table_of(found: dict[str, tuple[Spent, Spent]]) -> Table:
    """Milliseconds by bytes, by file, and the second as a share of the first."""
    head = ["what was done", "patch by bytes", "by file"]
    for side in ("primary", "standby"):
        head += [f"{side} ms by bytes", "by file", "ratio"]
    rows = []
    for name, (bytes_, file) in found.items():
        row = [name, *(f"{one.patch_bytes:,}" if one.patch_bytes else "all" for one in (bytes_, file))]
        for one, two in ((bytes_.primary_s, file.primary_s), (bytes_.standby_s, file.standby_s)):
            row += [f"{one * 1000:.1f}", f"{two * 1000:.1f}", f"{two / one:.3f}" if one else "-"]
        rows.append(row)
    return Table(head=head, rows=rows)
