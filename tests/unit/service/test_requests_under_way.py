"""Requests that are answered before their program is told to stop."""

from __future__ import annotations

from replicator.service.requests_under_way import ANSWERED_WITHIN_S, RequestsUnderWay


def test_a_program_is_left_to_answer_what_it_has_for_a_while() -> None:
    now = [0.0]
    requests = RequestsUnderWay(lambda: now[0])
    assert requests.are_answered()
    with requests.one():
        with requests.one():
            assert not requests.are_answered()
        assert not requests.are_answered()
    assert requests.are_answered()
    # when one takes too long
    with requests.one():
        assert not requests.are_answered()
        now[0] += ANSWERED_WITHIN_S
        assert requests.are_answered()
        # then the next time is another one
        assert not requests.are_answered()


def test_a_wait_that_was_given_up_does_not_shorten_the_next_one() -> None:
    now = [0.0]
    requests = RequestsUnderWay(lambda: now[0])
    with requests.one():
        assert not requests.are_answered()
        requests.wait_is_over()
        assert not requests.is_awaited
        now[0] += ANSWERED_WITHIN_S
        assert not requests.are_answered()
