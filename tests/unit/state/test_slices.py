"""Cutting by size."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.state.slices import PIECE_BYTES, slices


@settings(deadline=None)
@given(st.lists(st.integers(1, 2 * PIECE_BYTES)))
def test_all_are_there_in_order_and_no_slice_that_could_be_smaller_is_too_large(sizes: list[int]) -> None:
    cut = list(slices((size, size) for size in sizes))
    assert [size for some in cut for size in some] == sizes
    assert all(len(some) == 1 or sum(some) <= PIECE_BYTES for some in cut)
    assert all(sum(some) + following[0] > PIECE_BYTES for some, following in pairwise(cut))
