"""The command line against real groups: exit codes, what goes to stdout and to stderr, and JSON as a contract."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from replicator import Fenced, LogUnavailable, Node, OutcomeUnknown, ops
from replicator.cli import cli
from replicator.errors import name_of
from replicator.format.ids import RecordId
from replicator.log.finders import client_for
from replicator.log.redis_log import RedisLog
from replicator.protocol.heartbeat import Heartbeat
from replicator.registry.api import registry_app
from replicator.registry.state import Registry
from replicator.sandbox.redis_server import RedisServer
from replicator.web.server import WebServer
from tests.support.kv import LEASE_S, PATIENCE_S, eventually, in_step
from tests.support.node_process import NodeProcess
from tests.support.worlds import promote

NODE_FIELDS = {
    "node": str, "boot": str, "role": str, "term": int, "position": str, "lag_records": int, "lag_ms": int,
    "in_sync": bool, "alive": bool, "http": (str, type(None)), "problem": (str, type(None)),
    "diverged_id": (str, type(None)), "age_ms": int, "version": int, "reads_min": int, "reads_max": int,
    "behind_ms": int,
    "leads": bool, "ready": bool, "codes": list, "candidate": bool, "last_error": (str, type(None)),
    "last_error_at": (int, type(None)),
    "fork_count": int,
    "fork_id": (str, type(None)),
    "stale_count": int,
    "kept_count": int,
    "has_program": bool,
}  # fmt: skip

STATUS_FIELDS = {
    "group": str, "log_id": str, "run": str, "term": int, "holder": str, "last_id": str, "lease_ms": int,
    "record_count": int, "log_bytes": int, "snapshot_bytes": int, "changes_bytes": int, "kept_bytes": int,
    "nodes": list, "problem": (str, type(None)), "warnings": list, "app": str, "version": int, "since_at": int,
    "codes": list, "problems": list, "era": int,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("REPLICATOR_") and name != "REPLICATOR_REDIS_SERVER"]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(any_redis: RedisServer) -> Callable[..., Result]:
    """Run a command on the group `g` of the test's Redis."""

    def run(*args: str, **options: Any) -> Result:
        return CliRunner().invoke(cli, ["--redis", any_redis.url, "--group", "g", *args], **options)

    return run


