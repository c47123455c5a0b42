"""A dict as a state: what its changes are, what they refuse, and that a reader changes nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import orjson
import pytest

from replicator import ChangeTooLarge, DictState, InvalidChange, NotJSON, delete, put, put_many
from replicator.state.slices import PIECE_BYTES
from tests.support.kv import Group, eventually, in_step


def test_a_change_is_plain_json() -> None:
    assert orjson.dumps([put("a", 1), put_many({"b": [2], "c": None}), delete("a", "b")]) == (
        b'[{"put":{"a":1}},{"put":{"b":[2],"c":null}},{"delete":["a","b"]}]'
    )


def test_it_is_a_mapping() -> None:
    # given
    state = DictState({"a": 1})
    # when
    assert state.apply(put_many({"b": {"on": True}, "c": None})) is None
    assert state.apply(delete("a", "never there")) == 1
    # then
    assert dict(state) == state == {"b": {"on": True}, "c": None}
    assert len(state) == 2
    assert "a" not in state
    assert state["b"]["on"]
    assert state.get("a", 7) == 7
    with pytest.raises(KeyError):
        state["a"]
    assert repr(state) == "<DictState of 2 keys>"


def test_keys_stand_in_the_order_in_which_they_came() -> None:
    state = DictState({"z": 1, "a": 1})
    state.apply(put_many({"a": 2, "b": 2, "z": 2}))
    assert list(state) == ["z", "a", "b"]


def test_whoever_changes_what_was_read_changes_nothing_else() -> None:
    # given
    state = DictState({"flag": {"tags": ["a"]}})
    # when
    read = state["flag"]
    read["tags"].append("b")
    next(iter(state.values()))["tags"].clear()
    for piece in state.snapshot():
        piece["flag"]["tags"] = []
    # then
    assert state["flag"] == {"tags": ["a"]}


def test_whoever_changes_what_was_put_changes_nothing_else() -> None:
    # given
    value = {"tags": ["a"]}
    change = put("flag", value)
    state = DictState()
    # when
    value["tags"].append("b")
    state.apply(change)
    change["put"]["flag"]["tags"].append("c")
    # then
    assert state["flag"] == {"tags": ["a"]}


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), [float("nan")], 2**64, -(2**63) - 1, {1}, {1: 2}, b"x"])
def test_a_value_that_is_not_json_is_refused_where_the_change_is_made(value: Any) -> None:
    with pytest.raises(NotJSON):
        put("key", value)
    with pytest.raises(NotJSON):
        put_many({"other": 1, "key": value})


@pytest.mark.parametrize("key", [1, None, b"key", ("a", "b")])
def test_a_key_that_is_no_text_is_refused_where_the_change_is_made(key: Any) -> None:
    for make in (lambda: put(key, 1), lambda: put_many({key: 1}), lambda: delete(key)):
        with pytest.raises(NotJSON, match="a key is text"):
            make()


def test_what_no_record_takes_is_refused_where_the_change_is_made() -> None:
    with pytest.raises(ChangeTooLarge):
        put("key", "x" * 300_000)


@pytest.mark.parametrize(
    "change",
    [
        None,
        "put",
        [],
        {},
        {"put": {"a": 1}, "delete": ["a"]},
        {"put": [["a", 1]]},
        {"put": None},
        {"delete": "a"},
        {"delete": ["a", 1]},
        {"delete": [["a"]]},
        {"clear": {}},
        {"put": {"a": {1, 2}}},
    ],
)
def test_a_change_that_it_does_not_know_is_rejected_and_moves_nothing(change: Any) -> None:
    state = DictState({"a": {"on": True}, "b": 2})
    with pytest.raises(InvalidChange):
        state.apply(change)
    assert state == {"a": {"on": True}, "b": 2}


def test_a_large_state_is_cut_into_small_pieces() -> None:
    # given
    values = {f"key-{number}": {"text": "x" * (number % 700), "number": number} for number in range(2000)}
    values["large"] = {"text": "y" * 2 * PIECE_BYTES}
    state = DictState()
    for key, value in values.items():
        state.apply(put(key, value))
    # when
    pieces = list(state.snapshot())
    # then
    *small, large = [len(orjson.dumps(piece)) for piece in pieces]
    assert min(small[:-1]) > PIECE_BYTES / 2
    assert max(small) <= PIECE_BYTES
    assert list(pieces[-1]) == ["large"]
    assert large > PIECE_BYTES
    other = DictState()
    other.restore(iter(pieces))
    assert list(other.items()) == list(values.items())


def test_many_small_values_take_little_memory() -> None:
    program = (
        "import resource\n"
        "from replicator import DictState\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "state = DictState()\n"
        "for number in range(50_000):\n"
        "    state.apply({'put': {str(number): {'on': True}}})\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)
    assert grown / (1024 if sys.platform == "darwin" else 1) < 50_000  # KiB: one a value


def test_an_empty_state_is_a_piece() -> None:
    state = DictState({"a": 1})
    pieces = list(DictState().snapshot())
    assert pieces == [{}]
    state.restore(iter(pieces))
    assert state == {}


def test_two_nodes_have_it_and_a_change_that_is_none_stops_neither(group: Group) -> None:
    # given
    a, b = group.primary(state=DictState()), group.node("b", state=DictState())
    # when
    assert a.submit(put("dark-mode", {"on": True, "percent": 50})) is None
    assert a.submit(delete("dark-mode", "beta")) == 1
    with pytest.raises(InvalidChange):
        a.submit({"no": "such change"})
    results = a.submit_many([put("x", [1]), {"put": 1}, put_many({"y": 2, "z": 3}), delete("y")])
    # then
    assert [type(result) for result in results] == [type(None), InvalidChange, type(None), int]
    in_step(a, b)
    with a.reading() as ours, b.reading() as theirs:
        assert ours == theirs == {"x": [1], "z": 3}


def test_a_whole_state_can_be_put_in_its_place(group: Group) -> None:
    # given
    a, b = group.primary(state=DictState()), group.node("b", state=DictState())
    a.submit(put("x", 1))
    # when
    a.replace([{"y": {"on": True}}, {"z": 2}])
    # then
    for node in (a, b):
        eventually(lambda node=node: node.position == a.position and node.in_sync)
        with node.reading() as state:
            assert state == {"y": {"on": True}, "z": 2}


def test_it_comes_back_from_the_disk(group: Group) -> None:
    # given
    a = group.primary(state=DictState())
    a.submit(put_many({f"key-{number}": {"number": number} for number in range(500)}))
    a.publish()
    a.submit(delete("key-0"))
    a.stop()
    # when
    again = group.node("a", state=DictState(), data_dir=a.data_dir)
    # then
    with again.reading() as state:
        assert len(state) == 499
        assert state["key-499"] == {"number": 499}


def test_pieces_that_are_no_mapping_are_refused_before_they_are_sent(group: Group) -> None:
    # given
    a, b = group.primary(state=DictState()), group.node("b", state=DictState())
    a.submit(put("x", 1))
    before = a.position
    # when
    with pytest.raises(InvalidChange, match="must be an object of keys and values"):
        a.replace([{"y": 1}, ["z"]])
    # then
    assert a.position == before
    a.submit(put("z", 2))
    in_step(a, b)
    assert (a.stalled, b.stalled) == (None, None)
    with b.reading() as state:
        assert state == {"x": 1, "z": 2}


class Prefixed(DictState):
    def restore(self, pieces: Any) -> None:
        super().restore(dict(piece) for piece in pieces)


def test_what_the_restore_of_a_subclass_takes_is_its_own_matter(group: Group) -> None:
    a = group.primary(state=Prefixed())
    a.replace([[["x", 1]]])
    with a.reading() as state:
        assert state == {"x": 1}
