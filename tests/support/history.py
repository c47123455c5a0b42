"""Records by hand, for tests that fold them one by one."""

from __future__ import annotations

from typing import Any

import orjson

from replicator.format.acts import encode_version
from replicator.format.codec import encode_change, encode_changes
from replicator.format.ids import ORIGIN, ZERO_ID, Position, RecordId, Writer
from replicator.format.records import ChangeRecord, PartRecord, TermRecord, parse, seal_change, seal_part
from replicator.protocol.fold import Holder, View

A = Writer("a", "a1")
B = Writer("b", "b1")
RUN = "run-1"


def term_record(writer: Writer, term: int, after: Position = ORIGIN, **fields: Any) -> TermRecord:
    """What the promote script would write behind `after`; `ends` as a text."""
    header = {"v": 1, "kind": "term", "node": writer.node, "boot": writer.boot, "prev": after.chain, "at": 7}
    header |= {"log_id": "log-1", "run": RUN, "by": "test", "reason": ""} | fields
    record = parse(f"{term}-{after.id.n + 1}", orjson.dumps(header), b"")
    assert isinstance(record, TermRecord)
    return record


def change(writer: Writer, term: int, after: Position, *values: Any) -> ChangeRecord:
    codec, body, digest = encode_changes(map(encode_change, values))
    return seal_change(
        writer=writer, term=term, after=after, at=7, codec=codec, digest=digest, count=len(values), body=body
    )


def act(writer: Writer, term: int, after: Position, version: int) -> ChangeRecord:
    """Raises the group to this version from the one below."""
    codec, body, digest = encode_version(version, before=version - 1, by="test")
    more: dict[str, Any] = {"codec": codec, "digest": digest, "body": body, "count": 1, "version": version}
    return seal_change(writer=writer, term=term, after=after, at=7, **more)


def part(
    writer: Writer,
    term: int,
    after: Position,
    place: tuple[int, int],
    *,
    as_of: Position,
    changed: RecordId = ZERO_ID,
    replaces: bool = False,
    ends: tuple[RecordId, ...] = (),
    skip: int = 0,
    version: int = 1,
) -> PartRecord:
    """`place` is (part, parts), with 0 parts in all but the last."""
    return seal_part(
        writer=writer,
        term=term,
        after=after,
        n=after.id.n + 1 + skip,
        at=7,
        codec="json+zstd",
        digest="d" * 32,
        part=place[0],
        parts=place[1],
        as_of=as_of,
        changed=changed,
        replaces=replaces,
        ends=ends,
        version=version,
        body=b"part",
    )


def view_at(position: Position, *, holder: Writer = A, term: int = 0, **fields: Any) -> View:
    """A view in sync at `position`, in the term of it unless told otherwise."""
    known = {"log_id": "log-1", "term": term or position.id.term, "holder": Holder(*holder, RUN)}
    return View(**known | {"position": position, "cursor": position} | fields)
