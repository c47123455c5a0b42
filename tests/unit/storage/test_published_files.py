"""What was published of a directory: by file, the same on all nodes, and none of it believed before it was checked."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.errors import ChangeTooLarge, CheckpointError, CorruptRecord, SnapshotRefused, StateChanged, StateError
from replicator.format.codec import SnapshotEncoder, digest_of_pieces
from replicator.format.file_changes import FileChange, Listing
from replicator.format.manifest import (
    DIRECTORY,
    FILE,
    PIECE_BYTES,
    Content,
    Entry,
    contents_of,
    in_order,
    manifest_pieces,
)
from replicator.format.patch import EMPTY_DIGEST, PatchHead
from replicator.storage import pack
from replicator.storage.pack import Pack
from replicator.storage.payload import Made, Whole
from replicator.storage.published_files import FilesAtRest, PublishedFiles
from tests.support import small_disk
from tests.support.needs import needs


def digest_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=20).hexdigest()


def cut_up(content: bytes) -> list[bytes]:
    return [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]


class Tree:
    """A directory in memory, and what is read of it."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.read: list[bytes] = []
        #: Called before a content is given.
        self.before_each: Callable[[], None] = lambda: None

    @property
    def entries(self) -> list[Entry]:
        above = {path.rpartition("/")[0] for path in self.files} - {""}
        entries = [Entry(DIRECTORY, path, 0o755) for path in above]
        entries += [Entry(FILE, path, 0o644, len(data), digest_of(data)) for path, data in self.files.items()]
        return sorted(entries, key=lambda entry: in_order(entry.path))

    @contextmanager
    def cut(self) -> Iterator[Tree]:
        yield self

    def contents(self, wanted: Sequence[Content]) -> Iterator[tuple[Content, Iterator[bytes]]]:
        by_digest = {digest_of(data): data for data in self.files.values()}
        for content in wanted:
            self.before_each()
            self.read.append(by_digest[content.digest])
            yield content, iter(cut_up(by_digest[content.digest]))

    def pieces(self) -> Iterator[bytes]:
        yield from manifest_pieces(self.entries)
        for _, pieces in self.contents(contents_of(self.entries)):
            yield from pieces


def publishing(directory: Path, tree: Tree, **options: Any) -> PublishedFiles:
    directory.mkdir(exist_ok=True)
    published = PublishedFiles(directory, **options)
    published.source = tree
    return published


def made_by(published: PublishedFiles) -> Made:
    made = published.make(list)
    assert made is not None
    return made


def send(made: Made, *others: Whole) -> None:
    """As a patch if there is one, or else as a snapshot."""
    for other in others:
        if made.patch is not None:
            take(other, made.patch)
        else:
            encoder = SnapshotEncoder()
            bodies = [encoder.feed(piece) for piece in made.pieces()]
            bodies.append(encoder.finish())
            for _ in other.received(encoder.codec, encoder.digest, bodies, id_="1-1"):
                pass
            other.adopt()


def publish(published: PublishedFiles, *others: Whole) -> Made:
    """As a primary does."""
    made = made_by(published)
    send(made, *others)
    digest = made.digest if made.patch is not None else digest_of_pieces(made.pieces())
    assert published.adopts_made(digest)
    return made


def take(other: Whole, patch: bytes) -> None:
    for _ in other.rebuilt(patch, id_="1-2"):
        pass
    other.adopt()


@pytest.fixture
def tree() -> Tree:
    chance = random.Random(1)
    return Tree({f"d{number % 7}/f{number}": chance.randbytes(chance.randrange(3000)) for number in range(60)})


def test_whatever_is_done_to_the_directory_the_others_have_it(tmp_path: Path, tree: Tree) -> None:
    chance = random.Random(2)
    a, b = publishing(tmp_path / "a", tree), publishing(tmp_path / "b", tree)
    for turn in range(40):
        made = publish(a, b)
        assert (made.patch is None) == (turn == 0)
        assert made.patch is None or PatchHead.of(made.patch, id_="1-1").new_digest == made.digest
        assert [*a.pieces()] == [*b.pieces()] == [*tree.pieces()]
        assert a.digest == b.digest == made.digest
        assert a.make(list) is None
        names = sorted(tree.files)
        for _ in range(chance.randrange(1, 4)):
            match chance.randrange(5):
                case 0:
                    tree.files[f"new{chance.randrange(3)}/{turn}"] = chance.randbytes(chance.randrange(5000))
                case 1:
                    tree.files.pop(chance.choice(names), None)
                case 2:
                    tree.files[f"renamed/{turn}"] = tree.files.pop(sorted(tree.files)[0])
                case 3:
                    tree.files[chance.choice(names)] = b"" if turn % 2 else b"the same"
                case _:
                    tree.files[names[-1]] = tree.files.get(names[-1], b"") + b"appended"
        tree.files["turn"] = str(turn).encode()


