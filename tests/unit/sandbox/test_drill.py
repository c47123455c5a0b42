"""The books of a drill, what its writers make of answers, and the verdict. The rest is in tests/integration."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

import replicator.cli.drill
from replicator.cli import cli
from replicator.errors import ConfigError
from replicator.sandbox.drill import FAULTS, faults, run
from replicator.sandbox.drill.load import Load, _Caller, outcome_of
from replicator.sandbox.drill.report import FaultReport, Outcome, Report, Write, lacking, longest_gap_s
from tests.support.kv import PATIENCE_S, eventually

KILL = FaultReport(
    fault="kill", acknowledged_count=10, lost_tags=[], refused_count=2, unknown_count=1,
    gap_ms=1234, stale_refused_count=1, primary="b", term=2, problem=None,
)  # fmt: skip

GOOD = Report(
    faults=[KILL], acknowledged_count=12, refused_count=2, unknown_count=1, landed_count=1,
    lost_tags=[], doubled_tags=[], appeared_tags=[], stale_accepted_count=0, equal=True, position="2-14",
    digests={"a": "0", "b": "0", "c": "0"}, problems=[],
)  # fmt: skip


class TestTheLongestGap:
    def test_is_between_two_neighbours(self) -> None:
        assert longest_gap_s([1.0, 1.25, 3.25, 3.5], 1.0, 3.5) == 2.0

    def test_reaches_back_to_the_last_one_before_the_fault_and_on_to_the_first_after(self) -> None:
        assert longest_gap_s([1.0, 2.0, 5.5], 2.5, 4.0) == 3.5

    def test_a_longer_one_that_does_not_touch_the_fault_does_not_count(self) -> None:
        assert longest_gap_s([0.0, 10.0, 10.5, 11.0, 30.0], 10.0, 11.0) == 0.5

    def test_without_any_it_is_all_the_time_there_was(self) -> None:
        assert longest_gap_s([], 2.0, 5.0) == 3.0

    def test_one_that_has_not_ended_lasts_until_now(self) -> None:
        assert longest_gap_s([1.0], 2.0, 5.0) == 4.0

    def test_the_order_in_which_answers_were_noted_does_not_matter(self) -> None:
        assert longest_gap_s([3.0, 1.0, 2.0], 1.0, 3.0) == 1.0


class TestTheState:
    WRITES = (
        Write("kept", Outcome.ACKNOWLEDGED, 1.0),
        Write("gone", Outcome.ACKNOWLEDGED, 1.0),
        Write("no", Outcome.REFUSED, 1.0),
        Write("who-knows", Outcome.UNKNOWN, 1.0),
    )

    def test_is_as_it_should_be(self) -> None:
        assert lacking(self.WRITES, {"kept": 1, "gone": 1, "somebody else's": 5}) == ([], [], [])
        assert lacking(self.WRITES, {"kept": 1, "gone": 1, "who-knows": 1}) == ([], [], [])

    def test_lacks_what_was_acknowledged(self) -> None:
        assert lacking(self.WRITES, {"kept": 1}).lost == ["gone"]

    def test_has_something_twice_whatever_was_said(self) -> None:
        assert lacking(self.WRITES, {"kept": 2, "gone": 1, "who-knows": 2}).doubled == ["kept", "who-knows"]

    def test_has_what_was_refused(self) -> None:
        assert lacking(self.WRITES, {"kept": 1, "gone": 1, "no": 1}).appeared == ["no"]


class TestTheVerdict:
    def test_is_good_if_nothing_is_wrong_and_all_nodes_are_equal(self) -> None:
        assert GOOD.passed

    @pytest.mark.parametrize(
        "wrong",
        [
            {"lost_tags": ["x"]},
            {"doubled_tags": ["x"]},
            {"appeared_tags": ["x"]},
            {"stale_accepted_count": 1},
            {"equal": False},
            {"problems": ["nobody leads"]},
        ],
        ids=lambda wrong: next(iter(wrong)),
    )
    def test_is_bad_if_one_thing_is(self, wrong: dict[str, Any]) -> None:
        assert not replace(GOOD, **wrong).passed


class TestTheCommand:
    @pytest.fixture
    def told(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """What a drill would have found, by `report`; and what it was asked."""
        told: dict[str, Any] = {"report": GOOD}

        def run(faults: list[str], **options: Any) -> Report | None:
            told.update(options, faults=faults)
            report: Report | None = told["report"]
            return report

        monkeypatch.setattr(replicator.cli.drill, "run", run)
        return told

    def test_plays_the_whole_menu_if_nothing_is_named(self, told: dict[str, Any]) -> None:
        assert CliRunner().invoke(cli, ["drill"]).exit_code == 0
        assert told["faults"] == list(FAULTS)
        assert (told["lease_s"], told["seconds_per_fault"], told["directory"]) == (1.0, 6.0, None)

    def test_shows_a_line_for_each_fault_and_a_verdict(self, told: dict[str, Any]) -> None:
        result = CliRunner().invoke(cli, ["drill", "kill", "--lease-s", "2"])
        lines = result.stdout.splitlines()
        assert lines[1].split() == ["kill", "10", "0", "2", "1", "1234", "1", "b", "2"]
        assert lines[3:] == [
            "12 registrations acknowledged: none is lost",
            "2 refused: none is in the state all the same",
            "1 with an unknown outcome: 1 of them are in the state",
            "nodes a, b, c are equal at 2-14",
        ]
        assert (told["faults"], told["lease_s"]) == (("kill",), 2.0)

    def test_names_what_was_lost_and_ends_with_1(self, told: dict[str, Any]) -> None:
        told["report"] = replace(
            GOOD, lost_tags=[f"w-{n}" for n in range(12)], equal=False, problems=["kill: nobody leads"]
        )
        result = CliRunner().invoke(cli, ["drill"])
        assert result.exit_code == 1
        assert "12 are lost: w-0, w-1, w-2, w-3, w-4, w-5, w-6, w-7, w-8, w-9 and 2 more" in result.stdout
        assert "are NOT shown to be equal at 2-14" in result.stdout
        assert "kill: nobody leads" in result.stdout
        assert result.stderr.endswith("Error: the drill was not passed\n")

    def test_as_json_has_the_fields_of_the_contract(self, told: dict[str, Any]) -> None:
        value = json.loads(CliRunner().invoke(cli, ["drill", "--output", "json"]).stdout)
        assert list(value) == [
            "faults", "acknowledged_count", "refused_count", "unknown_count", "landed_count", "lost_tags",
            "doubled_tags", "appeared_tags", "stale_accepted_count", "equal", "position", "digests", "problems",
            "passed",
        ]  # fmt: skip
        assert list(value["faults"][0]) == [
            "fault", "acknowledged_count", "lost_tags", "refused_count", "unknown_count", "gap_ms",
            "stale_refused_count", "primary", "term", "problem",
        ]  # fmt: skip

    def test_an_interrupted_drill_is_not_passed(self, told: dict[str, Any]) -> None:
        told["report"] = None
        assert CliRunner().invoke(cli, ["drill"]).exit_code == 1

    def test_a_fault_that_is_not_on_the_menu_is_a_wrong_usage(self) -> None:
        result = CliRunner().invoke(cli, ["drill", "kill", "earthquake"])
        assert result.exit_code == 2
        assert "'earthquake' is not one of 'switchover', 'kill'" in result.stderr


def test_a_drill_begins_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        run(["kill"], directory=tmp_path)
    with pytest.raises(ConfigError, match="'earthquake' is none of switchover, kill"):
        run(["earthquake"])


class TestASwitchover:
    """Nodes that took the term too often lately are refused."""

    @pytest.fixture
    def scene(self) -> Mock:
        scene = Mock()
        scene.led.return_value = Mock(node="c")
        return scene

    def refuse(self, monkeypatch: pytest.MonkeyPatch, *names: set[str]) -> None:
        """Let these be refused, the next time those, and the last ones from then on."""
        times = [*names]

        def preview(log: object, node: str) -> Mock:
            refused = times[0]
            if node == "b" and len(times) > 1:
                times.pop(0)
            return Mock(refusal="too often" if node in refused else None)

        monkeypatch.setattr(faults.ops, "preview", preview)

    def test_goes_to_a_standby_that_is_not(self, scene: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuse(monkeypatch, {"a"})
        said: list[str] = []
        faults._wait_for_a_successor(scene, said.append)
        assert (faults._successor(scene), said) == ("b", [])

    def test_waits_until_there_is_one(self, scene: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuse(monkeypatch, {"a", "b"}, {"a", "b"}, {"b"})
        said: list[str] = []
        faults._wait_for_a_successor(scene, said.append)
        assert faults._successor(scene) == "a"
        assert len(said) == 1
        assert scene.tick.call_count == 2

    def test_is_tried_all_the_same_when_there_is_none_for_long(
        self, scene: Mock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.refuse(monkeypatch, {"a", "b"})
        monkeypatch.setattr(faults, "SUCCESSOR_WITHIN_S", 0.0)
        faults._wait_for_a_successor(scene, lambda _: None)
        assert faults._successor(scene) is None


# Writers


class Node(ThreadingHTTPServer):
    """Answers each POST with what `answer` says: a status, a body and headers. None: no answer at all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: tuple[int, dict[str, Any], dict[str, str]] | None = (201, {"id": 1}, {})
        self.asked: list[tuple[dict[str, Any], str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()

    def leads(self, node: Node) -> None:
        self.answer = (307, {"error": "not_primary"}, {"Location": f"{node.url}/v1/nodes"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Node

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((body, self.headers.get("Replicator-Ack")))
        if self.server.answer is None:
            self.close_connection = True
            return
        status, content, headers = self.server.answer
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    nodes = [Node() for _ in range(3)]
    yield nodes
    for node in nodes:
        node.shutdown()
        node.server_close()


@pytest.fixture
def caller(nodes: list[Node]) -> _Caller:
    return _Caller([node.url for node in nodes], 0, patience_s=PATIENCE_S)


def test_a_redirected_write_goes_to_the_primary_and_so_does_the_next_one(nodes: list[Node], caller: _Caller) -> None:
    nodes[0].leads(nodes[2])
    assert caller.register("x", applied=True) is Outcome.ACKNOWLEDGED
    assert caller.register("y", applied=False) is Outcome.ACKNOWLEDGED
    assert [len(node.asked) for node in nodes] == [1, 0, 2]
    assert nodes[2].asked == [
        ({"owner": "drill", "tags": ["x"]}, "applied:1"),
        ({"owner": "drill", "tags": ["y"]}, None),
    ]


def test_nodes_that_send_a_write_round_in_circles_refuse_it(nodes: list[Node], caller: _Caller) -> None:
    for node, other in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
        node.leads(other)
    assert caller.register("x", applied=False) is Outcome.REFUSED


def test_after_a_refusal_the_next_write_goes_to_another_node(nodes: list[Node], caller: _Caller) -> None:
    nodes[0].answer = (503, {"error": "lease_lost"}, {})
    assert caller.register("x", applied=False) is Outcome.REFUSED
    assert caller.register("y", applied=False) is Outcome.ACKNOWLEDGED
    assert [len(node.asked) for node in nodes] == [1, 1, 0]


def test_a_write_that_could_not_be_sent_is_refused_for_certain() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        caller = _Caller([f"http://127.0.0.1:{nobody.getsockname()[1]}"], 0, patience_s=PATIENCE_S)
        assert caller.register("x", applied=False) is Outcome.REFUSED


def test_a_write_without_an_answer_is_unknown_and_sent_to_nobody_else(nodes: list[Node], caller: _Caller) -> None:
    nodes[0].answer = None
    assert caller.register("x", applied=False) is Outcome.UNKNOWN
    assert [len(node.asked) for node in nodes] == [1, 0, 0]


def test_a_node_that_hangs_is_given_up_after_the_patience() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        caller = _Caller([f"http://127.0.0.1:{hanging.getsockname()[1]}"], 0, patience_s=0.1)
        assert caller.register("x", applied=False) is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.ACKNOWLEDGED),
        (201, Outcome.ACKNOWLEDGED),
        (307, Outcome.REFUSED),
        (409, Outcome.REFUSED),
        (503, Outcome.REFUSED),
        (500, Outcome.UNKNOWN),
        (504, Outcome.UNKNOWN),
    ],
)
def test_what_a_status_means(status: int, outcome: Outcome) -> None:
    assert outcome_of(status) is outcome


def test_a_load_gives_each_write_a_tag_of_its_own_and_ends_its_threads(nodes: list[Node]) -> None:
    with Load([node.url for node in nodes], token="t", patience_s=PATIENCE_S) as load:
        eventually(lambda: len(load.acknowledged_at()) >= 20)
    assert not any("_write_on" in thread.name for thread in threading.enumerate())
    tags = [write.tag for write in load.writes]
    assert len(set(tags)) == len(tags) == sum(len(node.asked) for node in nodes)
    assert all(tag.startswith("t-") for tag in tags)
    assert {ack for node in nodes for _, ack in node.asked} == {None, "applied:1"}
