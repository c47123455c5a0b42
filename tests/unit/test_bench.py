"""Each benchmark at a tiny size: it runs to its end, and what it says is possible. How fast it is, is no test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import append, applied, failover, group_commit, patch, peers, snapshot
from bench.__main__ import main
from bench.harness import Ratio, Setting, Table, in_rounds, percentile, plain_client, ratio
from replicator.core.codec import encode_change
from replicator.redis_server import RedisServer


@pytest.fixture(autouse=True)
def _warnings_of_other_tests() -> Iterator[None]:
    """A benchmark keeps warnings out of its tables; other tests read them."""
    logger = logging.getLogger("replicator")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def setting(any_redis: RedisServer, tmp_path: Path) -> Setting:
    return Setting(url=any_redis.url, directory=tmp_path)


def test_every_case_runs_once_a_round_and_begins_one_of_them() -> None:
    ran: list[str] = []
    results = in_rounds({name: partial(ran.append, name) for name in "abc"}, rounds=3)
    assert [len(each) for each in results.values()] == [3, 3, 3]
    # The first three warm up. Then each of them begins a round.
    assert "".join(ran[3:]) == "abcbcacab"


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile([5], 99) == 5
    assert percentile(range(1, 101), 99) == 99


def test_a_ratio_is_that_of_the_medians_and_its_range_that_of_the_rounds() -> None:
    found = ratio([10, 20, 90], [10, 10, 30])
    assert found == Ratio(of_medians=2, lowest=1, highest=3)
    assert str(found) == "2.00 (1.00 to 3.00)"


def test_a_table_is_text_and_markdown() -> None:
    table = Table(head=["case", "ms"], rows=[["a", "1,000"]])
    assert table.as_text() == "  case     ms\n  ----  -----\n  a     1,000"
    assert table.as_markdown() == "| case | ms |\n| --- | ---: |\n| a | 1,000 |"


def test_a_change_of_the_append_benchmarks_has_the_size_that_they_say() -> None:
    assert len(encode_change(append.a_change())) == append.CHANGE_BYTES


def test_fenced_append(setting: Setting) -> None:
    figures = append.measure(setting, append.Sizes(rounds=2, seconds=0.05)).figures
    assert figures["XADD ratio"] == 1
    assert figures["Node.submit per second"] > 0
    assert figures["fenced append per second"] > 0


def test_group_commit(setting: Setting) -> None:
    figures = group_commit.measure(setting, group_commit.Sizes(rounds=2, seconds=0.05, threads=(1, 3))).figures
    for case in ("XADD, 1", "Node.submit, 1", "XADD, 3", "Node.submit, 3"):
        assert figures[f"{case} per second"] > 0
        assert 0 < figures[f"{case} p50 us"] <= figures[f"{case} p99 us"]


def test_an_error_of_a_submitter_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        group_commit.by_threads(lambda: 1 // 0, threads=2, seconds=1)


def test_committed_to_applied(setting: Setting) -> None:
    figures = applied.measure(setting, applied.Sizes(rounds=2, pings=3)).figures
    for case in (applied.BARE, applied.ON_DISK, applied.DISK):
        assert 0 < figures[f"{case}, from the call, p50 us"] <= figures[f"{case}, from the call, p99 us"]
    assert figures[f"{applied.BARE} ratio"] == 1


def test_published_to_applied(setting: Setting) -> None:
    report = snapshot.measure(setting, snapshot.Sizes(rounds=2, nodes=300))
    figures = report.figures
    assert figures["parts"] == 1
    assert 0 < figures["wire bytes"] < figures["document bytes"]
    assert figures["primary: publish, all of it ms"] < figures[f"{snapshot.PUBLISHED} ms"]
    assert min(figures[f"{name} ms"] for name in ("primary: draw", "standby: decode", "standby: restore")) > 0
    assert "300 nodes" in report.notes[0]


def test_a_patch_of_a_file(setting: Setting) -> None:
    report = patch.measure(setting, patch.Sizes(rounds=1, records=2000))
    figures = report.figures
    assert figures[f"{patch.WHOLE} ratio"] == 1
    for case in (patch.IN_PLACE, patch.MOVED, patch.MANY):
        assert 0 < figures[f"{case} bytes"] < figures[f"{patch.WHOLE} bytes"] < figures["file bytes"]
        assert figures[f"{case} ms"] > 0
    assert report.notes == ["2,000 records, 1.5 MB."]


def test_failover(setting: Setting) -> None:
    report = failover.measure(setting, failover.Sizes(rounds=1, leases=(0.3,), peers=False, warm_ups=0))
    figures = report.figures
    assert figures["replicator, lease 0.3 s ms"] > 100
    assert figures["promote ms"] > 0
    assert figures["lease 0.3 s, from its answer ms"] < figures["lease 0.3 s, from its end ms"]
    assert figures["writes acknowledged"] > 0
    assert (figures["writes missing"], figures["writes twice"]) == (0, 0)


@pytest.mark.slow
def test_failover_of_the_peers(tmp_path: Path) -> None:
    with peers.SentinelGroup(tmp_path / "sentinel") as sentinels:
        # It takes a server for dead after that, counted from its last answer, which is at most one second old.
        assert sentinels.failover_ms() > peers.SENTINEL_DOWN_AFTER_MS / 2
    if peers.syncobj_version() is not None:
        with peers.SyncObjGroup(failover.TUNED) as group:
            assert group.failover_ms() > 0


def test_a_peer_that_is_not_installed_has_rows_that_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "syncobj_version", lambda: None)
    sizes = failover.Sizes(rounds=1, leases=(1.0,))
    table = failover.report(
        {
            "replicator, lease 1 s": [failover.Killed(900.0, 20.0)],
            failover.SENTINEL: [2200.0],
            failover.PROMOTE: [10.0],
            failover.SWITCHOVER: [failover.Switched(20.0, 21.0, 100, 0, 0, 0)],
            "lease 1 s": [failover.Restarted(500.0, 600.0)],
        },
        sizes,
    ).tables[0]
    said = {row[0]: row[1] for row in table.rows}
    assert said[failover.SYNCOBJ] == said[failover.SYNCOBJ_TUNED] == "not installed"
    assert "not installed" in table.as_markdown()
    assert table.as_text()


def test_the_command_writes_markdown_with_its_figures_and_leaves_no_key(
    any_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "QUICK", append.Sizes(rounds=1, seconds=0.02))
    out = tmp_path / "benchmarks.md"
    result = CliRunner().invoke(main, ["append", "--quick", "--redis", any_redis.url, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "Node.submit" in result.output
    text = out.read_text()
    assert "## Fenced append" in text
    assert "| Node.submit |" in text
    assert "load average" in text.lower()
    with plain_client(any_redis.url) as client:
        assert client.keys("*bench-*") == []
