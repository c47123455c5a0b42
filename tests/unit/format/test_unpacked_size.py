"""What pieces weigh: at least what they take, whatever they are; and no end of them comes to an end."""

from __future__ import annotations

import json
import sys
from typing import Any

import orjson
import pytest

from replicator.format.unpacked_size import SNAPSHOT_BYTES_MAX, Weight

#: JSON that becomes much for its bytes.
SWELLING: dict[str, Any] = {
    "empty arrays": [[] for _ in range(1000)],
    "empty objects": [{} for _ in range(1000)],
    "numbers": [0.1 for _ in range(1000)],
    "small numbers": [1 for _ in range(1000)],
    "short texts": ["é" for _ in range(1000)],
    "objects in objects": [{"a": {"b": {"c": {}}}} for _ in range(300)],
    "deep": orjson.loads(b"[" * 500 + b"]" * 500),
    "deep objects": orjson.loads(b'{"a":' * 500 + b"1" + b"}" * 500),
    "members": [{str(number): None for number in range(1000)}],
}


def taken(value: Any) -> int:
    """The memory of a value and all in it."""
    size, stack = 0, [value]
    while stack:
        item = stack.pop()
        size += sys.getsizeof(item) if item is not None and type(item) is not bool else 0
        if isinstance(item, dict):
            stack.extend([*item.keys(), *item.values()])
        elif isinstance(item, list):
            stack.extend(item)
    return size


def weight_of(piece: bytes) -> int:
    """The least bound that it is within."""
    low, high = 0, 1 << 40
    while low < high:
        most = (low + high) // 2
        low, high = (low, most) if Weight(most).takes(piece, raw=False) else (most + 1, high)
    return low


@pytest.mark.parametrize("value", SWELLING.values(), ids=SWELLING.keys())
def test_json_weighs_about_what_it_takes(value: Any) -> None:
    piece = json.dumps(value, separators=(",", ":")).encode()
    assert weight_of(piece) >= 0.5 * taken(orjson.loads(piece))


def test_small_pieces_weigh_something_so_that_they_end() -> None:
    weight = Weight(1_000_000)
    count = 0
    while weight.takes(b"", raw=True):
        count += 1
    assert 1000 < count < 10_000


def test_bytes_weigh_what_they_are() -> None:
    weight = Weight(1_000_000)
    assert weight.takes(b"[" * 600_000, raw=True)
    assert not weight.takes(b"[" * 400_000, raw=True)


def test_text_that_cannot_be_too_heavy_is_not_counted_and_what_comes_behind_it_is() -> None:
    piece = b"[" + b"[]," * 1000 + b"[]]"
    weight = Weight(10 * len(piece) * 65)
    for _ in range(10):
        assert weight.takes(piece, raw=False)
    taken_after = 0
    while weight.takes(piece, raw=False):
        taken_after += 1
    assert taken_after < 20, "counted, these are heavy"


def test_a_large_state_of_usual_records_is_far_below_what_a_node_takes() -> None:
    record = {"id": 1, "hostname": "db1", "public_key": "A" * 44, "tags": ["a", "b"], "lan_addrs": ["10.0.0.1:1"] * 2}
    piece = orjson.dumps([record] * 200)
    weight = Weight(SNAPSHOT_BYTES_MAX)
    assert all(weight.takes(piece, raw=False) for _ in range(500_000_000 // len(piece)))
