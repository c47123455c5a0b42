"""Metrics from the outside: the rules and the dashboard name what there is, and a Prometheus sees a failover."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from click.testing import CliRunner
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from replicator import ops
from replicator.cli import cli
from replicator.log.redis_log import RedisLog
from replicator.metrics import files
from replicator.metrics.catalogue import METRICS
from replicator.sandbox.free_ports import free_ports
from replicator.sandbox.redis_server import RedisServer
from tests.support.dashboard import in_words, with_variables
from tests.support.kv import PATIENCE_S, eventually
from tests.support.prometheus import Prometheus, promtool, running

HERE = Path(__file__).parent
RULES = HERE.parents[1] / "replicator" / "metrics" / "rules.yml"
CASES = HERE / "rules.test.yml"

#: Panels that may show nothing, of a query or of all, through a failover by hand: of what is wrong, what was not wrong
#: here, how full a Redis is that has no limit, and what proxies do, of which these nodes have none.
MAY_SHOW_NOTHING = {
    *("What is wrong", "Not ready", "Redis memory"),
    *("Requests by what became of them", "Waited for a program, p99", "Waiting for a program"),
}


def alerts() -> dict[str, Any]:
    found = [rule for group in yaml.safe_load(files.rules())["groups"] for rule in group["rules"]]
    return {rule["alert"]: rule for rule in found}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(files.dashboard())["panels"]
    return found


def queries() -> list[tuple[str, str]]:
    """Those of the dashboard, as Grafana sends them, each after the title of its panel."""
    dashboard = json.loads(files.dashboard())
    told = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", ())]
    told += [(each["name"], each["expr"]) for each in dashboard["annotations"]["list"]]
    return [(title, with_variables(query)) for title, query in told]


def first_row() -> dict[str, list[str]]:
    """The panels at the very top, and their queries."""
    top = [panel for panel in panels() if panel["gridPos"]["y"] == 0]
    return {panel["title"]: [with_variables(target["expr"]) for target in panel["targets"]] for panel in top}


def names_in(text: str) -> set[str]:
    """The metrics that a text names. A histogram has its buckets."""
    found = re.findall(r"\breplicator_[a-z_]+", text)
    return {name.removesuffix("_bucket") if name.endswith("_bucket") else name for name in found}


# --- The files --------------------------------------------------------------------------------------------------------


def test_every_metric_that_a_file_names_is_there() -> None:
    told = names_in(files.rules()) | names_in(files.dashboard()) | names_in(CASES.read_text())
    assert told <= set(METRICS), told - set(METRICS)
    assert len(told) > 30, "the pattern finds them"


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", str(RULES))


def test_every_alert_fires_where_it_is_to_and_nowhere_else() -> None:
    promtool("test", "rules", str(CASES))


def test_every_alert_has_a_case_in_which_it_fires_words_and_a_severity() -> None:
    fires = set(re.findall(r'alertname="(\w+)"', CASES.read_text()))
    assert fires == set(alerts())
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("page", "ticket", "info"), name
        assert set(rule["annotations"]) == {"runbook_url", "summary", "description"}, name
        assert "$labels.group" in rule["annotations"]["summary"], name


def test_the_page_of_the_documentation_says_what_to_do_about_every_alert() -> None:
    page = (HERE.parents[1] / "docs" / "metrics.md").read_text()
    assert re.findall(r"^\| `(Replicator\w+)`", page, re.M) == list(alerts())


def test_the_dashboard_is_one_of_grafana() -> None:
    register_default_plugins()
    told = json.loads(files.dashboard())
    taken = json.loads(JSONEncoder().encode(Dashboard.from_json(told)))
    assert _without_more(taken, told) == told, "what Grafana's own types do not have they leave out"


def _without_more(taken: Any, told: Any) -> Any:
    """What was taken, without what was not told."""
    if isinstance(taken, dict) and isinstance(told, dict):
        return {name: _without_more(value, told[name]) for name, value in taken.items() if name in told}
    if isinstance(taken, list) and isinstance(told, list) and len(taken) == len(told):
        return [_without_more(one, other) for one, other in zip(taken, told, strict=True)]
    return taken


def test_the_top_of_the_dashboard_says_who_may_write_and_what_is_wrong() -> None:
    top = [panel for panel in panels() if panel["gridPos"]["y"] < 8]
    assert {panel["type"] for panel in top} == {"stat"}
    assert [top[0]["title"], top[0]["gridPos"]["x"], top[0]["gridPos"]["y"]] == ["May write", 0, 0]
    writers, standbys = "Nodes that may write", "Groups without a standby that could take over"
    assert list(first_row()) == ["May write", writers, standbys, "What is wrong", "Alerts"]
    # in words: nobody, two, what is wrong and which alerts
    told = {panel["title"]: panel for panel in top}
    assert "0: nobody" in json.dumps(told[writers]["fieldConfig"])
    for title, words in (("What is wrong", "{{node}}: {{kind}}"), ("Alerts", "{{group}}: {{alertname}}")):
        assert told[title]["targets"][0]["legendFormat"] == words
        assert told[title]["options"]["textMode"] == "name"
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"], panel["title"]


def test_every_alert_of_an_incident_of_the_handbook_shows_in_the_first_row() -> None:
    """`Alerts` shows what fires by its name, of a group: so each has to be of one, and to be an alert."""
    pages = [page.read_text() for page in (HERE.parents[1] / "docs").glob("handbook-*.md")]
    sections = [section for page in pages for section in page.split("\n## ")[1:] if "\nAlerts: " in section]
    assert len(sections) > 12
    for section in sections:
        told = set(re.findall(r"`(Replicator\w+)`", section.partition("\nAlerts: ")[2].partition("\n\n")[0]))
        assert told, section.partition("\n")[0]
        assert told <= set(alerts())
        for name in told:
            assert "$labels.group" in alerts()[name]["annotations"]["summary"], name


def test_every_query_of_the_dashboard_can_be_parsed(tmp_path: Path) -> None:
    rules = [{"record": f"replicator:query:{number}", "expr": query} for number, (_, query) in enumerate(queries())]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


@pytest.mark.parametrize(("name", "text"), [("rules", files.rules()), ("dashboard", files.dashboard())])
def test_the_command_prints_them(name: str, text: str) -> None:
    result = CliRunner().invoke(cli, ["metrics", name])
    assert (result.exit_code, result.stdout) == (0, text)


def test_the_command_lists_all_metrics() -> None:
    result = CliRunner().invoke(cli, ["metrics", "list"])
    assert result.exit_code == 0
    assert names_in(result.stdout) == set(METRICS)


# --- Real processes ---------------------------------------------------------------------------------------------------


class Nodes:
    """`replicator node` as processes, each on a port that is known before."""

    def __init__(self, server: RedisServer, directory: Path) -> None:
        self.log = RedisLog(server.url, "g")
        self.ports = dict(zip("abc", free_ports(3), strict=True))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._server, self._directory = server, directory

    def start(self, name: str, *options: str) -> None:
        program = "from replicator.cli import main; main()"
        command = [sys.executable, "-c", program, "--redis", self._server.url, "--group", "g", "node"]
        command += ["--name", name, "--data-dir", str(self._directory / name), "--lease-s", "2"]
        command += ["--http", f"127.0.0.1:{self.ports[name]}", *options]
        with (self._directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ})

    def scraped(self, name: str) -> dict[str, float]:
        """The samples of a node without a further label; empty: it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}/metrics", timeout=PATIENCE_S) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
        return {each.name: each.value for each in samples if len(each.labels) == 2}

    def close(self) -> None:
        self.log.close()
        for process in self.processes.values():
            process.kill()
            process.wait(PATIENCE_S)


