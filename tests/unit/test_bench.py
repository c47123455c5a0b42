"""Each benchmark at a tiny size: it runs to its end, and what it says is possible. How fast it is, is no test."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import (
    against_peers,
    append,
    applied,
    archive,
    attacked,
    bare,
    binaries,
    directory,
    failover,
    goals,
    group_commit,
    groups,
    harness,
    http,
    http_client,
    idle,
    install_peers,
    keys,
    lease_release,
    loads,
    metrics,
    middleware,
    one_percent,
    patch,
    peers,
    plots,
    probes,
    results,
    sealed,
    snapshot,
    sqlite,
    standbys,
    state_size,
    states,
)
from bench.__main__ import BENCHMARKS, main
from bench.binaries import NOT_INSTALLED
from bench.charts import Bars, Chart, Lines
from bench.goals import GOALS, Goal
from bench.harness import Ratio, Report, Setting, Table, in_rounds, percentile, plain_client, ratio
from bench.inbox import Inbox
from bench.interpreter_watch import InterpreterWatch
from bench.results import Result
from bench.systems import etcd, nats, ours, redis, syncobj
from bench.systems.base import Running, System
from bench.written import Counting, can_count
from replicator import Node
from replicator.format.codec import encode_change
from replicator.replica import ledger
from replicator.replica.ledger import KEYS_BYTES_MAX, KEYS_MAX
from replicator.sandbox.redis_server import RedisServer
from tests.support.needs import needs


@pytest.fixture
def setting(any_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(harness, "WARM_UPS", 0)
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
    table = Table(head=["case", "why", "ms"], rows=[["a", "b", "1,000"]], names=2)
    assert table.as_text() == "  case  why     ms\n  ----  ---  -----\n  a     b    1,000"
    assert table.as_markdown() == "| case | why | ms |\n| --- | --- | ---: |\n| a | b | 1,000 |"


def test_a_change_has_the_size_that_the_benchmarks_say_with_a_number_and_without() -> None:
    assert len(encode_change(loads.a_change())) == loads.CHANGE_BYTES
    assert {len(encode_change(loads.a_change(number))) for number in (0, 7, 123_456)} == {loads.CHANGE_BYTES}


def test_a_pace_counts_the_changes_of_a_batch_and_the_latency_of_its_call() -> None:
    pace = loads.in_batches(lambda: time.sleep(0.002), size=100, seconds=0.02)
    assert pace.changes % 100 == 0
    assert pace.rate < 100 / 0.002
    assert 2_000 <= pace.p50_us <= pace.p99_us


def test_tasks_submit_at_the_same_time_and_each_after_its_own_answer() -> None:
    under_way: list[int] = [0, 0]

    async def send() -> None:
        under_way[0] += 1
        under_way[1] = max(under_way)
        await asyncio.sleep(0.001)
        under_way[0] -= 1

    pace = asyncio.run(loads.by_tasks(send, tasks=7, seconds=0.02))
    assert under_way == [0, 7]
    assert pace.changes >= 7


def test_an_error_of_a_submitter_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        loads.by_threads(lambda: 1 // 0, threads=2, seconds=1)


def test_an_inbox_notes_pings_counts_all_and_says_when_there_are_enough() -> None:
    inbox = Inbox()
    for change in (loads.a_change(), loads.a_change(5), loads.a_change(6)):
        inbox.apply(change)
    at_ns = inbox.until(3)
    assert list(at_ns) == [5, 6]
    assert at_ns[5] <= at_ns[6]
    assert inbox.until(3) == {}


def test_an_inbox_is_waited_for_and_its_failure_comes_out() -> None:
    inbox = Inbox()
    later = threading.Timer(0.02, inbox.apply, args=[loads.a_change(1)])
    later.start()
    assert list(inbox.until(1)) == [1]
    failing = threading.Timer(0.02, inbox.fail, args=[ValueError("gone")])
    failing.start()
    with pytest.raises(ValueError, match="gone"):
        inbox.until(2)


def test_an_inbox_that_comes_by_a_snapshot_has_counted_what_is_in_it() -> None:
    before, after = Inbox(), Inbox()
    before.apply(loads.a_change())
    after.restore(before.snapshot())
    assert after.until(1) == {}


# --- Each benchmark ------------------------------------------------------------------------------------------------


def _figures(name: str, report: Report) -> Mapping[str, float]:
    """The figures of a report, which say something of each goal. Goals of what a node may lack are left out."""
    ours = [goal for goal in goals.GOALS if goal.of == name and "submit_many" not in goal.figure]
    assert ours
    assert None not in [goal.measured(report.figures) for goal in ours]
    return report.figures


def test_fenced_append(setting: Setting) -> None:
    figures = _figures("append", append.measure(setting, append.Sizes(rounds=2, seconds=0.05)))
    assert figures["XADD ratio"] == 1
    for case in (append.BARE, append.FENCED, append.SUBMIT):
        assert figures[f"{case} per second"] > 0
        assert 0 < figures[f"{case} p50 us"] <= figures[f"{case} p99 us"]


def test_sealed(setting: Setting) -> None:
    figures = sealed.measure(setting, sealed.Sizes(rounds=2, seconds=0.05)).figures
    for case in (sealed.PLAIN, sealed.SEALED, sealed.MANY, sealed.MANY_SEALED):
        assert figures[f"{case} cpu us"] > 0


def test_metrics(setting: Setting) -> None:
    sizes = metrics.Sizes(rounds=2, calls=5, seconds=0.05, scrapes=2, groups=2)
    figures = _figures("metrics", metrics.measure(setting, sizes))
    for how in ("one thread", "tasks"):
        for name in (metrics.COUNTED, metrics.SCRAPED):
            assert figures[f"{how}, {name} cpu us"] > 0
    for name in ("the text", "over HTTP, with the client", "the text of 2 groups"):
        assert figures[f"{name} ms"] > 0


def test_keys(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (keys, ledger):  # a sixteenth of a table costs a sixteenth of it, and as little of the time
        monkeypatch.setattr(module, "KEYS_MAX", KEYS_MAX // 16)
        monkeypatch.setattr(module, "KEYS_BYTES_MAX", KEYS_BYTES_MAX // 16)
    figures = _figures("keys", keys.measure(setting, keys.Sizes(rounds=1, seconds=0.05, times=1)))
    for case in (keys.WITHOUT, keys.WITH, keys.REPEAT):
        assert figures[f"{case} per second"] > 0
    assert figures["results of a few bytes, keys"] == figures["results of 140 bytes, keys"] == KEYS_MAX // 16
    assert figures["results of 4 kB, keys"] < KEYS_MAX // 16
    # counted, not timed: it is the same on every machine
    assert max(figures[f"{name}, MB"] for name in keys.RESULTS) < 40 / 16


def test_archive(setting: Setting) -> None:
    sizes = archive.Sizes(rounds=1, seconds=0.05, steady_s=0.5)
    figures = _figures("archive", archive.measure(setting, sizes))
    for case in (archive.WITHOUT, archive.WITH):
        assert figures[f"{case} per second"] > 0
    assert figures["archiver share"] >= 0
    assert figures["archiver MB"] > 0


def test_a_bare_socket_says_what_the_server_answers(setting: Setting) -> None:
    with contextlib.closing(bare.BareSocket(setting.url)) as connection:
        assert connection.command("ECHO", "text") == b"text"
        with pytest.raises(Exception, match="unknown command"):
            connection.command("NO-SUCH-COMMAND")


def test_a_server_without_its_benchmark_has_a_row_that_says_so(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append.ServerBenchmark, "found", lambda _: None)
    rows = append.measure(setting, append.Sizes(rounds=1, seconds=0.02)).tables[0].rows
    assert [row[1] for row in rows if row[0] == append.BENCHMARK] == [NOT_INSTALLED]


def test_the_benchmark_of_a_server_is_run_and_read(setting: Setting, tmp_path: Path) -> None:
    # Given a program that says what redis-benchmark says,
    program = tmp_path / "redis-benchmark"
    head = "test,rps,avg_latency_ms,min_latency_ms,p50_latency_ms,p95_latency_ms,p99_latency_ms,max_latency_ms"
    csv = "\n".join([head, "XADD,20000.00,0.05,0.01,0.040,0.060,0.080,2.0"])
    program.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\necho '{csv}'\n")
    program.chmod(0o755)
    # when it is asked for half a second,
    of_server = bare.ServerBenchmark(binaries.Program(program, {}, "1"), setting.url)
    pace = of_server.xadd("stream", b"body", 0.5)
    # then it was told to send so many with one client, and its figures are in the units of all others.
    assert "-c 1 --csv -n 10000 XADD stream * b body" in (tmp_path / "asked").read_text()
    assert (pace.rate, pace.p50_us, pace.p99_us, pace.changes) == (20_000, 40, 80, 10_000)


def test_group_commit(setting: Setting) -> None:
    sizes = group_commit.Sizes(rounds=2, seconds=0.05, threads=(1, 3), tasks=3)
    figures = group_commit.measure(setting, sizes).figures
    cases = "XADD, 1 thread", "Node.submit, 3 threads", "XADD, 3 tasks", group_commit.BY_HAND, group_commit.PIPELINE
    for case in cases:
        assert figures[f"{case} per second"] > 0
        assert 0 < figures[f"{case} p50 us"] <= figures[f"{case} p99 us"]
    assert figures[f"{group_commit.BASE} rate ratio"] == figures[f"{group_commit.BASE} p99 ratio"] == 1
    assert figures["Node.submit, 1 thread changes a record"] <= figures["Node.submit, 3 threads changes a record"]


class Later(Node):
    """A node that has what the benchmarks use where a node has it."""

    async def asubmit(self, change: Any) -> Any:
        return await asyncio.to_thread(self.submit, change)

    def submit_many(self, changes: Sequence[Any]) -> list[Any]:
        return [self.submit(change) for change in changes]


def test_group_commit_by_tasks_and_in_batches(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "Node", Later)
    sizes = group_commit.Sizes(rounds=1, seconds=0.05, threads=(1,), tasks=3)
    figures = group_commit.measure(setting, sizes).figures
    assert figures["Node.asubmit, 3 tasks per second"] > 0
    assert figures[f"{group_commit.SUBMIT_MANY} per second"] > 0
    # One by one, as this node does it: a batch is 100 changes, not one.
    assert figures[f"{group_commit.SUBMIT_MANY} changes a record"] == pytest.approx(1, abs=0.1)


def test_the_sender_of_the_package_uses_what_the_node_has(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "Node", Later)
    with contextlib.closing(ours.NodeSender(setting.url, setting.group("ours"), setting.fresh("ours"))) as sender:
        assert sender.concurrent(3, 0.05).changes >= 3
        pace = sender.batches(10, 0.05)
        assert pace is not None
        assert pace.changes % 10 == 0


def test_committed_to_applied(setting: Setting) -> None:
    figures = _figures("applied", applied.measure(setting, applied.Sizes(rounds=2, pings=3, more_back_to_back=1)))
    for case in (applied.BARE, applied.ON_DISK):
        for pace in (applied.WITH_PAUSES, applied.BACK_TO_BACK):
            assert 0 < figures[f"{case}, {pace}, p50 us"] <= figures[f"{case}, {pace}, p99 us"]
    assert figures[f"{applied.DISK}, p50 us"] > 0
    p50s = [figures[f"{case}, back to back, p50 us"] for case in (applied.ON_DISK, applied.BARE)]
    assert figures["back to back, p50 ratio"] == p50s[0] / p50s[1]
    for case in (applied.BARE, applied.ON_DISK):
        # What comes in batches shares wake-ups, reads and saves.
        spent = [figures[f"{case}, {how}, receiver cpu us"] for how in (applied.IN_BATCHES, applied.ALONE)]
        assert 0 < spent[0] < spent[1]


def test_peers_that_need_nothing_but_redis(setting: Setting) -> None:
    systems = (ours.OURS, redis.PLAIN, redis.REPLICATED_AND_WAITED)
    sizes = against_peers.Sizes(rounds=1, seconds=0.05, pings=3, systems=systems, submitters=4)
    report = against_peers.measure(setting, sizes)
    for system in systems:
        assert report.figures[f"{system.name} {against_peers.ONE}"] > 0
        assert report.figures[f"{system.name} {against_peers.CONCURRENT}"] > 0
        assert report.figures[f"{system.name} {against_peers.OTHER_P50}"] > 0
        assert f"*{system.name}*: {system.means}." in report.notes
    assert {chart.name for chart in report.charts} == {"peers-throughput", "peers-latency"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "system", [syncobj.EACH_MS, nats.JETSTREAM, etcd.ONE, etcd.THREE], ids=lambda system: system.name
)
def test_a_peer_delivers_every_change_to_the_other_process(setting: Setting, system: System) -> None:
    if not system.is_installed():
        pytest.skip("not installed: make bench-peers")
    sizes = against_peers.Sizes(rounds=1, seconds=0.1, pings=3, systems=[system], submitters=4)
    report = against_peers.measure(setting, sizes)
    assert not [note for note in report.notes if "failed" in note]
    assert report.figures[f"{system.name} {against_peers.TOGETHER}"] > 0
    assert report.figures[f"{system.name} {against_peers.OTHER_P50}"] > 0


def test_a_peer_that_is_missing_or_fails_has_a_row_that_says_so(setting: Setting) -> None:
    @contextlib.contextmanager
    def fails(_: Setting) -> Iterator[Running]:
        raise RuntimeError("it did not start")
        yield

    missing = System(name="missing", means="nothing", run=fails, is_installed=lambda: False)
    broken = System(name="broken", means="nothing", run=fails)
    sizes = against_peers.Sizes(rounds=1, seconds=0.05, pings=2, systems=[redis.PLAIN, missing, broken], submitters=2)
    report = against_peers.measure(setting, sizes)
    assert [row[1] for row in report.tables[0].rows[1:]] == [NOT_INSTALLED, "failed"]
    assert "A turn of broken failed: it did not start." in report.notes
    assert report.figures[f"XADD {against_peers.ONE}"] > 0


def test_a_failure_of_the_package_itself_is_not_passed_over(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("it is broken")

    monkeypatch.setattr(against_peers, "_turn", fails)
    with pytest.raises(RuntimeError, match="it is broken"):
        against_peers.measure(setting, against_peers.Sizes(rounds=1, seconds=0.05, pings=2, systems=[ours.OURS]))


def test_a_message_for_etcd_is_read_as_it_was_built() -> None:
    put = etcd.put_request(b"key", b"v" * 200)
    assert list(etcd.fields(put)) == [(1, b"key"), (2, b"v" * 200)]
    # A watch answers with a header, some integers, and events (11) with a pair (2) that has a value (5).
    pair = etcd.field(1, b"key") + b"\x10\x96\x01" + etcd.field(5, b"value")
    response = etcd.field(1, b"\x08\x01") + b"\x10\x00" + etcd.field(11, etcd.field(2, pair)) * 2
    assert etcd.values_of(response) == [b"value", b"value"]
    assert dict(etcd.fields(pair))[2] == 150


def test_by_the_size_of_the_state(setting: Setting) -> None:
    sizes = state_size.Sizes(rounds=1, seconds=0.05, records=(10, 500))
    report = state_size.measure(setting, sizes)
    assert report.figures["10 against 10"] == 1
    assert report.figures["500 against 10"] > 0
    # Of the same length, but for the digits of keys and of numbers in the header.
    assert abs(report.figures["500 bytes"] - report.figures["10 bytes"]) < 10
    assert report.figures["10 bytes"] > loads.CHANGE_BYTES


def test_a_dict_of_records_is_rebuilt_from_its_pieces() -> None:
    before, after = states.Records(1000), states.Records()
    before.apply({"key": 7, "pad": "new"})
    after.restore(before.snapshot())
    assert after.records == before.records
    assert len(after.records) == 1000
    assert after.records[7]["pad"] == "new"


def test_by_the_number_of_standbys(setting: Setting) -> None:
    sizes = standbys.Sizes(rounds=1, seconds=0.05, pings=3, standbys=(1, 2))
    figures = standbys.measure(setting, sizes).figures
    assert figures["1 any p50 us"] == figures["1 last p50 us"]
    assert 0 < figures["2 any p50 us"] <= figures["2 last p99 us"]
    assert figures["2 one at a time per second"] > 0
    assert figures["2 cpu us"] > 0


def test_one_per_cent_changed(setting: Setting) -> None:
    figures = _figures("one-percent", one_percent.measure(setting, one_percent.Sizes(rounds=1, nodes=1000)))
    assert 10 * 100 < figures["submit bytes"] < figures["publish bytes"]
    assert figures["submit bytes share"] == figures["submit bytes"] / figures["publish bytes"]
    assert min(figures[f"{way} {what}"] for way in ("publish", "submit") for what in ("time", "apply")) > 0


def test_a_directory(setting: Setting) -> None:
    figures = directory.measure(setting, directory.Sizes(files=4, mb=1, seconds=0.4, pause_s=0.2)).figures
    assert figures[f"{directory.ONE}: readable p50 s"] > 0
    for role in directory.ROLES:
        assert figures[f"{directory.ONE}: {role} cpu share"] > 0


@pytest.mark.parametrize("way", sqlite.WAYS)
def test_a_database_of_sqlite(setting: Setting, way: str) -> None:
    case = sqlite.Case(way=way, mode="wal", mb=1)
    figures = sqlite.measure(setting, sqlite.Sizes(cases=[case], seconds=2.0)).figures
    assert 0 < figures[f"{case}: readable p50 s"] <= figures[f"{case}: readable p99 s"]
    for role in sqlite.ROLES:
        assert figures[f"{case}: {role} cpu share"] > 0
        if can_count():
            assert figures[f"{case}: {role} written MB/s"] > 0


def test_what_a_process_and_its_children_write_is_counted(tmp_path: Path) -> None:
    needs(can_count(), "a compiler of C (gcc), and Linux")
    counting = Counting(tmp_path / "counts")
    (tmp_path / "writes.py").write_text(WRITES)
    words = [sys.executable, str(tmp_path / "writes.py"), str(tmp_path / "file"), str(tmp_path / "copy")]
    subprocess.run(words, check=True, env=os.environ | counting.environment("it"))
    assert counting.written("it") == {str(tmp_path / "file"): 1017, str(tmp_path / "copy"): 1017, "socket": 5}
    assert counting.written("another") == {}


#: With Python's own call, SQLite's, a copy in the kernel, and a child.
WRITES = """
import os, shutil, socket, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.pwrite(file, bytes(1000), 17)
if os.fork() == 0:
    os.write(file, bytes(17))
    os._exit(0)
