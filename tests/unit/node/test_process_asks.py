"""An ask to end a process is for one boot, for a while, and for a process that offers it."""

from __future__ import annotations

import pytest

from replicator.node.process_asks import Ask, ProcessAsks

ASK = Ask("restart", "a1", 1000)

NONE = ["", "restart", "restart a1", "restart a1 x", "reboot a1 5", "restart a1 5 6", "restart a1 " + "9" * 17]


def asked(run_by: str = "nobody") -> ProcessAsks:
    asks = ProcessAsks()
    asks.run_by = run_by
    return asks


def test_an_ask_is_read_as_it_was_written() -> None:
    assert Ask.parse(str(ASK)) == ASK


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_ask_is_none(text: str) -> None:
    assert Ask.parse(text) is None


def test_the_first_ask_counts() -> None:
    asks = asked()
    assert asks.heard(ASK, boot="a1", now_ms=1000) == ""
    assert asks.heard(ASK._replace(what="shutdown"), boot="a1", now_ms=1000) == ""
    assert asks.asked == "restart"


def test_one_for_another_boot_one_that_is_old_and_one_that_is_not_offered_are_not_heeded() -> None:
    for asks, boot, now_ms, why in (
        (asked(), "a2", 1000, "it is for another boot"),
        (asked(), "a1", 1001, "it is too old"),
        (asked(""), "a1", 1000, "this process is not run by `replicator node`"),
    ):
        assert asks.heard(ASK, boot=boot, now_ms=now_ms) == why
        assert asks.asked == ""