@pytest.fixture
def pair(any_redis: RedisServer, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """A primary that serves HTTP, and a standby."""
    nodes = [
        Node(Registry(), group="g", name=name, redis=any_redis.url, data_dir=tmp_path / name, lease_s=LEASE_S)
        for name in "ab"
    ]
    a, b = nodes
    with a, b, WebServer(registry_app(a)) as server:
        a.announce(server.url)
        a.promote(timeout_s=PATIENCE_S)
        log = RedisLog(any_redis.url, "g")
        eventually(lambda: [node.http for node in ops.status(log).nodes] == [server.url, None])
        eventually(lambda: ops.status(log).nodes[0].role == "primary")
        eventually(lambda: all(node.ready and node.position == "1-1" for node in ops.status(log).nodes))
        log.close()
        yield a, b


def has_fields(value: dict[str, Any], fields: dict[str, Any]) -> None:
    assert list(value) == list(fields)
    for name, kind in fields.items():
        assert isinstance(value[name], kind), name


def register(node: Node, hostname: str = "db1") -> None:
    node.submit(
        {
            "op": "register",
            "hostname": hostname,
            "public_key": "AAAA",
            "real_addr": "10.0.0.1:1",
        }
    )


class TestStatus:
    def test_of_a_group_that_is_not_there_yet_says_so(self, run: Callable[..., Result]) -> None:
        result = run("status")
        assert result.exit_code == 3
        assert "no node of group 'g' has ever reported to unix://" in result.stderr
        assert "no node has reported yet" in result.stdout
        assert "holder nobody" in result.stdout
        assert json.loads(run("status", "--output", "json").stdout) | {"run": ""} == {
            "group": "g", "log_id": None, "run": "", "term": 0, "holder": None, "last_id": None, "lease_ms": None,
            "record_count": None, "log_bytes": None, "snapshot_bytes": None, "changes_bytes": None, "kept_bytes": None,
            "nodes": [], "problem": None, "warnings": [], "app": None, "version": None, "since_at": None, "codes": [],
            "problems": [], "era": 1,
        }  # fmt: skip

    @pytest.mark.parametrize("command", [["status"], ["status", "--output", "json"], ["history"], ["doctor"]])
    def test_of_a_group_that_nobody_knows_it_lists_those_that_there_are(
        self, run: Callable[..., Result], pair: tuple[Node, Node], command: list[str]
    ) -> None:
        result = run("--group", "typo", *command)
        assert result.exit_code == 3
        assert "the groups there are: g" in result.stderr.splitlines()[-1]

    def test_one_that_is_watched_ends_quietly_at_ctrl_c(
        self, run: Callable[..., Result], pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: Any) -> Iterator[Any]:
            yield []
            raise KeyboardInterrupt

        monkeypatch.setattr("replicator.cli.watch._looks", interrupted)
        result = run("status", "--watch")
        assert (result.exit_code, result.stderr) == (0, "")
        assert "holder a" in result.stdout

    def test_a_problem_is_in_the_exit_code(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        assert run("status").exit_code == 0
        run("demote")
        result = run("status")
        assert result.exit_code == 1
        assert (
            "PROBLEM  nobody holds the term: the primary was demoted, and no node takes over by itself" in result.stdout
        )

    def test_as_json_has_the_fields_of_the_contract(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        told = json.loads(run("status", "--output", "json").stdout)
        has_fields(told, STATUS_FIELDS)
        assert [node["node"] for node in told["nodes"]] == ["a", "b"]
        for node in told["nodes"]:
            has_fields(node, NODE_FIELDS)

    def test_as_a_table_shows_every_node(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        result = run("status")
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        assert re.match(r"group g   term 1   holder a   since [-0-9]{10} [:.0-9]{12} UTC   head 1-1   lease ", lines[0])
        assert re.fullmatch(r"a takes writes, at http://127.0.0.1:\d+", lines[1])
        assert lines[2].startswith("log 1 record, ")
        assert " B in Redis   snapshot 0 B   changes since 0 B, in the log 0 B" in lines[2]
        assert lines[4].split() == [
            "NODE",
            "ROLE",
            "ALIVE",
            "IN_SYNC",
            "TERM",
            "POSITION",
            "LAG",
            "REPORTED",
            "HTTP",
            "PROBLEM",
        ]
        assert [line.split()[:4] for line in lines[5:]] == [
            ["a", "primary", "yes", "yes"],
            ["b", "standby", "yes", "yes"],
        ]


class TestOperating:
    def test_promote_makes_the_node_the_primary(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        result = run("promote", "b", "--reason", "maintenance")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith("b leads in term 2, from 2-2 on (")
        assert pair[1].role == "primary"

    def test_promote_as_json(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        told = json.loads(run("promote", "b", "--output", "json").stdout)
        has_fields(told, {"primary": str, "term": int, "first_id": str, "took_ms": float})
        assert (told["primary"], told["term"], told["first_id"]) == ("b", 2, "2-2")

    def test_promoting_an_unknown_node_is_refused(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        result = run("promote", "zz")
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith("Error: zz should not be promoted: no node of that name has reported")

    def test_another_term_than_the_expected_one_is_refused(
        self, run: Callable[..., Result], pair: tuple[Node, Node]
    ) -> None:
        result = run("promote", "b", "--expect-term", "7")
        assert result.exit_code == 3
        assert "the term is 1, held by a" in result.stderr
        assert run("promote", "b", "--expect-term", "1").exit_code == 0

    def test_a_node_that_does_not_lead_in_time_is_a_failure(
        self, run: Callable[..., Result], any_redis: RedisServer
    ) -> None:
        log = RedisLog(any_redis.url, "g")
        log.beat(Heartbeat("b", "1", run=log.look().run, every_ms=60_000))
        result = run("promote", "b", "--timeout", "2")
        assert result.exit_code == 1
        assert "does not lead yet" in result.stderr
        log.close()

    def test_demote_leaves_nobody_leading(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        result = run("demote")
        assert result.exit_code == 0
        assert result.stdout.startswith("no node holds term 2")
        again = run("demote")
        assert (again.exit_code, again.stdout) == (3, "")
        assert "nothing to demote" in again.stderr

    def test_snapshot_tells_its_place_on_stdout_and_its_progress_on_stderr(
        self, run: Callable[..., Result], pair: tuple[Node, Node]
    ) -> None:
        result = run("snapshot", "--output", "json")
        assert result.exit_code == 0
        assert json.loads(result.stdout) == {"as_of": "1-1"}
        assert "asked a for a snapshot" in result.stderr

    def test_without_a_primary_a_snapshot_is_refused(self, run: Callable[..., Result]) -> None:
        result = run("snapshot")
        assert (result.exit_code, result.stdout) == (3, "")
        assert "nobody leads the group, so nobody can do it: no node of group 'g' has ever reported" in result.stderr

    def test_verify_shows_equal_states(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        register(pair[0])
        result = run("verify", "--output", "json")
        assert result.exit_code == 0
        told = json.loads(result.stdout)
        has_fields(told, {"position": str, "digests": dict, "late_nodes": list, "silent_nodes": list, "equal": bool})
        assert (set(told["digests"]), told["late_nodes"], told["equal"]) == ({"a", "b"}, [], True)
        assert run("verify").stdout.endswith("all equal\n")

    def test_verify_of_states_that_differ_fails(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        with pair[1].reading() as registry:
            registry.apply(
                {
                    "op": "register",
                    "hostname": "ghost",
                    "public_key": "BBBB",
                    "real_addr": "10.0.0.1:1",
                }
            )
        result = run("verify")
        assert result.exit_code == 1
        assert "differ: a " in result.stderr
        assert "all equal" not in result.stdout

    def test_history_and_log_tell_what_happened(self, run: Callable[..., Result], pair: tuple[Node, Node]) -> None:
        register(pair[0])
        assert run("promote", "b", "--reason", "maintenance").exit_code == 0
        told = json.loads(run("history", "--output", "json").stdout)
        has_fields(told, {"complete": bool, "complete_since_at": int, "entries": list})
        first, second = told["entries"]
        assert (first["what"], first["term"], first["node"], told["complete"]) == ("found", 1, "a", True)
        assert (second["what"], second["node"], second["reason"]) == ("promote", "b", "maintenance")
        assert (second["ended_term"], second["ended_node"], second["ended"]) == (1, "a", "fenced")
        lines = run("history").stdout.splitlines()
        assert lines[0].split() == ["TIME", "(UTC)", "AGO", "WHAT", "NODE", "TERM", "BY", "BEFORE", "REASON"]
        assert "a in 1: fenced after " in lines[2]
        assert lines[2].endswith("maintenance")
        assert lines[-1] == "complete since the founding"
        assert f"since {lines[2][:19]}" in run("status").stdout
        newest = json.loads(run("history", "--limit", "1", "--output", "json").stdout)
        assert [each["term"] for each in newest["entries"]] == [2]
        assert len(json.loads(run("history", "--since", "1h", "--output", "json").stdout)["entries"]) == 2
        assert json.loads(run("history", "--since", "2100-01-31", "--output", "json").stdout)["entries"] == []
        refused = run("history", "--since", "yesterday")
        assert (refused.exit_code, "15m, 2h, 7d" in refused.stderr) == (2, True)
        records = [json.loads(line) for line in run("log", "--output", "json").stdout.splitlines()]
        assert [(record["id"], record["kind"], record["node"]) for record in records] == [
            ("1-1", "term", "a"), ("1-2", "change", "a"), ("2-3", "term", "b"),
        ]  # fmt: skip
        lines = run("log", "--after", "1-1").stdout.splitlines()
        assert [line.split()[2] for line in lines] == ["1-2", "2-3"]
        assert "1 change," in lines[0]
        assert "opens term 2: maintenance, by " in lines[1]


class TestExitCodes:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (OutcomeUnknown(url="redis:", problem="lost"), 4),
            (Fenced(1, 2, "b"), 5),
            (LogUnavailable(url="redis:", problem="down"), 6),
        ],
    )
    def test_an_error_has_the_exit_code_of_its_kind(
        self, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
    ) -> None:
        def fail(*args: Any, **options: Any) -> None:
            raise error

        monkeypatch.setattr(ops, "promote", fail)
        result = run("promote", "b")
        assert (result.exit_code, result.stdout) == (code, "")
        assert result.stderr.splitlines()[0] == f"Error: {error}"
        # and for programs
        for as_json in (["--json"], ["--output", "json"]):
            result = run("promote", "b", *as_json)
            assert (result.exit_code, result.stdout) == (code, "")
            told = json.loads(result.stderr)
            assert told == {"error": name_of(error), "message": str(error), "exit_code": code}

    @pytest.mark.parametrize("command", [["status"], ["promote", "a"], ["demote"], ["history"], ["log"], ["verify"]])
    def test_without_redis_it_is_6(self, tmp_path: Path, command: list[str]) -> None:
        result = CliRunner().invoke(cli, ["--redis", f"unix://{tmp_path}/nobody", *command])
        assert (result.exit_code, result.stdout) == (6, "")
        assert "not available" in result.stderr

    @pytest.mark.parametrize(
        "args",
        [
            ["--redis", "http://localhost", "status"],
            ["--group", "{g}", "status"],
            ["nonsense"],
            ["promote"],
            ["promote", "a", "--expect-term", "-1"],
            ["status", "--output", "xml"],
            ["log", "--after", "nonsense"],
            ["load", "/nowhere/registry.json"],
            ["node"],
            ["node", "--name", "a b"],
            ["node", "--name", "a", "--http", "nonsense"],
            ["node", "--name", "a", "--lease-s", "0"],
            ["node", "--name", "a", "--lease-s", "nan"],
            ["node", "--name", "a", "--publish-every-s", "inf"],
            ["node", "--name", ".."],
            ["--group", "a b", "status"],
            ["promote", "a\tb"],
            ["promote", "a", "--timeout", "inf"],
            ["promote", "a", "--reason", "a\nb"],
            ["switchover", "--to", "a/b"],
            ["recover", "--from", "\u2028"],
            ["verify", "--timeout", "-1"],
            ["drill", "--lease-s", "nan"],
            ["dev", "--lease-s", "inf"],
            ["--config", "/nowhere/settings.toml", "status"],
        ],
        ids=" ".join,
    )
    def test_a_wrong_option_is_2_and_named_on_stderr(
        self, args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(cli, ["--redis", f"unix://{tmp_path}/nobody", *args])
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Error: " in result.stderr

    def test_help_and_version_need_nothing(self) -> None:
        assert CliRunner().invoke(cli, ["--version"]).stdout.startswith("replicator, version ")
        told = CliRunner().invoke(cli, ["-h"]).stdout
        for command in ("dev", "node", "status", "promote", "demote", "snapshot", "verify", "history", "log", "load"):
            assert f"\n  {command} " in told
            assert CliRunner().invoke(cli, [command, "--help"]).exit_code == 0


class TestWhatOthersWrote:
    """A heartbeat, or a head, of a program that was less careful."""

    ODD = "a\tb\u2028c\x1b[2Jd"

    def test_an_odd_name_makes_nothing_unreadable_and_is_shown_on_one_line(
        self, run: Callable[..., Result], any_redis: RedisServer, pair: tuple[Node, Node]
    ) -> None:
        with client_for(any_redis.url) as client:
            (found,) = client.hmget("replicator:{g}:nodes", ["a"])
            at, _, told = found.partition(b" ")
            odd = json.loads(told) | {"node": self.ODD, "http": "\x1b]0;x", "problem": "a\nb"}
            client.hset("replicator:{g}:nodes", self.ODD, at + b" " + json.dumps(odd).encode())
            taken = client.hget("replicator:{g}:head", "taken") or b""
            client.hset("replicator:{g}:head", "taken", taken + f" 1/{self.ODD} 2".encode())
        for command in (["status"], ["history"], ["log"], ["promote", "a"], ["status", "--output", "json"]):
            result = run(*command)
            assert result.exit_code == 0 or command[0] == "status", result.stderr  # which may call it a problem
        shown = run("status").stdout
        assert "a\\tb\\u2028c\\x1b[2Jd" in shown
        assert all(line.isprintable() for line in shown.split("\n"))
        assert pair[0].submit({"op": "register", "owner": "x"})


class TestSettings:
    def write(self, tmp_path: Path, text: str) -> str:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return str(path)

    def test_a_file_sets_what_the_command_line_does_not(self, any_redis: RedisServer, tmp_path: Path) -> None:
        path = self.write(tmp_path, f'redis = "{any_redis.url}"\ngroup = "from-file"\n[status]\noutput = "json"\n')
        assert json.loads(CliRunner().invoke(cli, ["--config", path, "status"]).stdout)["group"] == "from-file"
        result = CliRunner().invoke(cli, ["--config", path, "--group", "given", "status"])
        assert json.loads(result.stdout)["group"] == "given"

    def test_the_environment_goes_before_the_file(self, any_redis: RedisServer, tmp_path: Path) -> None:
        path = self.write(tmp_path, 'redis = "redis://nowhere:1"\ngroup = "from-file"\n')
        env = {"REPLICATOR_REDIS": any_redis.url, "REPLICATOR_CONFIG": path, "REPLICATOR_STATUS_OUTPUT": "json"}
        assert json.loads(CliRunner().invoke(cli, ["status"], env=env).stdout)["group"] == "from-file"
        env["REPLICATOR_GROUP"] = "from-environment"
        assert json.loads(CliRunner().invoke(cli, ["status"], env=env).stdout)["group"] == "from-environment"

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("redis = ", "it is not TOML"),
            ("redis = 5", "redis"),
            ("status = 5", "status"),
            ('grup = "x"', "grup is not a setting"),
            ('log-level = "LOUD"', "log-level"),
            ('[status]\noutput = "xml"', "xml"),
            ('[status]\nouput = "json"', "ouput in [status] is not an option of status"),
        ],
    )
    def test_a_bad_file_is_2_and_says_what_is_wrong(
        self, run: Callable[..., Result], tmp_path: Path, text: str, problem: str
    ) -> None:
        result = CliRunner().invoke(cli, ["--config", self.write(tmp_path, text), "status"])
        assert (result.exit_code, result.stdout) == (2, "")
        assert problem in result.stderr

    @pytest.mark.parametrize(
        ("text", "args", "expected"),
        [
            ('[certify]\ndata-dir = "nowhere"', ["certify"], "Directory 'nowhere' does not exist"),
            ('[forks]\ndata-dir = "nowhere"', ["forks", "list"], "Directory 'nowhere' does not exist"),
            ('[drill]\ndir = "settings.toml"', ["drill"], "settings.toml"),
            ('[switchover]\nto = "b"', ["switchover"], "nobody leads"),
            ('[recover]\nfrom = "b c"', ["recover"], "b c"),
        ],
    )
    def test_an_option_has_its_name_in_a_file(
        self, any_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, args: list[str],
        expected: str,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        self.write(tmp_path, f'redis = "{any_redis.url}"\n{text}\n')
        result = CliRunner().invoke(cli, ["--config", "settings.toml", *args])
        assert result.exit_code != 0
        assert expected in result.stderr

    @pytest.mark.parametrize(
        ("variable", "value", "expected"),
        [
            ("REPLICATOR_DRILL_DIR", "settings.toml", "settings.toml"),
            ("REPLICATOR_SWITCHOVER_TO", "b", "nobody leads"),
            ("REPLICATOR_RECOVER_FROM", "b c", "b c"),
        ],
    )
    def test_an_option_has_its_name_in_the_environment(
        self, any_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str,
        expected: str,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        self.write(tmp_path, "")
        result = CliRunner().invoke(
            cli, ["--redis", any_redis.url, variable.split("_")[1].lower()], env={variable: value}
        )
        assert result.exit_code != 0
        assert expected in result.stderr


class TestLoad:
    def document(self, tmp_path: Path, **fields: Any) -> str:
        path = tmp_path / "registry.json"
        path.write_text(
            json.dumps(
                {
                    "version": 1,
                    "next_node": 2,
                    "next_net": 1,
                    "nodes": {"1": {"id": 1, "owner": "x"}},
                    "networks": {},
                    "trust_pairs": [],
                }
                | fields
            )
        )
        return str(path)

    def test_a_file_without_a_term_becomes_the_state_of_all_nodes(
        self, run: Callable[..., Result], pair: tuple[Node, Node], tmp_path: Path
    ) -> None:
        result = run("load", self.document(tmp_path))
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith("a loaded ")
        in_step(*pair)
        for node in pair:
            with node.reading() as registry:
                assert b'"owner":"x"' in b"".join(registry.document(node.term)).replace(b" ", b"")

    def test_a_file_of_the_current_term_is_loaded(
        self, run: Callable[..., Result], pair: tuple[Node, Node], tmp_path: Path
    ) -> None:
        assert run("load", self.document(tmp_path, term=1)).exit_code == 0

    def test_a_file_of_an_old_term_is_refused_unless_it_is_meant(
        self, run: Callable[..., Result], pair: tuple[Node, Node], tmp_path: Path
    ) -> None:
        pair[0].promote(timeout_s=PATIENCE_S)
        before = pair[0].position
        result = run("load", self.document(tmp_path, term=1))
        assert (result.exit_code, result.stdout) == (3, "")
        assert "its term is over (the term is 2)" in result.stderr
        assert pair[0].position == before
        assert run("load", "--any-term", self.document(tmp_path, term=1)).exit_code == 0

    def test_a_state_that_is_not_empty_is_replaced_by_who_says_what_it_replaces(
        self, run: Callable[..., Result], pair: tuple[Node, Node], tmp_path: Path
    ) -> None:
        pair[0].submit({"op": "register", "hostname": "kept"})
        position = str(pair[0].position.id)
        result = run("load", self.document(tmp_path))
        assert (result.exit_code, result.stdout) == (3, "")
        assert f"--expect {position} replaces it if it does not change meanwhile, --force replaces it" in result.stderr
        pair[0].submit({"op": "register", "hostname": "kept-too"})
        result = run("load", "--expect", position, self.document(tmp_path))
        assert (result.exit_code, result.stdout) == (3, "")
        assert f"has changed since {position}, it is at {pair[0].position.id} now" in result.stderr
        with pair[0].reading() as registry:
            assert len(registry) == 2
        assert run("load", "--expect", str(pair[0].position.id), self.document(tmp_path)).exit_code == 0
        refused = run("load", "--force", self.document(tmp_path))
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "is replaced; there is no terminal to ask at, so say --yes" in refused.stderr
        assert run("load", "--force", "--yes", self.document(tmp_path)).exit_code == 0
        assert run("load", "--expect", "now", self.document(tmp_path)).exit_code == 2

    @pytest.mark.parametrize("text", ["{}", '{"hostname": "db1"}', '{"version": 1, "nodes": {}}'])
    def test_what_lacks_members_of_a_document_is_refused_and_empties_nothing(
        self, run: Callable[..., Result], pair: tuple[Node, Node], tmp_path: Path, text: str
    ) -> None:
        pair[0].submit({"op": "register", "hostname": "kept"})
        (tmp_path / "x.json").write_text(text)
        result = run("load", "--force", "--yes", str(tmp_path / "x.json"))
        assert (result.exit_code, result.stdout) == (3, "")
        assert "the document has no " in result.stderr
        with pair[0].reading() as registry:
            assert len(registry) == 1

    def test_a_file_of_a_term_that_was_never_issued_is_refused(
        self, run: Callable[..., Result], pair: tuple[Node, Node], tmp_path: Path
    ) -> None:
        result = run("load", self.document(tmp_path, term=2**52))
        assert (result.exit_code, result.stdout) == (3, "")
        assert "was never issued" in result.stderr
        assert pair[0].term == 1

    @pytest.mark.parametrize("text", ["not json", "[]", '{"nodes": 5}', '{"term": "x"}'])
    def test_what_is_not_a_registry_document_is_refused(
        self, run: Callable[..., Result], pair: tuple[Node, Node], tmp_path: Path, text: str
    ) -> None:
        (tmp_path / "x.json").write_text(text)
        result = run("load", str(tmp_path / "x.json"))
        assert (result.exit_code, result.stdout) == (3, "")
        assert pair[0].position.id == RecordId(1, 1)

    def test_without_a_primary_nobody_takes_it(self, run: Callable[..., Result], tmp_path: Path) -> None:
        assert run("load", self.document(tmp_path)).exit_code == 3

    def test_a_primary_that_is_not_reached_is_6_and_not_taken_for_redis(
        self, run: Callable[..., Result], pair: tuple[Node, Node], tmp_path: Path
    ) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            self.announce(run, pair[0], f"http://127.0.0.1:{bound.getsockname()[1]}")
            result = run("load", self.document(tmp_path))
        assert (result.exit_code, result.stdout) == (6, "")
        assert "Redis" not in result.stderr

    def announce(self, run: Callable[..., Result], node: Node, url: str) -> None:
        node.announce(url)
        eventually(lambda: json.loads(run("status", "--output", "json").stdout)["nodes"][0]["http"] == url)

    @pytest.mark.parametrize("answer", [None, (504, {"error": "outcome_unknown", "message": "the answer was lost"})])
    def test_an_answer_that_was_lost_is_4(
        self, run: Callable[..., Result], pair: tuple[Node, Node], tmp_path: Path, answer: Any
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if answer is not None:
                    body = json.dumps(answer[1]).encode()
                    self.send_response(answer[0])
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = run("load", self.document(tmp_path), "--to", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        server.server_close()
        assert (result.exit_code, result.stdout) == (4, "")


class TestDev:
    def test_a_port_that_is_taken_is_refused(self, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            result = CliRunner().invoke(cli, ["dev", "--dir", str(tmp_path / "dev"), "--port", str(port)])
        assert result.exit_code in (1, 2)
        assert str(port) in result.stderr


@pytest.fixture
def processes() -> Iterator[list[NodeProcess]]:
    started: list[NodeProcess] = []
    yield started
    for node in started:
        if node.process.poll() is None:
            node.end(signal.SIGKILL)


class TestNode:
    @pytest.mark.parametrize("module", ["replicator", "workers"])
    def test_sigterm_ends_it_in_order(
        self, any_redis: RedisServer, tmp_path: Path, processes: list[NodeProcess], module: str
    ) -> None:
        log = RedisLog(any_redis.url, "g")
        node = NodeProcess(any_redis.url, tmp_path / "a", module=module)
        processes.append(node)
        eventually(lambda: node.process.poll() is not None or any(n.http for n in ops.status(log).nodes))
        ops.promote(log, "a", by="test", timeout_s=PATIENCE_S)
        head = ops.status(log).last_id
        code, out, err = node.end()
        assert (code, out) == (0, ""), err
        assert f"stopped at {head}" in err
        assert ops.status(log).lease_ms is None
        here = Node(Registry(), group="g", name="a", redis=any_redis.url, data_dir=tmp_path / "a", on_restart="standby")
        here.start()
        assert str(here.position.id) == head
        here.stop()
        log.close()

    def test_one_that_was_killed_comes_back_and_leads(
        self, any_redis: RedisServer, tmp_path: Path, processes: list[NodeProcess]
    ) -> None:
        log = RedisLog(any_redis.url, "g")
        processes.append(NodeProcess(any_redis.url, tmp_path / "a"))
        eventually(lambda: any(node.http for node in ops.status(log).nodes))
        ops.promote(log, "a", by="test", timeout_s=PATIENCE_S)
        assert processes[0].end(signal.SIGKILL)[0] == -signal.SIGKILL
        processes.append(NodeProcess(any_redis.url, tmp_path / "a"))
        eventually(lambda: ops.status(log).term >= 2 and ops.status(log).nodes[0].role == "primary")
        assert processes[1].end(signal.SIGINT)[0] == 0
        log.close()

    def test_a_second_process_on_the_directory_ends_with_a_clear_error(
        self, any_redis: RedisServer, tmp_path: Path, processes: list[NodeProcess]
    ) -> None:
        log = RedisLog(any_redis.url, "g")
        processes.append(NodeProcess(any_redis.url, tmp_path / "a"))
        eventually(lambda: any(node.http for node in ops.status(log).nodes))
        processes.append(NodeProcess(any_redis.url, tmp_path / "a"))
        code, out, err = processes[1].end(None)
        assert (code, out) == (1, "")
        assert str(tmp_path / "a") in err
        assert "process" in err.splitlines()[-1]
        assert "Traceback" not in err
        log.close()

    def test_another_process_of_the_same_name_ends_with_a_clear_error(
        self, any_redis: RedisServer, tmp_path: Path, processes: list[NodeProcess]
    ) -> None:
        log = RedisLog(any_redis.url, "g")
        processes.append(NodeProcess(any_redis.url, tmp_path / "a"))
        eventually(lambda: any(node.http for node in ops.status(log).nodes))
        processes.append(NodeProcess(any_redis.url, tmp_path / "elsewhere"))
        code, _, err = processes[1].end(None)
        assert code == 2
        assert "'a' is taken in group g" in err
        assert "Traceback" not in err
        log.close()

    def test_a_bad_url_is_2(self, tmp_path: Path, processes: list[NodeProcess]) -> None:
        processes.append(NodeProcess("http://localhost", tmp_path / "a"))
        code, out, err = processes[0].end(None)
        assert (code, out) == (2, "")
        assert "is not a Redis URL" in err

    def test_another_log_than_its_own_ends_it(
        self, any_redis: RedisServer, tmp_path: Path, processes: list[NodeProcess]
    ) -> None:
        log = RedisLog(any_redis.url, "g")
        processes.append(NodeProcess(any_redis.url, tmp_path / "a"))
        eventually(lambda: any(node.http for node in ops.status(log).nodes))
        ops.promote(log, "a", by="test", timeout_s=PATIENCE_S)
        with redis.Redis.from_url(any_redis.url) as client:
            client.flushall()
        promote(log, "z", new_log_id="another")
        code, _, err = processes[0].end(None)
        assert code == 1
        assert "there is log another: the URL leads to another Redis" in err
        assert "Traceback" not in err
        log.close()
