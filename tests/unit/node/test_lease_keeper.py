"""What a node says of its lease: that it leads, that it takes no writes any more, and who leads instead."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.testing import MemoryLog
from tests.support.kv import PATIENCE_S, SHORT_LEASE_S, Group, eventually, in_step

OF_THE_LEASE = ("node.leads", "node.stands_by", "lease.lost", "lease.held")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    group.close()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Any:
    """Of one node: each event of its lease, and its level."""
    caplog.set_level(logging.INFO, logger="replicator")

    def of(node: str) -> list[tuple[str, str]]:
        records = [vars(record) for record in list(caplog.records)]
        return [
            (record["event"], record["levelname"])
            for record in records
            if record.get("node") == node and record.get("event") in OF_THE_LEASE
        ]

    return of


def test_a_primary_whose_lease_runs_out_says_so_and_that_it_takes_writes_again(
    group: Group, told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    log = MemoryLog(group.server)
    a = group.node("a", log=log, lease_s=SHORT_LEASE_S)
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: ("node.leads", "INFO") in told("a"))
    log.down = "it was unplugged"
    eventually(lambda: ("lease.lost", "WARNING") in told("a"))
    assert "takes no writes: the lease of" in caplog.text
    assert "Redis did not answer" in caplog.text
    log.down = ""
    eventually(lambda: told("a")[-1] == ("lease.held", "INFO"))
    assert "takes writes again after" in caplog.text
    assert told("a").count(("node.leads", "INFO")) == 1, "it is the same term"


def test_a_primary_that_hands_over_says_for_whom_and_has_lost_no_lease(
    group: Group, told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = group.node("a", lease_s=60.0), group.node("b", lease_s=60.0)
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: told("a") == [("node.leads", "INFO")])
    in_step(a, b)
    b.promote(force=True, timeout_s=PATIENCE_S)
    eventually(lambda: told("b") == [("node.leads", "INFO")])
    eventually(lambda: told("a")[-1] == ("node.stands_by", "INFO"))
    assert "leads no more: b holds term 2; led in term 1 for" in caplog.text
    assert [event for event, _ in told("a")] == ["node.leads", "node.stands_by"]