@pytest.fixture
def nodes(any_redis: RedisServer, tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(any_redis, tmp_path)
    yield nodes
    nodes.close()


def test_a_scrape_is_answered_while_redis_hangs(redis_factory: Any, tmp_path: Path) -> None:
    server = redis_factory()
    nodes = Nodes(server, tmp_path)
    try:
        nodes.start("a")
        eventually(lambda: nodes.scraped("a").get("replicator_up") == 1, patience_s=180)
        ops.promote(nodes.log, "a", by="test", timeout_s=PATIENCE_S)
        eventually(lambda: nodes.scraped("a").get("replicator_may_write") == 1)
        server.pause()
        try:
            eventually(lambda: nodes.scraped("a").get("replicator_may_write") == 0)
            eventually(lambda: nodes.scraped("a").get("replicator_look_age_seconds", 0) > 3)
        finally:
            server.resume()
        eventually(lambda: nodes.scraped("a").get("replicator_may_write") == 1)
    finally:
        nodes.close()


def quick(rules: str) -> str:
    """The same rules, which do not wait for anything to last."""
    return re.sub(r"^(\s+for:).*$", r"\1 2s", rules, flags=re.M)


@pytest.mark.slow
def test_a_prometheus_sees_a_failover_and_its_alerts_fire_and_clear(nodes: Nodes, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(quick(files.rules()))
    began = time.time()
    for name in "abc":
        nodes.start(name)
    eventually(lambda: len(ops.status(nodes.log).nodes) == 3, patience_s=180)
    ops.promote(nodes.log, "a", by="test", timeout_s=PATIENCE_S)
    targets = [f"127.0.0.1:{port}" for port in nodes.ports.values()]
    with running(tmp_path / "prometheus", targets, rules) as prometheus:
        # given a group that is well, and rules that were loaded
        eventually(lambda: prometheus.value("replicator_may_write") == {"a": 1, "b": 0, "c": 0}, patience_s=180)
        loaded = [rule for each in prometheus.ask("rules")["groups"] for rule in each["rules"]]
        assert {rule["name"] for rule in loaded} == set(alerts())
        eventually(lambda: not prometheus.firing, "no alert", patience_s=180)
        eventually(lambda: first_row_in_words(prometheus) == WELL, patience_s=180)
        assert all(rule["health"] in ("ok", "unknown") for rule in prometheus.ask("rules")["groups"][0]["rules"])
        # when its primary dies, and failover is not automatic
        nodes.processes["a"].send_signal(signal.SIGKILL)
        expected = {"ReplicatorNoWriter", "ReplicatorNoAutomaticFailover", "ReplicatorNodeMissing"}
        eventually(lambda: expected <= prometheus.firing, "the alerts", patience_s=180)
        # then the first row of the dashboard says so in words
        eventually(lambda: first_row_in_words(prometheus)["May write"] == ["NOBODY"], patience_s=180)
        eventually(lambda: first_row_in_words(prometheus)["Nodes that may write"] == ["g: 0: nobody"], patience_s=180)
        told = {f"g: {alert}" for alert in expected}
        eventually(lambda: told <= set(first_row_in_words(prometheus)["Alerts"]), patience_s=180)
        # and it is told until somebody is promoted
        ops.promote(nodes.log, "b", by="test", timeout_s=PATIENCE_S)
        eventually(lambda: prometheus.value("replicator_may_write") == {"b": 1, "c": 0}, patience_s=180)
        eventually(
            lambda: not prometheus.firing & {"ReplicatorNoWriter", "ReplicatorNoAutomaticFailover"}, patience_s=180
        )
        nodes.start("a", "--on-restart", "standby")
        eventually(lambda: "ReplicatorNodeMissing" not in prometheus.firing, patience_s=180)
        eventually(lambda: prometheus.value("replicator_could_take_over") == {"a": 1, "b": 0, "c": 1}, patience_s=180)
        eventually(lambda: first_row_in_words(prometheus) == {**WELL, "May write": ["g: b"]}, patience_s=180)
        # and every other panel has shown something meanwhile
        assert set(found := without_data(prometheus, time.time() - began)) <= MAY_SHOW_NOTHING, found


#: What the first row says of a group that is well.
WELL = {
    "May write": ["g: a"],
    "Nodes that may write": ["g: 1"],
    "Groups without a standby that could take over": ["0"],
    "What is wrong": ["nothing"],
    "Alerts": ["none"],
}


def first_row_in_words(prometheus: Prometheus) -> dict[str, list[str]]:
    return {panel["title"]: in_words(panel, prometheus) for panel in panels() if panel["gridPos"]["y"] == 0}


def without_data(prometheus: Prometheus, seconds: float) -> dict[str, list[str]]:
    """The queries of the dashboard that gave nothing in these last seconds, by their panels."""
    now = time.time()
    found: dict[str, list[str]] = {}
    for title, query in queries():
        told = prometheus.ask("query_range", query=query, start=str(now - seconds), end=str(now), step="1")
        if not told["result"]:
            found.setdefault(title, []).append(query)
    return found


# --- How full Redis is ------------------------------------------------------------------------------------------------


def test_redis_says_how_full_it_is(redis_factory: Any) -> None:
    server = redis_factory(config={"maxmemory": "64mb"})
    log = RedisLog(server.url, "g")
    memory = log.memory()
    assert memory is not None
    assert memory.most == 64 * 1024 * 1024
    assert 100_000 < memory.used < memory.most
    log.close()


def test_a_redis_without_a_limit_says_0(any_redis: RedisServer) -> None:
    log = RedisLog(any_redis.url, "g")
    memory = log.memory()
    assert memory is not None
    assert memory.most == 0
    log.close()


def test_a_user_that_may_not_ask_is_told_nothing(redis_factory: Any) -> None:
    log = RedisLog(redis_factory().url, "g")
    asked: list[bytes] = []

    def refused(*command: Any, **_: Any) -> Any:
        asked.append(command[0])
        raise redis.exceptions.NoPermissionError("this user has no permissions to run the 'info' command")

    log._other.call = refused  # a node of such a user finds no master at all, and says so elsewhere
    assert (log.memory(), asked) == (None, [b"INFO"])
    log.close()
