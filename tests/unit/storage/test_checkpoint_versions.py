"""What a checkpoint says of the group's version: nothing while that is the first one, so files of before are read."""

from __future__ import annotations

import pytest

from replicator.format.codec import digest_of
from replicator.format.ids import Position, RecordId
from replicator.protocol.fold import Holder, View
from replicator.storage.checkpoint_file import Damaged, Payload, Run, Saved, Staged, base_version_of
from tests.support.history import A, act, change

#: As it was written before there were versions, to the byte.
OF_BEFORE = (
    b'5a3c9889f4d48dd0043b06c97f9d1f16{"group":"g","node":"s","boot":"s1","save":9,"view":{"log_id":"log-1","term":5,'
    b'"holder":["a","a1","run-1"],"position":"5-1042@cccccccccccccccccccccccccccccccc","changed":"5-1041",'
    b'"in_sync":true,"ends":"3-7","cursor":"5-1042@cccccccccccccccccccccccccccccccc","snapshot":null},'
    b'"base":"00000000000000000000000000000000","changes":[41,4100,"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"],'
    b'"staged":[4,[0,0,"00000000000000000000000000000000"]],"payload":{"number":3,'
    b'"run":[2,100,"dddddddddddddddddddddddddddddddd"],"as_of":"5-1000@eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee",'
    b'"changed":"5-999","codec":"json+zstd","digest":"ffffffffffffffffffffffffffffffff","replaces":false}}'
)

VIEW = View(
    log_id="log-1", term=5, holder=Holder("a", "a1", "run-1"), position=Position(RecordId(5, 1042), "c" * 32),
    changed=RecordId(5, 1041), ends=(RecordId(3, 7),), cursor=Position(RecordId(5, 1042), "c" * 32),
)  # fmt: skip

PAYLOAD = Payload(
    3, Run(2, 100, "d" * 32), Position(RecordId(5, 1000), "e" * 32), RecordId(5, 999), "json+zstd", "f" * 32, False
)

SAVED = Saved(
    "g", "s", boot="s1", save=9, view=VIEW, changes=Run(41, 4100, "b" * 32), staged=Staged(4), payload=PAYLOAD
)


def test_a_file_of_before_is_read_and_one_without_a_version_is_one_of_before() -> None:
    assert Saved.from_bytes(OF_BEFORE) == SAVED
    assert SAVED.to_bytes() == OF_BEFORE


def test_versions_are_read_back_as_they_were_saved() -> None:
    saved = SAVED._replace(view=VIEW._replace(version=3), payload=PAYLOAD._replace(version=2))
    assert Saved.from_bytes(saved.to_bytes()) == saved


@pytest.mark.parametrize("version", [b'"2"', b"-1", b"2.0", b"null", b"true"])
def test_a_version_that_is_none_is_damage(version: bytes) -> None:
    encoded = OF_BEFORE[32:].replace(b'"view":{', b'"view":{"version":' + version + b",")
    with pytest.raises(Damaged):
        Saved.from_bytes(digest_of(encoded).encode() + encoded)


def test_what_comes_before_the_first_act_is_of_the_version_that_it_names() -> None:
    plain = change(A, 5, VIEW.position, "x")
    records = [plain, act(A, 5, plain.position, 2), act(A, 5, plain.position, 3)]
    assert base_version_of(VIEW._replace(version=3), lambda: records) == 1
    assert base_version_of(VIEW._replace(version=3), lambda: records[2:]) == 2
    assert base_version_of(VIEW._replace(version=3), lambda: [plain]) == 3
    assert base_version_of(VIEW, lambda: [plain]) == 1
