"""The screen of `status --watch`: what is on it, that it fits 80 columns, and that it can do without colours."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from replicator.cli.watch_screen import WIDTH, screen, sparkline
from replicator.cli.watching import Health, Watch
from tests.support.statuses import WELL, A, B

#: 1970-01-01 01:02:03 UTC
NOW = 3723.0

LONG = "x" * 64
DIVERGED = replace(B, node=LONG, codes=["diverged"], ready=False, problem=f"its state differs at {LONG} {LONG}")
DEAD = replace(A, alive=False, leads=False, codes=["not_reporting"], age_ms=12_300, lag_records=None)

SCENES = {
    "well": Watch.begun(WELL, NOW),
    "dead": Watch.begun(replace(WELL, nodes=[DEAD, B], lease_ms=None, problem=f"a is dead {LONG * 9}"), NOW),
    "paused": Watch.begun(replace(WELL, problem="automatic failover is paused", codes=["paused"]), NOW),
    "diverged": Watch.begun(replace(WELL, nodes=[A, DIVERGED]), NOW),
    "nobody": Watch.begun(replace(WELL, nodes=[], group=LONG), NOW),
    "large": Watch.begun(replace(WELL, term=2**40, last_id=f"{2**40}-{2**50}", record_count=2**40), NOW),
}
AWAY = Watch.begun(WELL, NOW - 9)
AWAY.missed(f"Redis at {LONG} is away", {"a": Health(node="a", http="http://a", answers=True, leads=True)}, NOW - 7)
SCENES["away"] = AWAY


def drawn(watch: Watch, *, width: int = WIDTH, ascii_only: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system="truecolor").print(
        screen(watch, NOW, ascii_only=ascii_only)
    )
    return out.getvalue()


@pytest.fixture(autouse=True)
def _no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


def plain_of(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("scene", SCENES)
def test_it_fits_80_columns_and_24_lines(scene: str) -> None:
    lines = plain_of(drawn(SCENES[scene], width=200)).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24


def test_of_a_group_that_is_well() -> None:
    lines = plain_of(drawn(SCENES["well"])).splitlines()
    assert lines[0].startswith("g  a leads in term 3, for 62 min")
    assert lines[0].endswith("01:02:03 UTC")
    assert lines[1].startswith("lease 4.0 s   head 3-9   9 records, 900 B   version 1")
    assert [line.split()[:3] for line in lines[4:6]] == [["a", "primary", "leads"], ["b", "standby", "candidate"]]
    assert "01:02:03  a leads in term 3" in lines


def test_a_node_that_is_not_ready_shows_the_code_why() -> None:
    assert "not_reporting" in plain_of(drawn(SCENES["dead"]))
    assert "diverged" in plain_of(drawn(SCENES["diverged"]))


def test_while_redis_is_away_it_says_so_and_what_the_nodes_say() -> None:
    text = plain_of(drawn(AWAY))
    assert text.startswith("g  Redis is away")
    assert "last looked 9.0 s ago: term 3, holder a, head 3-9" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith(("a ", "b "))}
    assert "leads" in rows["a"]
    assert "no answer" in rows["b"]
    assert "away for 7.0 s" in text


def test_with_no_color_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = ("[31m", "[32m", "[33m", "[36m", ";31m", ";32m", ";33m")
    assert not any(code in drawn(SCENES["dead"]) for code in codes)
    monkeypatch.delenv("NO_COLOR")
    assert any(code in drawn(SCENES["dead"]) for code in codes)


def test_a_sparkline_grows_with_the_lag() -> None:
    assert sparkline([0, 0, 0]) == "▁▁▁"
    assert sparkline([0, 7, None, 14]) == "▁▅·█"
    assert sparkline([0, 14, None], ascii_only=True).isascii()
    assert drawn(SCENES["well"], ascii_only=True).isascii()
