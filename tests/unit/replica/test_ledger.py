"""The table of keys: a keyed change is applied once, whoever sends it how often, and on every node alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from replicator.errors import ChangeRejected, InvalidChange, KeyReused, ResultNotKept, SnapshotRefused
from replicator.format.codec import (
    SnapshotDecoder,
    SnapshotEncoder,
    digest_of_pieces,
    encoded_keyed,
    ledger_in,
    with_ledger,
)
from replicator.format.ids import RecordId
from replicator.format.keyed import Keyed
from replicator.format.records import PartRecord
from replicator.protocol.group import Code
from replicator.replica import ledger as ledger_module
from replicator.replica.ledger import Ledger, LedgerImage
from replicator.replica.replica import Replica
from replicator.testing import MemoryLog
from tests.support.kv import KV, push
from tests.support.replicas import all_of, snapshot_of
from tests.support.worlds import Author

AT = RecordId(5, 1042)


def keyed(key: str, change: Any = 1) -> Keyed:
    (entry,) = encoded_keyed([change], [key]).changes
    assert isinstance(entry, Keyed)
    return entry


class MadeOfTwo(ChangeRejected):
    def __new__(cls, item: str, *, left: int) -> MadeOfTwo:
        return super().__new__(cls, item)

    def __init__(self, item: str, *, left: int) -> None:
        super().__init__("{item}: {left} left", item=item, left=left)
        del self.fields["item"]


class AlsoAnOSError(ChangeRejected, OSError):
    def __init__(self, item: str, *, left: int) -> None:
        super().__init__("{item}: {left} left", item=item, left=left)
        self.args = (f"{item}: {left} left",)
        self.fields = {"left": left}


def rejecting(rejected: ChangeRejected) -> Ledger:
    """A ledger in which one change was rejected so."""

    def apply(change: Any) -> Any:
        raise rejected

    ledger = Ledger()
    with pytest.raises(ChangeRejected):
        ledger.once(keyed("k"), AT, 0, apply)
    return ledger


def never(change: Any) -> Any:
    raise AssertionError(f"{change} is applied again")


def gives(result: Any) -> Callable[[Any], Any]:
    return lambda change: result


def read_again(ledger: Ledger) -> Ledger:
    return Ledger.of(ledger.image().to_bytes(), id_="1-1")


class TestCompared:
    """What nodes that are equal have in common."""

    def test_nothing_of_an_empty_one(self) -> None:
        assert LedgerImage().compared() == b""

    def test_other_words_are_the_same(self) -> None:
        ways = (
            ChangeRejected("none left", field="item"),
            ChangeRejected("out of {what}", field="item", what="stock"),
            ChangeRejected("no " * 5000, field="item"),
            ChangeRejected("{odd}", field="item", odd=object()),
        )
        assert len({rejecting(each).image().to_bytes() for each in ways}) == len(ways)
        assert len({rejecting(each).image().compared() for each in ways}) == 1

    def test_another_class_another_field_and_another_result_are_not(self) -> None:
        ledgers = [
            rejecting(each) for each in (ChangeRejected("no"), ChangeRejected("no", field="x"), InvalidChange("no"))
        ]
        for result in (1, 2, {"rejected": ["ChangeRejected", None]}, {"rejected": ["a", "b", {}]}):
            ledgers.append(Ledger())
            ledgers[-1].once(keyed("k"), AT, 0, gives(result))
        assert len({each.image().compared() for each in ledgers}) == len(ledgers)
        assert all(each.image().compared() == each.image().to_bytes() for each in ledgers[3:])


class TestOnce:
    def test_a_repeat_is_not_applied_and_gives_the_first_result(self) -> None:
        ledger = Ledger()
        assert ledger.once(keyed("k", {"a": 1}), AT, 0, gives({"n": [1, None]})) == {"n": [1, None]}
        for again in (ledger, read_again(ledger)):
            assert again.once(keyed("k", {"a": 1}), RecordId(6, 2000), 3, never) == {"n": [1, None]}

    def test_it_says_of_a_change_whether_it_is_a_repeat(self) -> None:
        ledger = Ledger()
        ledger.once(keyed("k"), AT, 0, gives(1))
        assert [ledger.knows(each) for each in (keyed("k"), keyed("l"), "k", None)] == [True, False, False, False]

    def test_a_repeat_of_another_change_is_rejected_and_leaves_the_first(self) -> None:
        ledger = Ledger()
        ledger.once(keyed("k", 1), AT, 0, gives("one"))
        with pytest.raises(KeyReused, match="'k' is that of another change, at 5-1042"):
            ledger.once(keyed("k", 2), AT, 1, never)
        assert ledger.once(keyed("k", 1), AT, 2, never) == "one"

    def test_a_repeat_of_a_rejected_change_is_rejected_in_the_same_way(self) -> None:
        def rejects(change: Any) -> Any:
            raise InvalidChange("no {what}", field="item", what="stock")

        ledger = Ledger()
        with pytest.raises(InvalidChange):
            ledger.once(keyed("k"), AT, 0, rejects)
        for again in (ledger, read_again(ledger)):
            with pytest.raises(InvalidChange, match=r"^no stock$") as raised:
                again.once(keyed("k"), AT, 1, never)
            assert raised.value.field == "item"
            assert raised.value.fields == {"what": "stock"}

    def test_a_rejection_with_more_than_is_kept_is_a_rejection_all_the_same(self) -> None:
        def rejects(change: Any) -> Any:
            raise ChangeRejected("no " * change)

        ledger = Ledger()
        for words in (1000, 2000):
            with pytest.raises(ChangeRejected):
                ledger.once(keyed(str(words), words), AT, 0, rejects)
        with pytest.raises(ChangeRejected, match=r"^(no ){999}no"):
            ledger.once(keyed("1000", 1000), AT, 0, never)
        with pytest.raises(ChangeRejected, match="more to say than is kept"):
            ledger.once(keyed("2000", 2000), AT, 0, never)

    @pytest.mark.parametrize("kind", [MadeOfTwo, AlsoAnOSError])
    def test_a_rejection_whose_class_cannot_be_made_again_is_one_all_the_same(self, kind: type[ChangeRejected]) -> None:
        def rejects(change: Any) -> Any:
            raise kind("pen", left=0)

        ledger = Ledger()
        with pytest.raises(kind):
            ledger.once(keyed("k"), AT, 0, rejects)
        for again in (ledger, read_again(ledger)):
            with pytest.raises(ChangeRejected, match=r"^pen: 0 left$") as raised:
                again.once(keyed("k"), AT, 1, never)
            assert raised.value.fields == {"left": 0}
            assert isinstance(raised.value, kind) == (kind is MadeOfTwo)

    def test_a_rejection_that_cannot_say_what_it_is_is_kept_without(self) -> None:
        class Silent(ChangeRejected):
            def __str__(self) -> str:
                raise KeyError("words")

        def rejects(change: Any) -> Any:
            raise Silent(field="item")

        ledger = Ledger()
        with pytest.raises(Silent):
            ledger.once(keyed("k"), AT, 0, rejects)
        with pytest.raises(Silent) as raised:
            ledger.once(keyed("k"), AT, 1, never)
        assert raised.value.field == "item"

    def test_what_fails_otherwise_leaves_no_key(self) -> None:
        def fails(change: Any) -> Any:
            raise ZeroDivisionError

        ledger = Ledger()
        with pytest.raises(ZeroDivisionError):
            ledger.once(keyed("k"), AT, 0, fails)
        assert len(ledger) == 0

    @pytest.mark.parametrize("result", [None, True, 0, 1.5, "x" * 4000, [], {"a": [1, {"b": None}]}])
    def test_plain_json_is_kept(self, result: Any) -> None:
        ledger = Ledger()
        ledger.once(keyed("k"), AT, 0, gives(result))
        found = ledger.once(keyed("k"), AT, 1, never)
        assert found == result
        assert type(found) is type(result)

    @pytest.mark.parametrize(
        "result",
        [object(), (1, 2), [(1, 2)], {1: 2}, math.nan, {"a": math.inf}, "x" * 4096, b"x", 2**70, "\ud800",
         dataclasses.make_dataclass("Flag", ["on"])(True), RecordId(1, 2)],
    )  # fmt: skip
    def test_of_what_is_not_kept_a_repeat_says_so(self, result: Any) -> None:
        ledger = Ledger()
        assert ledger.once(keyed("k"), AT, 0, gives(result)) is result
        told = ledger.once(keyed("k"), AT, 1, never)
        assert isinstance(told, ResultNotKept)
        assert "'k' was committed at 5-1042" in str(told)


class TestTypedResults:
    """What a state has in JSON, and back."""

    class Pairs:
        def result_to_json(self, change: Any, result: Any) -> Any:
            return list(result)

        def result_from_json(self, change: Any, value: Any) -> Any:
            return (*value, change)

    def test_a_repeat_has_what_the_state_makes_of_it(self) -> None:
        ledger = Ledger()
        assert ledger.once(keyed("k", 5), AT, 0, gives((1, 2)), self.Pairs()) == (1, 2)
        assert ledger.once(keyed("k", 5), AT, 0, never, self.Pairs()) == (1, 2, 5)

    @pytest.mark.parametrize("result", [7, ({1},)])
    def test_what_the_state_cannot_write_down_is_not_kept(self, result: Any) -> None:
        ledger = Ledger()
        assert ledger.once(keyed("k"), AT, 0, gives(result), self.Pairs()) is result
        assert isinstance(ledger.once(keyed("k"), AT, 0, never, self.Pairs()), ResultNotKept)

    def test_nor_what_it_cannot_read(self) -> None:
        ledger = Ledger()
        ledger.once(keyed("k"), AT, 0, gives(7))
        assert isinstance(ledger.once(keyed("k"), AT, 0, never, self.Pairs()), ResultNotKept)


class TestWhatLeaves:
    def test_the_oldest_leaves_when_there_are_too_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ledger_module, "KEYS_MAX", 3)
        ledger = Ledger()
        for key in "abcd":
            ledger.once(keyed(key), AT, 0, gives(key))
            ledger.once(keyed("a"), AT, 0, gives("a"))  # a repeat does not make it younger
        assert len(ledger) == 3
        assert [key for key, _ in zip(ledger.image().keys, "123", strict=True)] == [b'"c"', b'"d"', b'"a"']

    def test_the_oldest_leave_when_they_are_too_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ledger_module, "KEYS_BYTES_MAX", 10_000)
        ledger = Ledger()
        for number in range(100):
            ledger.once(keyed(f"k{number}"), AT, 0, gives("x" * (30 * number)))
        assert 0 < len(ledger) < 100
        assert ledger.size <= 10_000
        assert ledger.image().keys[-1] == b'"k99"'

    def test_the_size_is_that_of_the_lines_in_a_snapshot(self) -> None:
        ledger = Ledger()
        for number in range(50):
            ledger.once(keyed(f'k"é{number}', number), AT, number, gives({"x": "é" * number}))
        _, *lines = ledger.image().to_bytes().splitlines(keepends=True)
        assert ledger.size == sum(map(len, lines))


class TestInASnapshot:
    def test_an_image_stays_what_it_was(self) -> None:
        ledger = Ledger()
        ledger.once(keyed("a"), AT, 0, gives(1))
        image = ledger.image()
        ledger.once(keyed("b"), AT, 1, gives(2))
        assert image.keys == (b'"a"',)
        assert Ledger.of(image.to_bytes(), id_="1-1").image() == image

    def test_the_form(self) -> None:
        ledger = Ledger()
        ledger.once(keyed("order-4711", {"a": 1}), AT, 0, gives(17))
        digest = keyed("order-4711", {"a": 1}).digest
        assert ledger.image().to_bytes() == (
            b'{"keys":1}\n["order-4711","5-1042",0,"' + digest.encode() + b'",{"result":17}]\n'
        )

    def test_an_empty_one_leaves_no_trace(self) -> None:
        assert Ledger().image().to_bytes() == b""
        assert len(Ledger.of(b"", id_="1-1")) == 0
        assert with_ledger("json+zstd", "d", b"") == ("json+zstd", "d", b"")

    @pytest.mark.parametrize(
        "data",
        [b"x", b"{}", b"{}\n", b'{"keys":1}\n', b'{"keys":2}\n["k","1-1",0,"' + b"0" * 32 + b'",{}]\n',
         b'{"keys":1}\n["k","1-1",0,"' + b"0" * 32 + b'",{}]', b'{"keys":1}\n["k","1-1",0,"00",{}]\n',
         b'{"keys":1}\n["k","x",0,"' + b"0" * 32 + b'",{}]\n', b'{"keys":1}\n["k","1-1",-1,"' + b"0" * 32 + b'",{}]\n',
         b'{"keys":1,"more":1}\n["k","1-1",0,"' + b"0" * 32 + b'",{}]\n', b'{"keys":1}\n[]\n',
         b'{"keys":2}\n' + (b'["k","1-1",0,"' + b"0" * 32 + b'",{}]\n') * 2,
         *(b'{"keys":1}\n["k","1-1",0,"' + b"0" * 32 + b'",' + outcome + b"]\n" for outcome in (
             b'{"rejected":5}', b'{"rejected":["A","no"]}', b'{"rejected":["A",5,{}]}', b'{"rejected":["A","no",[]]}',
             b'{"rejected":["A","no",{}],"result":1}', b'{"result":1,"x":1}', b'{"x":1}'))],
    )  # fmt: skip
    def test_another_form_is_refused(self, data: bytes) -> None:
        with pytest.raises(SnapshotRefused):
            Ledger.of(data, id_="1-1")

    @pytest.mark.parametrize("pieces", [[], [{"a": 1}, 2], [b"ab", b""]])
    def test_it_goes_before_the_pieces_and_is_digested(self, pieces: list[Any]) -> None:
        ledger = b'{"keys":0}\n' * 3
        encoder = SnapshotEncoder(ledger=ledger)
        data = b"".join([*map(encoder.feed, pieces), encoder.finish()])
        assert encoder.codec == ("raw2+zstd" if pieces and isinstance(pieces[0], bytes) else "json2+zstd")
        assert encoder.digest == digest_of_pieces(pieces, ledger=ledger)
        assert len({encoder.digest, digest_of_pieces(pieces), digest_of_pieces(pieces, ledger=b"other")}) == 3
        for size in (1, 7, len(data)):
            bodies = [data[at : at + size] for at in range(0, len(data), size)]
            decoder = SnapshotDecoder(encoder.codec, encoder.digest, id_="1-1")
            assert list(decoder.pieces(bodies)) == pieces
            assert decoder.ledger == ledger == ledger_in(encoder.codec, bodies, id_="1-1")
        # and the same comes out if it is put before what was encoded without
        plain = SnapshotEncoder()
        body = b"".join([*map(plain.feed, pieces), plain.finish()])
        codec, digest, packed = with_ledger(plain.codec, plain.digest, ledger)
        assert (codec, digest, packed + body) == (encoder.codec, encoder.digest, data)

    def test_a_damaged_one_is_refused(self) -> None:
        encoder = SnapshotEncoder(ledger=b"ledger")
        data = encoder.feed(1) + encoder.finish()
        for wrong in (data[:5], data[:-3], data + b"x", with_ledger("json+zstd", "0" * 32, b"lodger")[2] + data[15:]):
            with pytest.raises(SnapshotRefused):
                list(SnapshotDecoder(encoder.codec, encoder.digest, id_="1-1").pieces([wrong]))

    def test_a_ledger_that_unpacks_to_too_much_is_refused(self) -> None:
        _, _, bomb = with_ledger("json+zstd", "0" * 32, bytes(25 * 1024 * 1024))
        with pytest.raises(SnapshotRefused, match="ledger has more than"):
            ledger_in("json2+zstd", [bomb], id_="1-1")


def append(author: Author, part: PartRecord) -> None:
    assert author.log.part(part).code is Code.OK
    author.position = part.position


class TestOnEveryNode:
    """A copy of the state that reads the log."""

    def test_a_change_that_comes_twice_is_applied_once(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica = make()
        for _ in range(2):
            author.append(push("x"), key="k")
        replica.take(all_of(log))
        assert replica.applied.state.pushed == ["x"]

    def test_a_restart_finds_the_table_in_the_changes_of_its_checkpoint(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        author.append(push("x"), key="k")
        replica = make()
        replica.take(all_of(log))
        replica.flush()
        before = replica.applied.ledger.image()
        # when it starts anew, then it knows the key
        replica = make()
        assert replica.applied.ledger.image() == before
        author.append(push("x"), key="k")
        replica.take(all_of(log))
        assert replica.applied.state.pushed == ["x"]

    def test_a_snapshot_brings_the_table_along_and_a_restart_has_it(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        ledger = Ledger()
        ledger.once(keyed("k", push("x")), AT, 0, gives(7))
        replica = make()
        replica.take(all_of(log))
        append(author, snapshot_of(author, KV().snapshot(), replaces=True, ledger=ledger.image().to_bytes()))
        replica.take(all_of(log))
        assert replica.applied.ledger.image() == ledger.image()
        author.append(push("x"), key="k")
        replica.take(all_of(log))
        assert replica.applied.state.pushed == []
        replica.flush()
        assert make().applied.ledger.image() == ledger.image()

    def test_a_snapshot_without_a_table_takes_it_away(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        author.append(push("x"), key="k")
        replica = make()
        replica.take(all_of(log))
        append(author, snapshot_of(author, KV().snapshot(), replaces=True))
        replica.take(all_of(log))
        assert replica.applied.ledger.image() == LedgerImage()

    def test_a_restore_that_fails_leaves_state_and_table_as_they_were(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        author.append(push("x"), key="k")
        replica = make()
        replica.take(all_of(log))
        before = replica.applied.ledger.image()
        # when a snapshot is damaged, or its ledger is none
        damaged = snapshot_of(author, KV().snapshot(), replaces=True, digest="0" * 32)
        append(author, damaged)
        replica.take(all_of(log))
        assert replica.applied.ledger.image() == before
        assert replica.applied.state.pushed == ["x"]

    def test_a_snapshot_whose_table_is_none_is_passed_by(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        author.append(push("x"), key="k")
        replica = make()
        replica.take(all_of(log))
        before = replica.applied.ledger.image()
        wrong = LedgerImage((b'"k"', b'"k"'), (b'"1-1",0,"' + b"0" * 32 + b'",{}',) * 2)
        append(author, snapshot_of(author, KV().snapshot(), replaces=True, ledger=wrong.to_bytes()))
        replica.take(all_of(log))
        assert isinstance(replica.known.passed_by, SnapshotRefused)
        assert replica.applied.ledger.image() == before
        assert replica.applied.state.pushed == ["x"]
