"""What goes over the wire for an append, held to what hiredis packs of the same arguments."""

from __future__ import annotations

from typing import Any

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from replicator.format.acts import encode_version
from replicator.format.ids import Position, RecordId, Writer
from replicator.format.records import ChangeRecord, seal_change
from replicator.log.appending import AppendRequest
from replicator.log.replies import append_args
from replicator.log.scripts import load_scripts

KEYS = [b"replicator:{g}:%d" % number for number in range(9)]
NUMBERS = st.integers(1, 2**53 - 1)
CHAINS = st.text("0123456789abcdef", min_size=32, max_size=32)
NAMES = st.text(min_size=1, max_size=40)


def written(writer: Writer, after: Position, term: int, **more: Any) -> ChangeRecord:
    fields: dict[str, Any] = {"codec": "json", "digest": "0" * 32, "count": 1, "body": b"[1]", "at": 5} | more
    return seal_change(writer=writer, term=term, after=after, **fields)


CHANGES = st.builds(
    written,
    st.builds(Writer, NAMES, NAMES),
    st.builds(Position, st.builds(RecordId, NUMBERS, st.integers(0, 2**53 - 2)), CHAINS),
    NUMBERS,
    count=st.integers(0, 1000),
    body=st.binary(max_size=300),
    wants_acks=st.integers(0, 10),
)


@given(st.lists(st.tuples(st.text("0123456789abcdef", min_size=1), CHANGES), min_size=1, max_size=4))
def test_it_is_what_hiredis_packs_whichever_record_and_run_came_before(sent: list[tuple[str, ChangeRecord]]) -> None:
    script = load_scripts()["append"]
    request = AppendRequest(script, KEYS)
    for run, record in [*sent, sent[0]]:
        carries = b"1" if record.count else b"0"
        command: Any = (b"EVALSHA", script.sha, 3, *KEYS[:3], run, *append_args(record), carries, record.wants_acks)
        assert request.packed(run, record) == hiredis.pack_command(command)


def test_a_change_of_the_group_itself_has_two_arguments_and_the_key_of_the_history_as_well() -> None:
    script = load_scripts()["append"]
    codec, body, digest = encode_version(2, before=1, by="ann")
    after = Position(RecordId(1, 1), "a" * 32)
    record = written(Writer("a", "b"), after, 1, codec=codec, body=body, digest=digest, version=2)
    command: Any = (b"EVALSHA", script.sha, 8, *KEYS[:8], "run", *append_args(record), b"1", 0, 2, "ann")
    assert AppendRequest(script, KEYS).packed("run", record) == hiredis.pack_command(command)
