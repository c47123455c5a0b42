"""Ids, positions, chains and terms."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ConfigError
from replicator.format.ids import (
    ERA,
    ORIGIN,
    TERM_MAX,
    ZERO_CHAIN,
    ZERO_ID,
    Position,
    RecordId,
    Writer,
    extend_chain,
    next_term,
)

ids = st.builds(RecordId, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
chains = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(ids)
def test_an_id_is_read_back_as_it_is_written(id_: RecordId) -> None:
    assert RecordId.parse(str(id_)) == id_


@given(ids, chains)
def test_a_position_is_read_back_as_it_is_written(id_: RecordId, chain: str) -> None:
    assert Position.parse(str(Position(id_, chain))) == Position(id_, chain)


@given(st.lists(ids))
def test_ids_are_ordered_by_term_and_then_by_number(some: list[RecordId]) -> None:
    assert sorted(some) == sorted(some, key=lambda id_: (id_.term, id_.n))


@given(st.text() | st.from_regex(r"\d+-\d+"))
def test_whatever_is_no_id_is_a_config_error(text: str) -> None:
    try:
        id_ = RecordId.parse(text)
    except ConfigError as error:
        assert "TERM-N" in str(error)  # noqa: PT017
    else:
        assert text.isascii()
        assert [int(number) for number in text.split("-")] == list(id_)


@pytest.mark.parametrize("text", ["", "5", "5-", "-5", "5-1-2", " 5-1", "5-1\n", "+5-1", "٥-١", "5-" + "1" * 21, "5-*"])
def test_near_misses_are_no_ids(text: str) -> None:
    with pytest.raises(ConfigError, match="5-1042"):
        RecordId.parse(text)


@pytest.mark.parametrize("text", ["5-1", "5-1@", "5-1@xyz", "5-1@" + "F" * 32, "5-1@" + "f" * 31, "@" + "f" * 32])
def test_near_misses_are_no_positions(text: str) -> None:
    with pytest.raises(ConfigError, match="position"):
        Position.parse(text)


def test_the_beginning_is_before_every_record() -> None:
    assert RecordId(1, 1) > ZERO_ID
    assert Position(ZERO_ID, ZERO_CHAIN) == ORIGIN
    assert str(ORIGIN) == "0-0@" + "0" * 32


def test_a_writer_says_node_and_boot() -> None:
    assert str(Writer("a", "7f")) == "a/7f"


def test_a_chain_is_the_head_of_a_sha1_as_a_redis_script_would_compute_it() -> None:
    assert extend_chain(ZERO_CHAIN, b"h", b"b") == hashlib.sha1(b"0" * 32 + b"hb").hexdigest()[:32]


@given(chains, st.binary(), st.binary(min_size=1))
def test_a_chain_depends_on_everything_before_it(prev: str, header: bytes, body: bytes) -> None:
    chain = extend_chain(prev, header, body)
    assert chain != extend_chain(prev, header, b"")
    assert chain != extend_chain(extend_chain(prev, b"", b""), header, body)


@given(st.integers(0, TERM_MAX // 2))
def test_in_the_same_run_the_next_term_is_one_up(term: int) -> None:
    assert next_term(term, new_run=False) == term + 1


@given(st.integers(0, TERM_MAX // 2), st.integers(0, ERA - 2))
def test_in_a_new_run_the_next_term_is_above_all_that_the_run_before_may_have_taken(term: int, lost: int) -> None:
    """G3."""
    start_of_era = term // ERA * ERA
    assert next_term(term, new_run=True) > start_of_era + lost + 1
    assert next_term(term, new_run=True) % ERA == 1