os.wait()
shutil.copyfile(sys.argv[1], sys.argv[2])
one, other = socket.socketpair()
one.sendall(b"sent.")
"""


def test_a_leader_is_killed(setting: Setting) -> None:
    sizes = lease_release.Sizes(rounds={lease_release.LISTENER: 1, lease_release.COMMAND: 1})
    figures = _figures("lease-release", lease_release.measure(setting, sizes))
    assert figures["event listener ms"] > 0
    assert figures["command afterwards ms"] > 0


def test_probes(setting: Setting) -> None:
    figures = _figures("probes", probes.measure(setting, probes.Sizes(rounds=1, seconds=0.2)))
    for case in (probes.ALONE, probes.HANGS, probes.PACED, probes.CLOSED, probes.INSIDE, probes.INSIDE_HANGS):
        assert 0 < figures[f"{case} p50 ms"] <= figures[f"{case} p99 ms"]


def test_a_port_that_is_attacked(setting: Setting) -> None:
    report = attacked.measure(setting, attacked.Sizes(rounds=1, seconds=0.5, halves=20, uploads=1))
    figures = _figures("attacked", report)
    assert not report.wrong
    for server in (attacked.OURS, attacked.BARE):
        for way in (attacked.KEPT, attacked.NEW):
            case = f"{server}, {way}"
            assert 0 < figures[f"{case} p50 ms"] <= figures[f"{case} p99 ms"] <= figures[f"{case} worst ms"]
            assert 0 <= figures[f"{case} late %"] <= 100


def test_middleware(setting: Setting) -> None:
    figures = _figures("middleware", middleware.measure(setting, middleware.Sizes(rounds=1, seconds=0.05)))
    for kind in (middleware.ASGI, middleware.WSGI):
        alone = figures[f"{kind}, alone cpu us"]
        assert alone > 0
        for name in middleware.OURS:
            assert figures[f"{kind}, {name} adds us"] == figures[f"{kind}, {name} cpu us"] - alone


def test_http(setting: Setting) -> None:
    report = http.measure(setting, http.Sizes(rounds=1, seconds=0.02, nodes=200, stall_rounds=1, calm_s=0.05))
    figures = _figures("http", report)
    for name in (*http.BASES, *http.BASES.values()):
        for connections in ("1 connection", "16 connections", "64 connections"):
            assert 0 < figures[f"{name}, {connections} p50 us"] <= figures[f"{name}, {connections} p99 us"]
    read, plain = (figures[f"{name}, 16 connections p99 us"] for name in (http.READ, http.PLAIN_READ))
    assert figures["read, 16 connections p99 ratio"] == read / plain
    write, read, submit = (
        1 / figures[f"{name} per second"] for name in ("write, 1 connection", "read, 1 connection", http.SUBMIT)
    )
    assert figures["write, 1 connection of its bound"] == pytest.approx(write / (read + http.SUBMITS * submit))
    held_up = [figure for name, figure in figures.items() if name.startswith("held up: ")]
    assert len(held_up) == len(report.tables[1].rows) == 5
    assert figures["held up ms"] == max(held_up)


def test_one_that_keeps_the_interpreter_is_noticed() -> None:
    watch, text = InterpreterWatch(), "x" * 5_000_000
    for _ in range(1000):
        sorted(text)  # one call, of 20 ms at the least
        if watch.worst_ms > 10:
            break
    assert watch.end() > 10


class Answering:
    """A server that gives one connection what it was made with, a piece after each request."""

    def __init__(self, *pieces: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._answer, args=[pieces], daemon=True)
        self._thread.start()

    def _answer(self, pieces: Sequence[bytes]) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self.requests.append(connection.recv(65536))
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.01)

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b"abc", b"def"],
        [b"HTTP/1.1 201 Created\r\ncontent-le", b"ngth: 6\r\n\r\nabcdef"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"4\r\nabcd\r\n2\r\n", b"ef\r\n0\r\n\r\n"],
    ],
    ids=["by its length", "a head in pieces", "in chunks"],
)
def test_an_answer_that_comes_in_pieces_is_read_whole(pieces: list[bytes]) -> None:
    request = http_client.request_of("POST", "/path", ["Name: value"], b"{}")
    with Answering(*pieces) as server, http_client.KeptAlive(server.port) as connection:
        assert connection.ask(request) == b"abcdef"
    (sent,) = server.requests
    assert sent.startswith(b"POST /path HTTP/1.1\r\n")
    assert {b"Name: value", b"Content-Type: application/json", b"Content-Length: 2"} <= {*sent.split(b"\r\n")}
    assert sent.endswith(b"\r\n\r\n{}")


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy", "503 .*busy"), (b"", "kept alive")],
)
def test_an_answer_that_is_an_error_is_none_and_neither_is_an_end(answer: bytes, said: str) -> None:
    with (
        Answering(answer) as server,
        http_client.KeptAlive(server.port) as connection,
        pytest.raises(RuntimeError, match=said),
    ):
        connection.ask(http_client.request_of("GET", "/"))


def test_an_idle_node(setting: Setting) -> None:
    figures = _figures("idle", idle.measure(setting, idle.Sizes(rounds=1, seconds=0.3)))
    assert 0 < figures["primary cpu share"] <= figures["cpu share"] < 1
    assert figures["resident MB"] > 1


def test_many_groups_in_one_process(setting: Setting) -> None:
    report = groups.measure(setting, groups.Sizes(rounds=1, seconds=0.1, groups=(1, 3), habits=groups.QUICK.habits))
    figures = report.figures
    (habits,) = groups.QUICK.habits
    for number in (1, 3):
        assert min(figures[f"{number} {what}"] for what in ("start ms", "promote ms", "Redis memory KB")) > 0
        assert figures[f"{number} {habits.name}: primaries us"] > 0
        assert min(figures[f"{number} {name} per second"] for name in (*groups.LOADS, "standby")) > 0
        assert 0 < figures[f"{number} half taken over s"] <= figures[f"{number} taken over s"]
        assert figures[f"{number} {groups.SPREAD}: Redis us"] > figures[f"{number} {groups.BATCHES}: Redis us"]
    # both share what they have, and a host has the one thread more that its process began with
    assert figures["1 connections"] <= figures["3 connections"] <= 5
    assert figures["3 threads"] == 10
    assert [table.rows[-1][0] for table in report.tables] == ["3", f"3, {habits.name}", "3", "3", f"3, {habits.name}"]


def test_published_to_applied(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "WARM_UPS", 1)  # the standby that is read has an old state from the second round on
    report = snapshot.measure(setting, snapshot.Sizes(rounds=1, nodes=300, calm_s=0.2))
    figures = report.figures
    assert figures["parts"] == 1
    assert 0 < figures["wire bytes"] < figures["document bytes"]
    # which of them ends first is the machine's doing: the standby may have the state before the primary is told
    phases = "primary: publish, all of it", snapshot.PUBLISHED, "primary: draw", "standby: decode", "standby: restore"
    assert min(figures[f"{name} ms"] for name in phases) > 0
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
    report = failover.measure(setting, failover.Sizes(rounds=1, leases=(2.0,), peers=False, warm_ups=0))
    figures = report.figures
    assert figures["replicator, lease 2 s ms"] > 100
    assert figures["promote ms"] > 0
    assert figures["lease 2 s, from its answer ms"] < figures["lease 2 s, from its end ms"]
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


# --- Goals, plots, the document ------------------------------------------------------------------------------------


AT_LEAST = Goal(name="fast", gives="Time.", of="append", figure="ratio", at_least=1.0, unit="x")
AT_MOST = Goal(name="small", gives="Room.", of="patch", figure="share", at_most=0.05, unit="%")
AGAINST = Goal(name="cheap", gives="Money.", of="append", figure="ours", against="theirs", at_most=2, unit="x")


def test_a_goal_is_met_at_its_bound_and_beyond_and_missed_before() -> None:
    assert [AT_LEAST.met(figure) for figure in (0.9999, 1.0, 1.5)] == [False, True, True]
    assert [AT_MOST.met(figure) for figure in (0.0501, 0.05, 0.01)] == [False, True, True]


def test_a_goal_has_one_bound() -> None:
    for bounds in ({}, {"at_least": 1.0, "at_most": 2.0}):
        with pytest.raises(ValueError, match="no bound, or two"):
            Goal(name="none", gives="Nothing.", of="append", figure="ratio", unit="x", **bounds)


def test_the_goals_are_held_against_figures_and_what_is_not_there_is_open() -> None:
    rows = goals.goals_table([AT_LEAST, AT_MOST], {"append": {"ratio": 0.9996}, "patch": {}}).rows
    assert rows == [
        ["fast", "at least 1 x", "0.9996 x", "**no**"],
        ["small", "at most 5 %", goals.NOT_MEASURED, ""],
    ]
    rows = goals.goals_table([AT_MOST], {"patch": {"share": 0.0123}}).rows
    assert rows == [["small", "at most 5 %", "1.23 %", "yes"]]


def test_a_goal_may_compare_two_figures_of_one_run() -> None:
    assert AGAINST.measured({"ours": 3.0, "theirs": 2.0}) == 1.5
    assert AGAINST.measured({"ours": 3.0}) is AGAINST.measured({"theirs": 2.0}) is None
    rows = goals.goals_table([AGAINST], {"append": {"ours": 5.0, "theirs": 2.0}}).rows
    assert rows == [["cheap", "at most 2 x", "2.5 x", "**no**"]]


def test_a_table_of_goals_can_say_what_a_user_gets_from_each() -> None:
    table = goals.goals_table([AT_MOST, AGAINST], {}, says_what_for=True)
    assert table.head == ["goal", goals.GIVES, "bound", "measured", "met"]
    assert [row[:3] for row in table.rows] == [["small", "Room.", "at most 5 %"], ["cheap", "Money.", "at most 2 x"]]


def test_every_goal_says_in_a_sentence_what_a_user_gets_from_it() -> None:
    for goal in goals.GOALS:
        assert goal.gives[0].isupper()
        assert goal.gives.endswith(".")
        assert goal.gives != goal.name


def test_every_goal_is_of_a_benchmark() -> None:
    assert {goal.of for goal in goals.GOALS} <= {*BENCHMARKS, "patch"}


def test_the_goals_of_benchmarks_with_peers_and_large_states_find_figures_of_theirs() -> None:
    turn = against_peers.Turn(_pace(100), _pace(1000), _pace(5000), [200.0, 300.0])
    slow = against_peers.Turn(_pace(10), _pace(100), None, [2000.0, 3000.0])
    systems = {ours.OURS: turn, syncobj.EACH_MS: slow, nats.JETSTREAM: slow}
    rounds = {system.name: [its_turn] for system, its_turn in systems.items()}
    found = against_peers.report(rounds, against_peers.FULL).figures
    assert found["PySyncObj, 1 ms commit p50 ratio"] == 10
    assert found["PySyncObj, 1 ms other process p50 ratio"] == 10
    assert found["PySyncObj, 1 ms concurrent ratio"] == 10
    expected = {
        "until another process has a change, against NATS JetStream: p50": 0.1,
        "until another process has a change, against NATS JetStream: p99": 0.1,
        "100 submitters, against NATS JetStream: rate": 10,
        "100 submitters, against PySyncObj, 1 ms: rate": 10,
        "PySyncObj with periods of 1 ms, against replicator: p50 of a commit": 10,
    }
    assert _measured("peers", found) == pytest.approx(expected)
    costs = {f"{records:,}": [state_size.Cost(_pace(100), 300)] for records in state_size.FULL.records}
    costs["1,000,000"] = [state_size.Cost(_pace(80), 330)]
    figures = state_size.report(costs, state_size.FULL).figures
    assert figures["1,000,000 against 1,000"] == 1.25
    assert list(_measured("state-size", figures).values()) == [1.25]


def test_the_goals_of_many_submitters_and_of_many_standbys_find_figures_of_theirs() -> None:
    sizes = group_commit.FULL
    rates = {
        group_commit.BASE: 100,
        f"XADD, {sizes.tasks} tasks": 50,
        f"Node.asubmit, {sizes.tasks} tasks": 400,
        group_commit.PIPELINE: 1000,
        group_commit.SUBMIT_MANY: 4000,
    }
    figures = group_commit.report({name: [_pace(rate)] for name, rate in rates.items()}).figures
    assert list(_measured("group-commit", figures).values()) == [8, 0.125, 0.25]
    turns = {
        str(number): [standbys.Turn(_pace(100), 30.0 * number, _pace(1000), [[1.0] * number])]
        for number in standbys.FULL.standbys
    }
    assert list(_measured("standbys", standbys.report(turns, standbys.FULL).figures).values()) == [4]


def _measured(name: str, figures: Mapping[str, float]) -> dict[str, float | None]:
    """What these figures of a benchmark say of each of its goals."""
    return {goal.name: goal.measured(figures) for goal in goals.GOALS if goal.of == name}


def _pace(rate: float) -> loads.Pace:
    return loads.Pace(rate, 1e6 / rate, 2e6 / rate, 1e6 / rate, 100)


BARS = Bars(
    name="bars", title="Bars", value_label="ms", series={"p50": {"a": 1.0, "b": 2000.0}, "p99": {"a": 3.0}}, log=True
)
LINES = Lines(name="lines", title="Lines", x_label="records", y_label="us", series={"time": [(1, 5.0), (10, 5.5)]})


@pytest.mark.parametrize(
    "chart", [BARS, dataclasses.replace(BARS, log=False), LINES, dataclasses.replace(LINES, log_y=True)]
)
def test_a_chart_becomes_a_png_900_pixels_wide_and_an_svg_with_its_texts(chart: Chart, tmp_path: Path) -> None:
    png, svg = plots.draw(chart, tmp_path)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(png.read_bytes()[16:20]) == 900
    assert chart.title in svg.read_text()
    # The same figures are the same file: a new run changes only what changed.
    assert plots.draw(chart, tmp_path)[1].read_bytes() == svg.read_bytes()


def _result(name: str, *, figures: dict[str, float] | None = None, charts: tuple[Chart, ...] = ()) -> Result:
    table = Table(head=["case", "ms"], rows=[["a", "1"]])
    report = Report(title=f"About {name}", prose="Prose.", tables=[table], figures=figures or {}, charts=charts)
    return Result(name=name, report=report, command=f"bench {name}", date="2026-01-02", machine="one", load="Load 1")


def test_a_result_is_read_as_it_was_kept(tmp_path: Path) -> None:
    result = _result("append", figures={"ratio": 1.5}, charts=(BARS, LINES))
    results.keep(result, tmp_path)
    (found,) = results.kept(tmp_path, ["append", "idle"])
    assert found.report.figures == {"ratio": 1.5}
    assert found.report.tables == result.report.tables
    assert found.report.charts[0] == BARS
    assert plots.draw(found.report.charts[1], tmp_path)[0].exists()
    assert (found.command, found.date, found.machine, found.load) == ("bench append", "2026-01-02", "one", "Load 1")


def test_a_document_begins_with_the_goals_and_shows_plots_and_the_run_of_each_section(tmp_path: Path) -> None:
    one, other = (
        _result("append", figures={"Node.submit cpu us": 50.0, "XADD cpu us": 40.0}, charts=(BARS,)),
        _result("idle", charts=(LINES,)),
    )
    plots.draw(BARS, tmp_path)
    text = results.document([one, other], plots_below=tmp_path, images="benchmarks")
    assert text.index("## Goals") < text.index("## About append") < text.index("## About idle")
    first = goals.GOALS[0]
    assert f"| {first.name} | {first.gives} | at most 1.4 x | 1.25 x | yes |" in text
    assert "![Bars](benchmarks/bars.png)" in text
    # What was not drawn is not shown.
    assert "lines.png" not in text
    for name in ("append", "idle"):
        assert f"- Command: `bench {name}`" in text


# --- What others bring ---------------------------------------------------------------------------------------------


def test_a_program_is_found_in_the_directory_of_peers_with_its_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(binaries.DIRECTORY_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert binaries.find_program("no-such-server") is None
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "usr/lib/any").mkdir(parents=True)
    program = tmp_path / "usr/sbin/no-such-server"
    program.write_text("#!/bin/sh\necho version of $LD_LIBRARY_PATH\n")
    program.chmod(0o755)
    found = binaries.find_program("no-such-server")
    assert found is not None
    assert found.path == program
    assert found.version == f"version of {tmp_path / 'usr/lib/any'}"
    # One that does not run is as good as none.
    program.write_text("#!/bin/sh\nexit 1\n")
    assert binaries.find_program("no-such-server") is None


def test_a_package_that_cannot_be_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[str, ...]] = []

    def fetch(names: list[str], _: Path) -> bool:
        fetched.append(tuple(names))
        return names == ["valkey-tools"]

    monkeypatch.setattr(install_peers, "_fetched", fetch)
    monkeypatch.setattr(install_peers.shutil, "which", lambda name: name)
    result = CliRunner().invoke(install_peers.main, ["--into", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "redis-benchmark: valkey-tools" in result.output
    assert "etcd: no package could be fetched" in result.output


def test_peers_cannot_be_fetched_without_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_peers.shutil, "which", lambda _: None)
    result = CliRunner().invoke(install_peers.main, [])
    assert result.exit_code == 1
    assert "needs apt-get" in result.output


# --- The command ---------------------------------------------------------------------------------------------------


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
    assert (tmp_path / "benchmarks/append.json").exists()
    with plain_client(any_redis.url) as client:
        assert client.keys("*bench-*") == []


def test_a_run_of_some_benchmarks_keeps_the_sections_of_others(
    any_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "QUICK", append.Sizes(rounds=1, seconds=0.02))
    out = tmp_path / "benchmarks.md"
    results.keep(_result("idle", figures={"cpu share": 0.001, "resident MB": 40.0}), tmp_path / "benchmarks")
    results.keep(_result("append"), tmp_path / "benchmarks")
    result = CliRunner().invoke(main, ["append", "--quick", "--redis", any_redis.url, "--out", str(out)])
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "## About idle" in text
    assert "| at most 60 MB | 40 MB | yes |" in text
    # The new one is in the place of the old one.
    assert "## About append" not in text
    assert text.index("## Fenced append") < text.index("## About idle")


def test_a_benchmark_that_fails_does_not_take_the_others_with_it(
    any_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Report:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(append, "QUICK", append.Sizes(rounds=1, seconds=0.02))
    monkeypatch.setattr(applied, "measure", fails)
    out = tmp_path / "benchmarks.md"
    result = CliRunner().invoke(main, ["applied", "append", "--quick", "--redis", any_redis.url, "--out", str(out)])
    assert result.exit_code == 1
    assert "not measured, see above: applied" in result.output
    assert "## Fenced append" in out.read_text()


def test_a_document_is_drawn_anew_from_what_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "benchmarks.md"
    results.keep(_result("idle", charts=(LINES,)), tmp_path / "benchmarks")
    (tmp_path / "benchmarks/lines.png").unlink()
    result = CliRunner().invoke(main, ["--redraw", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "## About idle" in out.read_text()
    assert "![Lines](benchmarks/lines.png)" in out.read_text()
    assert CliRunner().invoke(main, ["--redraw"]).exit_code == 2


def test_the_document_of_the_project_is_what_is_kept_and_has_every_goal() -> None:
    # What was written into the document alone would be lost with the next run: `python -m bench --redraw --out FILE`.
    docs = Path(__file__).parents[2] / "docs"
    text = (docs / "benchmarks.md").read_text()
    directory = docs / "benchmarks"
    assert text == results.document(results.kept(directory, BENCHMARKS), plots_below=directory, images=directory.name)
    for goal in GOALS:
        assert f"| {goal.name} |" in text


def test_a_bare_socket_logs_in_and_selects(any_redis: RedisServer) -> None:
    with contextlib.closing(bare.BareSocket(f"{any_redis.url}?db=3")) as connection:
        assert b" db=3 " in connection.command("CLIENT", "INFO")
