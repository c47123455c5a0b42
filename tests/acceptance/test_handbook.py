"""Every incident of the handbook (docs/handbook*.md) is played, and the real commands say what the pages show.

`REWRITE=1 pytest tests/acceptance/test_handbook.py` (without `-n`) writes down what they say now; read the difference
before you keep it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from replicator import ops
from replicator.metrics import files
from tests.conftest import RedisFactory
from tests.support.fake_clock import LIBRARIES, environment, set_clock
from tests.support.handbook import DOCS, PAGES, section_titles, slug, text_of
from tests.support.incident import Incident
from tests.support.kv import eventually
from tests.support.needs import needs
from tests.support.small_disk import can_mount, fill, mount, unmount

Begin = Callable[..., Incident]

AUTO = {"auto_promote": True}

#: The first term of the next run of Redis, of which the first term was 1.
ERA = 2**20 + 1


@pytest.fixture
def begin(redis_factory: RedisFactory, tmp_path: Path) -> Begin:
    """The incident of that title, on a Redis of its own."""

    def begin(title: str) -> Incident:
        return Incident(title, redis_factory(port=0), tmp_path)

    return begin


# --- nobody writes, or another node does ------------------------------------------------------------------------------


def test_a_primary_that_died(begin: Begin) -> None:
    with begin("The primary died, and failover is not automatic") as it:
        a = it.process("a")
        it.group(a)
        it.register("a", "web-1")
        it.settle()
        a.kill()
        it.shows("replicator status", "a holds term 1, and has not reported", "lease none")
        it.alerts()
        it.does("replicator promote b")
        it.is_over("b takes writes")


def test_a_primary_that_died_and_was_followed(begin: Begin) -> None:
    with begin("The primary died, and a standby took over") as it:
        a = it.process("a", "--auto-promote")
        it.group(a, b=AUTO)
        a.kill()
        it.shows("replicator status", "b takes writes", "a     -        no")
        it.shows("replicator history", "takeover")
        it.alerts()
        a.start()
        it.settle()
        it.shows("replicator status", "a     standby  yes")


def test_a_primary_that_hangs(begin: Begin) -> None:
    with begin("The primary hangs") as it:
        a = it.process("a", "--auto-promote")
        it.group(a, b=AUTO)
        a.signal(signal.SIGSTOP)
        it.shows("replicator status", "b takes writes", "a     -        no")
        it.alerts()
        it.shows("curl -s -m 2 http://a.internal:8001/live || echo no answer", "no")
        a.signal(signal.SIGCONT)
        it.settle()
        it.shows("curl -s http://a.internal:8001/primary", "standby")


def test_an_application_that_hangs(begin: Begin) -> None:
    with begin("The application of the primary hangs") as it:
        loop = it.node("a", hangs=True)
        it.group(loop, b=AUTO)
        loop.hang()
        it.shows("replicator status", "b takes writes", "does not turn")
        it.shows("curl -s http://a.internal:8001/ready", "unhealthy")
        it.alerts()
        loop.turn()
        it.settle()
        it.shows("replicator status", "a     standby  yes")


def test_a_node_that_is_cut_off(begin: Begin) -> None:
    with begin("A node is cut off from Redis") as it:
        it.group(b=AUTO)
        it.cut_off("a")
        it.shows("replicator status", "b takes writes", "a     -        no")
        it.shows("curl -s http://a.internal:8001/primary", "503", "refused")
        it.alerts()
        it.reconnect("a")
        it.settle()
        it.shows("replicator status", "a     standby  yes")


def test_a_pause_that_was_forgotten(begin: Begin) -> None:
    with begin("Failover is paused, and nobody leads") as it:
        it.group(b=AUTO)
        with it.log() as log:
            ops.pause(log, by="ops", reason="kernel upgrade")
        it.shows("replicator status", "paused")
        it.gone("a")
        it.shows("replicator status", "a holds term 1", "lease none")
        it.alerts()
        it.does("replicator resume")
        it.is_over("b takes writes")


def test_a_demotion_that_was_forgotten(begin: Begin) -> None:
    with begin("The primary was demoted, and nobody was promoted") as it:
        it.group(b=AUTO)
        with it.log() as log:
            ops.demote(log, by="ops", reason="a new schema")
        it.shows("replicator status", "demoted")
        it.shows("replicator history", "demote")
        it.alerts()
        it.does("replicator promote a")
        it.is_over("a takes writes")


# --- Redis ------------------------------------------------------------------------------------------------------------


def test_a_redis_that_is_down(begin: Begin) -> None:
    with begin("Redis is down") as it:
        it.group()
        it.kill_redis()
        it.shows("replicator status", "Error")
        it.shows("curl -s http://a.internal:8001/primary", "503", "refused")
        it.shows("curl -s http://b.internal:8001/read-only", "standby", '"lag_records":null')
        it.alerts()
        it.start_redis()
        it.settle(term=ERA)
        it.shows("replicator status", "a takes writes")


def test_a_redis_that_is_full(begin: Begin) -> None:
    with begin("Redis is full") as it, it.admin() as redis:
        it.group(b=AUTO)
        redis.config_set("maxmemory", 500_000)
        it.shows("replicator status", "no node reports")
        it.shows("replicator doctor | grep problem", "maxmemory")
        it.shows("curl -s http://a.internal:8001/primary", "503")
        it.alerts()
        with it.without("b"):  # which may be the first to lead then, as the page says
            redis.config_set("maxmemory", 100_000_000)
            it.leads("a")
        it.settle()
        it.shows("replicator status", "a takes writes")


def test_a_redis_that_was_emptied(begin: Begin) -> None:
    with begin("Redis was emptied") as it, it.admin() as redis:
        it.group(b=AUTO)
        it.register("a", "web-1")
        it.settle()
        redis.flushall()
        it.shows("replicator status", "lost the log", "a     standby", "b     standby", "c     standby")
        it.alerts()
        it.does("replicator recover")
        it.settle()
        it.shows("replicator status", "takes writes, at")


def test_a_redis_that_failed_over(begin: Begin, redis_factory: RedisFactory) -> None:
    with begin("Redis failed over, and lost something") as it:
        replica = redis_factory(config={"replicaof": ["127.0.0.1", str(it.server.port)], "repl-diskless-sync-delay": 0})
        it.group()
        it.register("a", "web-1")
        it.settle()
        it.fail_over(replica, losing=lambda: it.register("a", "web-2"))
        it.settle(term=ERA)
        it.shows("replicator status", "a takes writes")
        it.shows("replicator history", "takeover")
        it.alerts()


def test_nodes_that_are_missing_since(begin: Begin) -> None:
    with begin("Redis came back, and nodes are missing") as it:
        ack = {"ack": "applied:1"}
        it.group(ack, b=ack, c=ack | AUTO)
        it.register("a", "web-1")
        it.settle()
        it.gone("a", "b")
        it.server.restart()
        it.shows("replicator status", "may have changes")
        it.alerts()
        it.reconnect("b")
        it.is_over("c takes writes")


def test_a_stray_record(begin: Begin) -> None:
    with begin("Something else wrote into the log") as it, it.admin() as redis:
        it.group(b=AUTO)
        it.register("a", "web-1")
        it.settle()
        redis.xadd("replicator:{registry}:log", {"event": "deploy", "version": "1.4.2"})
        it.shows("replicator status", "not a record", "lease none")
        it.shows("replicator log --after 1-1", "not a record")
        it.alerts()
        it.does("replicator recover")
        it.is_over("takes writes, at")


# --- one node ---------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_wrong(begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(bool(LIBRARIES), "libfaketime")
    of_node, of_redis = tmp_path / "clock-of-a", tmp_path / "clock-of-redis"
    set_clock(of_node, 300)
    set_clock(of_redis, 0)
    with monkeypatch.context() as patch:
        for name, value in environment(of_redis).items():
            patch.setenv(name, value)
        incident = begin("A clock is wrong")
    with incident as it:
        it.group(it.process("a", environment=environment(of_node)))
        it.register("a", "web-1")
        it.settle()
        it.shows("replicator status", "ahead of Redis' clock")
        set_clock(of_node, 0)
        it.register("a", "web-2")
        it.shows("replicator doctor | grep clocks", "ok")
        set_clock(of_redis, -3600)
        it.shows("replicator doctor | grep clocks", "warning", "the newest record")
        it.shows('replicator status | grep -E "writes|^PROBLEM"', "a takes writes")
        it.alerts()


def test_one_of_three_is_left(begin: Begin) -> None:
    with begin("One of three is left") as it:
        it.group()
        it.gone("b", "c")
        it.shows("replicator status", "no standby is left")
        it.alerts()
        it.reconnect("b", "c")
        it.is_over("a takes writes")


def test_a_disk_that_is_full(begin: Begin) -> None:
    needs(can_mount(), "root, to mount a disk of 8 MB")
    with begin("The disk of a node is full") as it:
        place = it.directory / "b"
        place.mkdir()
        mount(place, 8 * 1024 * 1024)
        it.at_end(lambda: unmount(place))
        it.group()
        fill(place / "core.4711")
        for number in range(64):
            it.register("a", f"web-{number}" + "x" * 200)
        it.shows("replicator status", "full")
        it.shows("df -h /var/lib/replicator/b", "100%")
        it.alerts()
        (place / "core.4711").unlink()
        it.settle()
        it.shows("replicator status", "b     standby  yes")


def test_a_checkpoint_that_is_corrupt(begin: Begin) -> None:
    with begin("A checkpoint is corrupt") as it:
        it.group()
        it.register("a", "web-1")
        it.settle()
        it.stop("b")
        (it.directory / "b" / "checkpoint.sqlite").write_bytes(b"\0" * 4096)
        it.node("b")
        it.settle()
        it.shows("ls /var/lib/replicator/b", "damaged")
        it.alerts()
        it.does("replicator verify")


def test_two_nodes_of_one_name(begin: Begin) -> None:
    with begin("Two nodes have one name") as it:
        it.group()
        it.does("replicator node --name b --data-dir /var/lib/replicator/new-b")
        it.does("replicator node --name b --data-dir /var/lib/replicator/b")


def test_a_node_in_the_wrong_group(begin: Begin) -> None:
    with begin("A node was started with the wrong group") as it:
        it.group()
        it.node("d", group="regsitry")
        it.shows("replicator why d", "no node d")
        it.shows("replicator groups", "regsitry")


def test_a_node_of_another_application(begin: Begin) -> None:
    with begin("A node of another application was started") as it:
        it.group()
        it.does("replicator node --name d --data-dir /var/lib/replicator/d --app orders")


def test_a_state_that_differs(begin: Begin) -> None:
    with begin("The state of a standby differs") as it:
        it.group()
        it.register("a", "web-1")
        it.settle()
        it.spoil("b")
        it.run("replicator verify")
        eventually(lambda: it.forks("b") == 1, "it is rebuilt by itself, the first time", patience_s=180)
        it.settle()
        it.spoil("b")
        it.does("replicator verify")
        it.shows("replicator status", "PROBLEM", "b     standby  yes", "its state differs from the primary's at")
        it.alerts()
        it.does("replicator reinit b")
        it.settle()
        it.does("replicator verify")
        it.shows("replicator forks list --data-dir /var/lib/replicator/b", "b")


# --- the pages --------------------------------------------------------------------------------------------------------

INDEX = (DOCS / "handbook.md").read_text()

LINK = re.compile(r"\((handbook-\w+)\.md#([\w-]+)\)")

SECTIONS = {(page.stem, slug(title)): title for page in PAGES for title in section_titles(page)}


def test_every_section_is_in_the_tables_and_is_played() -> None:
    listed = {(page, anchor) for page, anchor in LINK.findall(INDEX)}
    assert listed == {(page, anchor) for page, anchor in SECTIONS if page != "handbook"}
    played = set(re.findall(r'begin\("(.+?)"\)', Path(__file__).read_text()))
    assert played == {title for (page, _), title in SECTIONS.items() if page != "handbook"}


def test_what_the_table_quotes_is_what_the_section_shows() -> None:
    rows = [row for row in INDEX.splitlines() if LINK.search(row) and "`" in row.split("|")[1]]
    assert len(rows) > 15
    for row in rows:
        for page, anchor in LINK.findall(row):
            for quoted in re.findall("`([^`]+)`", row.split("|")[1]):
                assert quoted in text_of(SECTIONS[page, anchor]), (quoted, anchor)


def test_every_alert_leads_to_a_section_or_a_page() -> None:
    alerts = [rule for group in yaml.safe_load(files.rules())["groups"] for rule in group["rules"]]
    for rule in alerts:
        page, _, anchor = rule["annotations"]["runbook_url"].removeprefix("docs/").partition("#")
        assert (DOCS / page).is_file(), rule["alert"]
        assert not anchor or (Path(page).stem, anchor) in SECTIONS, rule["alert"]


def test_every_alert_that_wakes_somebody_is_in_the_handbook() -> None:
    told = "".join(page.read_text() for page in PAGES)
    alerts = [rule for group in yaml.safe_load(files.rules())["groups"] for rule in group["rules"]]
    pages = {rule["alert"] for rule in alerts if rule["labels"]["severity"] == "page"}
    assert {alert for alert in pages if f"`{alert}`" not in told} == NOT_IN_IT


#: What fires for a group of which Prometheus does not see all; what takes a master that was replaced and runs on; and
#: what docs/skip.md and docs/proxy.md are about.
NOT_IN_IT = {"ReplicatorLeaderDoesNotWrite", "ReplicatorTwoWriters", "ReplicatorStalled", "ReplicatorProxyGivesUp"}
