"""What was published of a database: changed in place, the same after whatever kill, and drawn as of one moment."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.errors import CheckpointError, ConfigError, CorruptRecord
from replicator.format.codec import SnapshotEncoder
from replicator.format.pages import PageChange, moved
from replicator.format.patch import EMPTY_DIGEST, cut
from replicator.storage.published_pages import ALL_OF_IT, PublishedPages
from replicator.storage.shadow import Shadow, digest_of_pieces

SIZE = 512


def page(number: int, text: str) -> bytes:
    head = b"SQLite format 3\0" + SIZE.to_bytes(2, "big") if number == 1 else b""
    return (head + f"{number} {text}".encode()).ljust(SIZE, b".")


def database(count: int, text: str = "old") -> bytes:
    return b"".join(page(number, text) for number in range(1, count + 1))


def changed(shadow: Shadow, numbers: Iterable[int], text: str, count: int = 0) -> PageChange:
    count = count or shadow.count
    pages = {number: page(number, text) for number in sorted({*numbers, *range(shadow.count + 1, count + 1)})}
    gone = [number for number in pages if number <= shadow.count] + list(range(count + 1, shadow.count + 1))
    digest = moved(shadow.digest, ((n, shadow.page(n)) for n in gone), pages.items())
    return PageChange(shadow.digest, digest, SIZE, shadow.count, count, pages)


class Stored:
    """As a checkpoint has it: a snapshot, and the changes since."""

    def __init__(self, content: bytes) -> None:
        encoder = SnapshotEncoder()
        self._body = encoder.feed(content) + encoder.finish()
        self.base: Any = SimpleNamespace(codec=encoder.codec, digest=encoder.digest, as_of=SimpleNamespace(id="1-1"))
        self.patches: list[bytes] = []

    def loaded(self, directory: Path) -> PublishedPages:
        published = PublishedPages(directory)
        published._patches = lambda records: iter(records)  # type: ignore[method-assign, assignment]
        published.load(self.base, lambda: [self._body], lambda: self.patches)  # type: ignore[arg-type, return-value]
        return published


def shadow_of(published: PublishedPages) -> Shadow:
    assert published._shadow is not None
    return published._shadow


def take(published: PublishedPages, change: PageChange) -> None:
    assert list(published.rebuilt(change.to_bytes(), id_="1-2")) == []
    published.adopt()


def test_a_start_finds_what_the_checkpoint_tells_whatever_became_of_the_file(tmp_path: Path) -> None:
    stored = Stored(database(20))
    first = stored.loaded(tmp_path)
    assert b"".join(first.pieces()) == database(20)
    inode = shadow_of(first).inode
    for numbers, text, count in (((3, 4), "a", 0), ((4, 9), "b", 25), ((1, 7), "c", 22)):
        change = changed(shadow_of(first), numbers, text, count)
        take(first, change)
        stored.patches.append(change.to_bytes())
    right, digest = b"".join(first.pieces()), first.digest

    def again() -> PublishedPages:
        found = stored.loaded(tmp_path)
        assert (b"".join(found.pieces()), found.digest) == (right, digest)
        return found

    # as it was left; torn within the last change; as of before it; longer
    assert shadow_of(again()).inode == inode
    with (tmp_path / "shadow").open("r+b") as file:
        os.pwrite(file.fileno(), page(7, "old"), 6 * SIZE)
        os.truncate(file.fileno(), 30 * SIZE)
    assert shadow_of(again()).inode == inode
    # with a page of a change that the checkpoint has not; damaged; another one; not there
    for spoil in (lambda f: os.pwrite(f, page(15, "lost"), 14 * SIZE), lambda f: os.truncate(f, 100), lambda f: None):
        with (tmp_path / "shadow").open("r+b") as file:
            spoil(file.fileno())
        again()
    (tmp_path / "shadow").unlink()
    again()
    # nothing but the snapshot
    stored.patches.clear()
    assert b"".join(stored.loaded(tmp_path).pieces()) == database(20)
    inode = shadow_of(stored.loaded(tmp_path)).inode
    assert shadow_of(stored.loaded(tmp_path)).inode == inode


def test_a_change_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    published = Stored(database(8)).loaded(tmp_path)
    shadow = shadow_of(published)
    good = changed(shadow, [3], "new")
    wrong = [
        good._replace(old_digest=good.old_digest + 1),
        good._replace(digest=good.digest + 1),
        good._replace(old_page_count=7),
        good._replace(page_count=9),
        good._replace(pages={3: page(3, "other")}),
    ]
    for change in wrong:
        with pytest.raises(CorruptRecord):
            take(published, change)
    # a page that was flipped in the file shows once a change touches it
    with shadow.path.open("r+b") as file:
        os.pwrite(file.fileno(), b"!", 2 * SIZE + 100)
    with pytest.raises(CorruptRecord, match="of what is here"):
        take(published, good)
    with shadow.path.open("r+b") as file:
        os.pwrite(file.fileno(), b".", 2 * SIZE + 100)
    take(published, good)
    assert shadow.counted() == shadow.digest


def test_a_change_to_more_than_a_node_accepts_is_refused(tmp_path: Path) -> None:
    published = Stored(database(8)).loaded(tmp_path)
    published.snapshot_bytes_max = 9 * SIZE
    with pytest.raises(CorruptRecord, match="snapshot_bytes_max"):
        take(published, changed(shadow_of(published), [], "new", 10))
    assert shadow_of(published).path.stat().st_size == 8 * SIZE
    take(published, changed(shadow_of(published), [], "new", 9))


def test_pieces_are_those_of_the_moment_they_were_asked_for(tmp_path: Path) -> None:
    chance = random.Random(1)
    published = Stored(database(5000)).loaded(tmp_path)
    shadow, views = shadow_of(published), []
    for turn in range(12):
        views.append((published.pieces(), b"".join(published.pieces())))
        count = chance.choice((4000, 5000, 5200))
        numbers = [number for number in chance.sample(range(1, 5200), 100) if number <= count]
        take(published, changed(shadow, numbers, f"turn {turn}", count))
        for drawn, _ in views[::3]:
            next(drawn, None)
    for drawn, right in views[1::3] + views[2::3]:
        assert b"".join(drawn) == right


def test_what_is_published_is_made_of_what_the_source_says(tmp_path: Path) -> None:
    published = Stored(database(8)).loaded(tmp_path)
    source = published.source = Source(None)
    assert published.make(list) is None
    source.says = change = changed(shadow_of(published), [2], "new")
    made = published.make(list)
    assert made is not None
    assert made.patch == change.to_bytes()
    # as a snapshot it is known by what that says of it; and nothing moved before
    assert b"".join(made.pieces()) != b"".join(published.pieces()) == database(8)
    assert not published.adopts_made(EMPTY_DIGEST)
    assert published.adopts_made(digest_of_pieces(made.pieces()))
    assert b"".join(published.pieces())[SIZE : 2 * SIZE] == page(2, "new")
    source.says, source.content = ALL_OF_IT, database(11)
    made = published.make(list)
    assert made is not None
    assert made.patch is None
    assert published.adopts_made(made.digest)
    assert b"".join(published.pieces()) == database(11)
    assert published.make(list) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shadow"]


class Source:
    def __init__(self, says: Any) -> None:
        self.says = says
        self.content = b""

    def look(self, shadow: Shadow) -> Any:
        return self.says.to_bytes() if isinstance(self.says, PageChange) else self.says

    def draw(self, draft: Path) -> None:
        draft.write_bytes(self.content)


def test_a_change_is_cut_into_records_as_a_patch_is(tmp_path: Path) -> None:
    change = changed(shadow_of(Stored(database(3)).loaded(tmp_path)), [2], "new")
    assert len(cut(change.to_bytes())) == 1


def test_a_group_with_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="with a key"):
        PublishedPages(tmp_path, is_private=True)


def test_a_shadow_that_somebody_else_changed_is_sent_to_nobody(tmp_path: Path) -> None:
    published = Stored(database(8)).loaded(tmp_path)
    shadow = shadow_of(published)
    source = published.source = Source(changed(shadow, [2], "new"))
    source.content = database(8, "newest")
    with shadow.path.open("r+b") as file:
        os.pwrite(file.fileno(), b"!", 5 * SIZE + 100)
    # neither in a snapshot for somebody who needs one, nor in the next publication: that draws all of it
    with pytest.raises(CheckpointError, match="by something else"):
        list(published.pieces())
    assert published.is_broken
    made = published.make(list)
    assert made is not None
    assert made.patch is None
    assert published.adopts_made(made.digest)
    assert (published.is_broken, b"".join(published.pieces())) == (False, database(8, "newest"))
    # found by a publication that may go as a whole
    source.says = changed(shadow_of(published), [2], "later")
    with (tmp_path / "shadow").open("r+b") as file:
        os.pwrite(file.fileno(), b"!", 5 * SIZE + 100)
    made = published.make(list)
    assert made is not None
    assert (made.patch, b"".join(made.pieces())) == (None, database(8, "newest"))