def test_only_what_is_new_is_read_and_carried(tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.files["large"] = random.Random(3).randbytes(3_000_000)
    a, b = publishing(tmp_path / "a", tree), publishing(tmp_path / "b", tree)
    made = publish(a, b)
    tree.read.clear()
    tree.files["d1/renamed"] = tree.files.pop("large")
    tree.files["d2/new"] = b"new"
    tree.files["d3/also"] = tree.files["d1/f1"]
    del tree.files["d4/f4"]
    made = made_by(a)
    assert tree.read == [b"new"]
    assert made.patch is not None
    assert len(made.patch) < 600
    read: list[int] = []
    real = Pack.read

    def counted(self: Pack, content: Content, start: int, end: int) -> bytes:
        read.append(end - start)
        return real(self, content, start, end)

    monkeypatch.setattr(Pack, "read", counted)
    take(b, made.patch)
    assert read == []
    assert b.change is None  # its contents are in the pack, and not in memory as well
    monkeypatch.undo()
    assert [*b.pieces()] == [*tree.pieces()]
    # of a file that grew, what was added
    assert a.adopts_made(made.digest)
    tree.files["d1/renamed"] += b"more"
    made = made_by(a)
    assert made.patch is not None
    assert len(made.patch) < 600
    take(b, made.patch)
    assert [*b.pieces()] == [*tree.pieces()]


def test_a_patch_of_bytes_is_taken_too(tmp_path: Path, tree: Tree) -> None:
    """A primary of before this form sends one."""
    a, b = Whole(tmp_path), publishing(tmp_path / "b", tree)
    for turn in range(4):
        made = a.make(tree.pieces)
        assert made is not None
        send(made, b)
        assert a.adopts_made(made.digest)
        assert [*a.pieces()] == [*b.pieces()]
        tree.files[f"d1/f{turn}"] = b"new" * turn
        tree.files["large"] = random.Random(turn).randbytes(1_500_000)
    # and then one by file
    made = made_by(b)
    assert made.patch is not None
    assert made.patch.startswith(b"RPD1")


def test_a_change_that_does_not_fit_changes_nothing(tmp_path: Path, tree: Tree) -> None:
    a, b = publishing(tmp_path / "a", tree), publishing(tmp_path / "b", tree)
    publish(a, b)
    tree.files["d1/f1"], tree.files["more"] = b"changed", b"more"
    patch = made_by(a).patch
    assert patch is not None
    good, before, digest = FileChange.of(patch, id_="1-1"), [*b.pieces()], b.digest
    assert b.now is not None
    old, (first, *rest) = b.now.listing, good.entries
    wrong = [
        good._replace(old_digest="1" * 32),
        _with_digest(good, old, [], gone=["d2/f2"])._replace(old_digest="1" * 32, contents=b""),
        good._replace(digest="1" * 32),
        good._replace(contents=b""),
        good._replace(contents=good.contents[:-1]),
        good._replace(contents=good.contents + b"\0"),
        good._replace(gone=["x"]),
        good._replace(entries=[first]),
        # a digest that fits, and contents that do not
        _with_digest(good, old, [first._replace(size=first.size + 1), *rest]),
        _with_digest(good, old, [first._replace(digest="1" * 40), *rest]),
        _with_digest(good, old, []),
        _with_digest(good, old, [first]),
    ]
    for change in wrong:
        data = change.to_bytes()
        assert data is not None
        with pytest.raises(CorruptRecord):
            take(b, data)
        assert (b.digest, [*b.pieces()]) == (digest, before)
    for place in range(0, len(patch), 3):
        data = patch[:place] + bytes([patch[place] ^ 1]) + patch[place + 1 :]
        with suppress(CorruptRecord):
            for _ in b.rebuilt(data, id_="1-2"):
                pass
            assert b.coming is not None
            assert [*b.coming.pieces()] == [*tree.pieces()]
    take(b, patch)
    assert [*b.pieces()] == [*tree.pieces()]


def _with_digest(change: FileChange, old: Listing, entries: list[Entry], gone: Sequence[str] = ()) -> FileChange:
    return change._replace(gone=[*gone], entries=entries, digest=old.after(gone, entries).digest)


def test_a_directory_of_more_than_a_node_accepts_is_refused(tmp_path: Path, tree: Tree) -> None:
    a, b = publishing(tmp_path / "a", tree), publishing(tmp_path / "b", tree)
    made = publish(a, b)
    before = sum(map(len, tree.files.values()))
    tree.files["large"] = bytes(1_000_000)
    made = made_by(a)
    assert made.patch is not None
    b.snapshot_bytes_max = before + 100_000
    with pytest.raises(SnapshotRefused, match="snapshot_bytes_max"):
        take(b, made.patch)
    with pytest.raises(SnapshotRefused):
        send(made._replace(patch=None), b)
    # and who publishes sends none that the others would refuse
    a.snapshot_bytes_max = before + 1_000_000
    assert made_by(a).patch is None


def test_a_directory_that_grows_by_small_changes_is_bounded_as_well(tmp_path: Path, tree: Tree) -> None:
    a, b = publishing(tmp_path / "a", tree), publishing(tmp_path / "b", tree)
    publish(a, b)
    b.snapshot_bytes_max = sum(map(len, tree.files.values())) + 200_000
    for turn in range(3):
        tree.files[f"new{turn}"] = random.Random(turn).randbytes(50_000)
        publish(a, b)
    tree.files["new3"] = random.Random(3).randbytes(50_000)
    with pytest.raises(SnapshotRefused, match="snapshot_bytes_max"):
        publish(a, b)


def test_what_no_node_would_accept_is_not_read(tmp_path: Path, tree: Tree) -> None:
    a = publishing(tmp_path / "a", tree)
    a.snapshot_bytes_max = sum(map(len, tree.files.values())) // 2
    with pytest.raises(ChangeTooLarge):
        a.make(list)
    assert tree.read == []


def test_a_patch_that_is_longer_than_one_may_be_is_none(tmp_path: Path, tree: Tree) -> None:
    a = publishing(tmp_path / "a", tree)
    publish(a)
    del tree.files["d1/f1"]
    patch = made_by(a).patch
    assert patch is not None
    a.patch_bytes_max = len(patch)
    assert made_by(a).patch == patch
    a.patch_bytes_max -= 1
    assert made_by(a).patch is None


def test_a_size_that_somebody_made_up_is_not_made_room_for(tmp_path: Path) -> None:
    entry = Entry(FILE, "a", 0o644, 2**50, "0" * 40)
    encoder = SnapshotEncoder()
    bodies = [encoder.feed(piece) for piece in manifest_pieces([entry])] + [encoder.finish()]
    published = PublishedFiles(tmp_path)
    with pytest.raises(SnapshotRefused, match="has 1125899906842624 bytes"):
        [*published.received(encoder.codec, encoder.digest, bodies, id_="1-1")]
    with pytest.raises(CorruptRecord, match="something else than a directory"):
        [*published._taken(iter([{"a": 1}]), "1-1")]


def test_what_is_left_over_goes_and_whoever_reads_goes_on(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "WASTE_BYTES", 10_000)
    a, b = publishing(tmp_path / "a", tree), publishing(tmp_path / "b", tree)
    views, chance = [], random.Random(4)
    for turn in range(60):
        publish(a, b)
        if turn % 10 == 0:
            views.append(([*b.pieces()], b.pieces()))
        tree.files[f"d1/f{turn % 5}"] = chance.randbytes(20_000)
        needed = sum(len(data) for data in set(tree.files.values()))
        for one in (tmp_path / "a", tmp_path / "b"):
            (left,) = one.iterdir()
            assert left.name == "payload"
            assert left.stat().st_size < 2 * needed + 60_000
    for expected, drawn in views:
        assert [*drawn] == expected


def test_what_was_never_published_is_left_over_too(tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "WASTE_BYTES", 10_000)
    a, chance = publishing(tmp_path / "a", tree), random.Random(5)
    publish(a)
    needed = sum(len(data) for data in set(tree.files.values()))
    for _ in range(30):
        tree.files["new"] = chance.randbytes(100_000)
        made_by(a)  # and it cannot be sent
        assert (tmp_path / "a/payload").stat().st_size < 2 * needed + 300_000
    assert [*made_by(a).pieces()] == [*tree.pieces()]


@pytest.mark.parametrize("drawn", [1, None], ids=["one content of it", "all of it"])
def test_what_is_drawn_stays_whatever_is_made_meanwhile(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch, drawn: int | None
) -> None:
    """A node that led until now is about to publish, while it takes what the next one published."""
    monkeypatch.setattr(pack, "WASTE_BYTES", 10_000)
    a, b = publishing(tmp_path / "a", tree), publishing(tmp_path / "b", Tree({**tree.files}))
    publish(a, b)
    chance = random.Random(6)
    for _ in range(10):
        tree.files["d1/f1"] = chance.randbytes(300_000)
        tree.files["d1/f8"] += b"more"
        made = made_by(a)
        assert made.patch is not None
        comes = b.rebuilt(made.patch, id_="1-2")
        [*islice(comes, drawn)]
        b.make(list)
        for _ in comes:
            pass
        b.adopt()
        assert a.adopts_made(made.digest)
        assert [*b.pieces()] == [*tree.pieces()]


def test_what_is_made_stays_whatever_is_drawn_meanwhile(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "WASTE_BYTES", 10_000)
    a, chance = publishing(tmp_path / "a", tree), random.Random(7)
    publish(a)
    for _ in range(10):
        tree.files["d1/f1"] = chance.randbytes(300_000)
        tree.files["d1/f8"] += b"more"
        made = made_by(a)
        assert made.patch is not None
        damaged = FileChange.of(made.patch, id_="1-1")._replace(contents=made.patch[-9:]).to_bytes()
        assert damaged is not None
        with pytest.raises(CorruptRecord):
            take(a, damaged)
        assert a.adopts_made(made.digest)
        assert [*a.pieces()] == [*tree.pieces()]


def test_what_does_not_come_to_its_end_takes_no_room(tmp_path: Path) -> None:
    packed = Pack(tmp_path / "payload")
    good, large = b"good" * 1000, bytes(range(256)) * 40_000
    packed.put(Content(digest_of(good), len(good)), iter([good]), id_="1-1")

    def breaks_off() -> Iterator[bytes]:
        yield from cut_up(large)
        raise StateChanged(path=tmp_path)

    for _ in range(3):
        with pytest.raises(StateChanged):
            packed.put(Content(digest_of(large), len(large)), breaks_off(), id_="1-1")
        with pytest.raises(CorruptRecord):
            packed.put(Content("0" * 40, len(large)), iter(cut_up(large)), id_="1-1")
        assert (tmp_path / "payload").stat().st_blocks * 512 < 100_000  # its places are holes
    for data in (large, b"more"):
        packed.put(Content(digest_of(data), len(data)), iter(cut_up(data)), id_="1-1")
    for data in (good, large, b"more"):
        assert b"".join(packed.pieces(Content(digest_of(data), len(data)))) == data


def test_a_disk_that_is_full_while_waste_is_left_behind_is_in_nobodys_way(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "WASTE_BYTES", 10_000)
    a = publishing(tmp_path / "a", tree)

    def full(*_: Any) -> Pack:
        raise CheckpointError(path=tmp_path, problem="No space left on device")

    monkeypatch.setattr(Pack, "copy", full)
    for turn in range(10):
        publish(a)
        tree.files["d1/f1"] = random.Random(turn).randbytes(50_000)


def disk_use(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


@pytest.mark.parametrize("is_private", [False, True])
def test_of_a_content_that_did_not_come_nothing_stays_on_the_disk(
    tmp_path: Path, tree: Tree, *, is_private: bool
) -> None:
    """A file that is written all the time is begun again and again, and a disk that is full has to get well."""
    if is_private:
        pytest.importorskip("cryptography")
    a = publishing(tmp_path / "a", tree, is_private=is_private)
    publish(a)
    before = disk_use(tmp_path / "a")
    tree.files["log"] = random.Random(5).randbytes(3_000_000)
    real = tree.contents

    def cut_short(wanted: Sequence[Content]) -> Iterator[tuple[Content, Iterator[bytes]]]:
        for content, pieces in real(wanted):
            yield content, (piece[:-1] for piece in pieces)

    tree.contents = cut_short  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(StateChanged):
            a.make(list)
    assert disk_use(tmp_path / "a") < before + 500_000
    tree.contents = real  # type: ignore[method-assign]
    publish(a)
    assert [*a.pieces()] == [*tree.pieces()]


def test_a_disk_that_is_full_is_as_full_as_before_once_it_refused(tmp_path: Path, tree: Tree) -> None:
    """Of a primary and of a standby: the checkpoint and the log of the node are on it as well."""
    needs(small_disk.can_mount(), "a user who may mount a tmpfs")
    small = tmp_path / "small"
    small.mkdir()
    small_disk.mount(small, 2 * 1024 * 1024)
    try:
        a, b = publishing(small / "a", tree), publishing(small / "b", tree)
        large = publishing(tmp_path / "large", tree)
        made = publish(large, b)
        send(made, a)
        tree.files["large"] = random.Random(6).randbytes(3_000_000)
        free = shutil.disk_usage(small).free
        patch = made_by(large).patch
        assert patch is not None
        for _ in range(2):
            with pytest.raises(CheckpointError, match="No space left"):
                take(b, patch)
            assert shutil.disk_usage(small).free == free
            with pytest.raises(CheckpointError, match="No space left"):
                a.make(list)
            assert shutil.disk_usage(small).free == free
        del tree.files["large"]
        tree.files["small"] = b"small"
        publish(a, b)
        assert [*a.pieces()] == [*b.pieces()] == [*tree.pieces()]
    finally:
        small_disk.unmount(small)


def test_what_was_never_published_is_left_behind_too(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one file is always in the way, the others come into the pack all the same, whenever they are others."""
    monkeypatch.setattr(pack, "WASTE_BYTES", 10_000)
    for name in ("new", "old"):
        a = publishing(tmp_path / name, tree)
        if name == "old":
            publish(a)
        real = tree.contents

        def one_fails(
            wanted: Sequence[Content], real: Callable[..., Iterator[Any]] = real
        ) -> Iterator[tuple[Content, Iterator[bytes]]]:
            yield from real(wanted)
            raise StateChanged(path=tmp_path)

        tree.contents = one_fails  # type: ignore[method-assign]
        for turn in range(20):
            tree.files["d1/f1"] = random.Random(f"{name}{turn}").randbytes(200_000)
            with pytest.raises(StateChanged):
                a.make(list)
        assert disk_use(tmp_path / name) < 1_000_000
        tree.contents = real  # type: ignore[method-assign]
        publish(a)
        assert [*a.pieces()] == [*tree.pieces()]


def test_what_was_drawn_is_not_left_behind_before_it_is_adopted(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever led a moment ago may still be about to publish."""
    monkeypatch.setattr(pack, "WASTE_BYTES", 10_000)
    a, b = publishing(tmp_path / "a", tree), publishing(tmp_path / "b", tree)
    publish(a, b)

    def refuses() -> Any:
        raise StateError(path=tmp_path, problem="it is away")

    b.source = SimpleNamespace(cut=refuses)  # type: ignore[assignment]
    for turn in range(3):
        tree.files["large"] = random.Random(turn).randbytes(400_000)
        made = made_by(a)
        assert made.patch is not None
        assert a.adopts_made(made.digest)
        for _ in b.rebuilt(made.patch, id_="1-2"):
            pass
        with pytest.raises(StateError, match="it is away"):
            b.make(list)
        b.adopt()
        assert [*b.pieces()] == [*tree.pieces()]


def test_a_disk_that_does_not_keep_what_it_was_given_is_in_nobodys_way_before_it_is_read(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is saved by then."""
    tree.files["large"] = bytes(50_000)
    a = publishing(tmp_path / "a", tree)
    publish(a)
    monkeypatch.setattr(pack, "WASTE_BYTES", 1000)
    with (tmp_path / "a" / "payload").open("r+b") as file:
        file.write(b"damaged" * 10)
    for turn in range(3):
        tree.files["d1/f1"] = random.Random(turn).randbytes(200_000)
        publish(a)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"payload"}


def test_what_changes_while_it_is_read_is_read_again_or_told(tmp_path: Path, tree: Tree) -> None:
    a = publishing(tmp_path / "a", tree)
    count: list[int] = []

    def changes() -> None:
        count.append(1)
        if len(count) < 4:
            raise StateChanged(path=tmp_path)

    tree.before_each = changes
    made_by(a)
    tree.before_each = lambda: (_ for _ in ()).throw(StateChanged(path=tmp_path))
    tree.files["other"] = b"other"
    with pytest.raises(StateChanged):
        a.make(list)
    # a content that is another one than was said: the file is named
    tree.before_each = lambda: None
    real = tree.contents
    tree.contents = lambda wanted: ((each, iter([b"OTHER"])) for each, _ in real(wanted))  # type: ignore[method-assign]
    with pytest.raises(StateChanged, match="other was changed while it was read"):
        a.make(list)


def in_checkpoint(pieces: Iterable[bytes]) -> tuple[Any, list[bytes]]:
    """A snapshot as a checkpoint has it: what it says of it, and its bodies."""
    encoder = SnapshotEncoder()
    bodies = [*map(encoder.feed, pieces), encoder.finish()]
    return SimpleNamespace(codec=encoder.codec, digest=encoder.digest, as_of=SimpleNamespace(id="1-1")), bodies


def test_a_start_makes_it_anew_of_a_snapshot_and_the_changes_since(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = publishing(tmp_path / "a", tree)
    base, bodies = in_checkpoint(made_by(a).pieces())
    assert a.adopts_made(base.digest)
    patches = []
    for turn in range(3):
        tree.files[f"d1/f{turn}"] = b"changed"
        made = made_by(a)
        patches.append(made.patch)
        assert a.adopts_made(made.digest)
    (tmp_path / "a" / "payload.new-7").write_bytes(b"of a process that was killed")
    # There may be 100,000 of small changes: none of them is to cost what all of a directory does.
    monkeypatch.delattr(Listing, "copy")
    for kind in (PublishedFiles, FilesAtRest):
        b = kind(tmp_path / "a")
        assert [*(tmp_path / "a").iterdir()] == []
        assert (b.digest, b.is_published, [*b.pieces()]) == (EMPTY_DIGEST, False, [])
        b._patches = lambda _: iter(patches)  # type: ignore[method-assign, assignment, arg-type, return-value]
        b.load(base, lambda: bodies, list)
        assert [*b.pieces()] == [*tree.pieces()]
    assert b.digest == digest_of_pieces(tree.pieces())


def test_a_start_leaves_behind_what_its_changes_made_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "WASTE_BYTES", 10_000)
    tree = Tree({"log": b"first"})
    a = publishing(tmp_path / "a", tree)
    base, bodies = in_checkpoint(made_by(a).pieces())
    assert a.adopts_made(base.digest)
    # given changes of a file, whose contents are together more than a pack may have left over
    patches = []
    for turn in range(6):
        tree.files["log"] = random.Random(turn).randbytes(20_000)
        made = made_by(a)
        patches.append(made.patch)
        assert a.adopts_made(made.digest)
    (tmp_path / "b").mkdir()
    b = PublishedFiles(tmp_path / "b")
    b._patches = lambda _: iter(patches)  # type: ignore[method-assign, assignment, arg-type, return-value]
    b.load(base, lambda: bodies, list)
    assert [*b.pieces()] == [*tree.pieces()]
    assert (tmp_path / "b/payload").stat().st_size <= 4 * 20_000


def test_of_what_somebody_else_wrote_each_content_is_checked(tmp_path: Path) -> None:
    entry = Entry(FILE, "a", 0o644, 3, digest_of(b"one"))
    base, bodies = in_checkpoint([*manifest_pieces([entry]), b"two"])
    with pytest.raises(CorruptRecord, match="does not fit its digest"):
        FilesAtRest(tmp_path).load(base, lambda: bodies, list)
    published = PublishedFiles(tmp_path)
    with pytest.raises(CorruptRecord, match="does not fit its digest"):
        [*published.received(base.codec, base.digest, bodies, id_="1-1")]


def test_with_a_key_nobody_else_can_read_what_is_on_the_disk(tmp_path: Path, tree: Tree) -> None:
    tree.files["secret"] = b"secret" * 1000
    a = publishing(tmp_path / "a", tree, is_private=True)
    made_by(a)
    assert a.adopts_made(digest_of_pieces(tree.pieces())) is False  # its pieces were not drawn yet
    made = made_by(a)
    assert [*made.pieces()] == [*tree.pieces()]
    assert a.adopts_made(digest_of_pieces(tree.pieces()))
    assert b"secret" not in (tmp_path / "a/payload").read_bytes()
    assert [*a.pieces()] == [*tree.pieces()]
