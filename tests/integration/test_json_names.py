"""docs/json.md is a contract: every name in it is given, every name that is given is in it, and it keeps its own rules.

All of it comes from real commands on a real group, and from the HTTP of a node; only what a drill found is made up.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import replicator.cli.drill
from replicator import Node, RecordId, Stalled, ops
from replicator.archive.archiver import Archiver
from replicator.archive.archiver import Settings as ArchiverSettings
from replicator.archive.places import Directory as ArchiveDirectory
from replicator.cli import cli
from replicator.cli.watch import away_as_json
from replicator.cli.watching import Watch, asked_over_http
from replicator.jobs.queue import JobQueue
from replicator.log.redis_log import RedisLog
from replicator.registry.state import Registry
from replicator.sandbox.drill.report import FaultReport, Report
from replicator.sandbox.redis_server import find_server
from replicator.service.kept_files import KeptFiles
from replicator.storage.checkpoint import Checkpoint
from replicator.storage.keyring import Entry, new_key, write_entries
from replicator.web.envelope import health_app
from replicator.web.failures import Failure, problem
from replicator.web.redirect import redirect_to
from tests.support.golden_json import GOLDEN, kept_or_rewritten
from tests.support.json_names import TYPES, documented, names_in, wrong_types
from tests.support.kv import KV, LEASE_S, PATIENCE_S, Group, eventually, in_step, put
from tests.support.node_process import NodeProcess
from tests.support.opaque import KIB, Text, pieces
from tests.support.registry_api import DOCUMENT, NodeInMemory, TestClient, client_of, with_term
from tests.support.worlds import RedisWorld

DOCUMENTED = documented()

#: Its names are those of an application.
OF_THE_REGISTRY = "The registry"

Given = dict[str, list[Any]]
Run = Callable[..., Any]

FAULT = FaultReport(
    fault="kill", acknowledged_count=10, lost_tags=["t"], refused_count=2, unknown_count=1, gap_ms=1234,
    stale_refused_count=1, primary="b", term=2, problem=None,
)  # fmt: skip

REPORT = Report(
    faults=[FAULT], acknowledged_count=12, refused_count=2, unknown_count=1, landed_count=1, lost_tags=["t"],
    doubled_tags=[], appeared_tags=[], stale_accepted_count=0, equal=True, position="2-14",
    digests={"a": "0", "b": "0", "c": "0"}, problems=[],
)  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """What each command gave, by the section of the document that is about it.

    It takes many processes and half a minute, so those who test at the same time have it made once.
    """
    run_of_tests = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run_of_tests is None:
        return _made(tmp_path_factory)
    path = tmp_path_factory.getbasetemp().with_name(f"given-{run_of_tests}.json")
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            draft = path.with_suffix(".new")
            draft.write_text(json.dumps(_made(tmp_path_factory)))
            draft.rename(path)
        made: Given = json.loads(path.read_text())
    return made


def _made(tmp_path_factory: pytest.TempPathFactory) -> Given:
    directory = tmp_path_factory.mktemp("group")
    world = RedisWorld(find_server(), tmp_path_factory.mktemp("redis"))
    given: Given = {}
    try:
        given |= _of_a_group(world, directory)
        given |= _of_a_skip(world, tmp_path_factory.mktemp("skip"))
    finally:
        world.close()
    given |= _of_a_drill() | _over_http()
    given |= _of_whole_states(tmp_path_factory.mktemp("whole"), given)
    return given


def _keys(path: Path) -> Any:
    write_entries(path, [Entry(True, new_key()), Entry(False, None)])
    return _run("--key-file", path, "key", "list", "--output", "json")


def _node(world: RedisWorld, directory: Path, name: str) -> Node:
    data_dir = directory / name
    url = world.server.url
    return Node(Registry(), group="g", name=name, redis=url, data_dir=data_dir, lease_s=LEASE_S, on_restart="standby")


def _of_a_group(world: RedisWorld, directory: Path) -> Given:
    def run(*args: object) -> Any:
        return _run("--redis", world.server.url, "--group", "g", *args, "--output", "json")

    dirs = ("--data-dir", directory / "a", "--data-dir", directory / "b")
    given: Given = {}
    with _node(world, directory, "a") as a, _node(world, directory, "b") as b:
        eventually(lambda: len(run("status")["nodes"]) == 2)
        given["promote, recover"] = [run("promote", "a", "--timeout", PATIENCE_S)]
        a.submit({"op": "register", "owner": "x"})
        in_step(a, b)
        written = run("log")  # with the record of a term, which snapshots cut
        given |= {"snapshot": [run("snapshot")], "verify": [run("verify")]}
        given["reinit"] = [run("reinit", "b", "--timeout", PATIENCE_S)]
        a.submit({"op": "register", "owner": "y"}, key="k")
        in_step(a, b)
        given |= _looked_at(run)
        given["log"] = written + given["log"]
        given["certify"] = [run("certify", *dirs)]
        given["promote --dry-run"] = [run("promote", "b", "--dry-run")]
        given["switchover"] = [run("switchover", "--to", "b", "--timeout", PATIENCE_S)]
        with TestClient(health_app(b)) as client:
            given["/health"] = [client.get("/health").json()]
            ready = eventually(lambda: [each for each in [client.get("/ready")] if each.status_code == 200])[0]
            given["/ready"] = [ready.json()]
            for path in ("/live", "/cluster", "/history"):
                given[path] = [client.get(path).json()]
            given["/primary, /standby, /read-only"] = [client.get("/primary").json(), client.get("/read-only").json()]
    given |= _of_processes(run, world, directory)
    given["release"] = run("release", "--data-dir", directory / "a")
    given["metrics list"] = run("metrics", "list")
    given |= _of_jobs(world, directory, run)
    given["key list"] = _keys(directory / "keys")
    given["status --watch"] = [_while_redis_is_away(world)]
    given |= _of_forks(directory / "a") | _of_an_archive(world, directory, run)
    world.admin.xdel("replicator:{g}:log", "1-4")
    given["certify"].append(run("certify", "--no-verify"))
    with _node(world, directory, "a"):
        world.admin.delete("replicator:{g}:log", "replicator:{g}:head")
        given["promote, recover"].append(run("recover", "--from", "a", "--force", "--yes"))
    return given


def _of_jobs(world: RedisWorld, directory: Path, run: Run) -> Given:
    """Of jobs that nobody does, but for what is done here."""
    with JobQueue(world.server.url, "g") as queue:
        to_come = queue.ask("switchover", {"to": "b", "term": 1}, due_ms=4_000_000_000_000).id
        queue.ask("verify", {})
    listed = run("jobs", "list", "--all")
    cancelled = run("jobs", "cancel", to_come)
    own = ("--here", "--backups", directory / "backups", "--keep", "1")
    return {"jobs list, jobs cancel": [listed, cancelled], "jobs run backup": [run("jobs", "run", "backup", *own)]}


class _Failing(KV):
    def apply(self, change: Any) -> Any:
        raise ZeroDivisionError("division by zero")


def _of_a_skip(world: RedisWorld, directory: Path) -> Given:
    def run(*args: object) -> Any:
        return _run("--redis", world.server.url, "--group", "s", *args, "--output", "json")

    url = world.server.url
    with Node(_Failing(), group="s", name="a", redis=url, data_dir=directory / "a", lease_s=LEASE_S) as a:
        a.promote(timeout_s=PATIENCE_S)
        with pytest.raises(Stalled):
            a.submit(put("k", 1))
        skip = ("skip", "1-2", "--on", "a", "--reason", "poison")
        previews = [eventually(lambda: [each for each in [run(*skip, "--dry-run")] if not each["refusal"]])[0]]
        previews.append(run("skip", "1-1", "--on", "a", "--reason", "poison", "--dry-run"))
        return {"skip": [run(*skip, "--timeout", PATIENCE_S)], "skip --dry-run": previews}


def _of_an_archive(world: RedisWorld, directory: Path, run: Run) -> Given:
    """Of an archive of what the log has, and of a backup."""
    log = RedisLog(world.server.url, "g")
    archive = directory / "archive"
    archiver = Archiver(log, ArchiveDirectory(archive), ArchiverSettings())
    with ArchiveDirectory(archive).held():
        archiver.begin()
        archiver.turn()
        archiver.end()
    log.close()
    given: Given = {}
    place = ("--archive", archive)
    given["certify --archive"] = [run("certify", *place)]
    given["show"] = [run("show", *place)]
    first_id = given["show"][0]["archive"]["timelines"][0]["first_id"]
    given["show --since"] = run("show", *place, "--since", "1d")
    given["diff"] = [run("diff", first_id, "latest", *place)]
    given["show --at, restore"] = [
        run("show", "--at", "latest", *place), run("restore", *place, "--to", directory / "restored")
    ]  # fmt: skip
    file = directory / "backup"
    given["backup, import"] = [run("backup", file), run("import", file, "--check")]
    return given


def _of_processes(run: Run, world: RedisWorld, directory: Path) -> Given:
    process = NodeProcess(world.server.url, directory / "process", REPLICATOR_GROUP="processes")
    file = directory / "document.json"
    file.write_bytes(DOCUMENT)

    def of_it(*args: object) -> list[Any]:
        return [run("--group", "processes", *args)]

    try:
        eventually(lambda: of_it("status")[0]["nodes"])
        of_it("promote", "a", "--timeout", PATIENCE_S)
        return {
            "groups": [run("groups")],
            "load": of_it("load", file, "--force", "--yes"),
            "pause, resume": [*of_it("pause"), *of_it("resume")],
            "demote": of_it("demote"),
            "config show": of_it("config", "show"),
            "restart": of_it("restart", "a", "--timeout", PATIENCE_S),
            "shutdown": of_it("shutdown", "a", "--timeout", PATIENCE_S),
            "forget": of_it("forget", "a"),
        }
    finally:
        process.end()


def _while_redis_is_away(world: RedisWorld) -> Any:
    log = RedisLog(world.server.url, "g")
    watch = Watch.begun(ops.status(log), 0.0)
    log.close()
    watch.missed("it is away", asked_over_http(watch.status), 1.0)
    return away_as_json(watch)


def _looked_at(run: Run) -> Given:
    eventually(lambda: all(node["lag_records"] == 0 for node in run("status")["nodes"]))
    return {
        "status": [run("status")],
        "why": [run("why", "b")],
        "history": [run("history")], "log": run("log"), "doctor": [run("doctor")],
        "versions": [run("versions")], "finalize": [run("finalize", 1)],
    }  # fmt: skip


def _of_forks(data_dir: Path) -> Given:
    """Of a fork of what the node has, and of what the commands give of it."""
    checkpoint = Checkpoint(data_dir, "g", node="a")
    name = checkpoint.write_fork("replaced by the snapshot 9-9 of b", RecordId(1, 3)).stem
    checkpoint.close()
    dirs = ("--data-dir", data_dir)
    shown = [_run("forks", "list", *dirs, "--output", "json"), _run("forks", "show", name, *dirs, "--output", "json")]
    exported = [*_lines("forks", "export", name, *dirs), *_lines("forks", "export", name, "--state", *dirs)]
    of = data_dir.with_name("flags.json")
    of.write_text("now")
    kept = of.with_name("flags.json.replaced-20260113T101500Z")
    kept.write_text("before")
    KeptFiles(data_dir, of, "a").note(kept, "it was written while this node was a standby")
    files = _run("forks", "files", *dirs, "--output", "json")
    return {"forks list, forks show": shown, "forks export": exported, "forks files": files}


def _of_whole_states(directory: Path, given: Given) -> Given:
    """The same of a state that is replicated whole: its changes are patches, and its pieces may be bytes."""
    group = Group(directory)
    a = group.primary("a", state=Text(pieces(900 * KIB)))
    a.publish()
    a._setup.state.pieces[0] = b"changed"
    assert a.publish().what == "patch"
    a._running.replica.flush()
    path = a._running.replica.saved.checkpoint.write_fork("for a test", a.position.id._replace(n=1))
    group.close()
    dirs = ("--data-dir", path.parents[1])
    shown = _run("forks", "show", path.stem, *dirs, "--output", "json")
    exported = _lines("forks", "export", path.stem, "--state", *dirs)
    return {
        "A part of a patch": [each["change"] for each in shown["changes"]],
        "forks list, forks show": [*given["forks list, forks show"], shown],
        "forks export": [*given["forks export"], *exported],
    }


def _of_a_drill() -> Given:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicator.cli.drill, "run", lambda *_, **__: REPORT)
        return {"drill": [_run("drill", "--output", "json")]}


def _over_http() -> Given:
    given: Given = {}
    client, standby = client_of(NodeInMemory()), NodeInMemory(role="standby", primary_http="http://b:1")
    register = {"op": "register", "owner": "x"}
    done = [
        client.post("/v1/nodes", json={}),
        client.post("/v1/changes", json=register),
        client.patch("/v1/nodes/1", json={"owner": "y"}),
        client.post("/v1/networks", json={"name": "n"}),
        client.put("/v1/networks/0/members/1"),
        client.get("/v1/nodes?limit=1"),
        client.get("/v1/networks"),
        client.put("/v1/trust/1/2"),
        client.delete("/v1/trust/1/2"),
        client.delete("/v1/networks/0/members/1"),
        client.put("/v1/state?force=1", content=DOCUMENT),
        client.put("/v1/state", content=with_term(DOCUMENT, 4)),
    ]
    refused = [
        client.put("/v1/state", content=DOCUMENT),
        client.post("/v1/nodes", json={}, headers={"Replicator-Term": "4"}),
        client.get("/v1/nodes/99"),
        client_of(standby).post("/v1/nodes", json={}),
    ]
    assert [answer.status_code for answer in done if not answer.is_success] == []
    assert [answer.status_code for answer in refused] == [428, 409, 404, 307]
    problems = [
        Failure(status=422, code="rejected", message="no", field="name"),
        redirect_to("http://b:1/x", "no"),
        Failure(status=403, code="right_missing", message="no", more={"needs": "write"}),
    ]
    given["Problem details"] = [json.loads(problem(each)[1]) for each in problems]
    return given | {OF_THE_REGISTRY: [each.json() for each in done], "Errors": [each.json() for each in refused]}


def _run(*args: object) -> Any:
    """The JSON that a command gives: one value, or a list of those that it gives one a line."""
    told = CliRunner().invoke(cli, [*map(str, args)])
    assert told.stdout, told.stderr
    return _lines_of(told.stdout) if "log" in args or "--since" in args else json.loads(told.stdout)


def _lines(*args: object) -> list[Any]:
    return _lines_of(CliRunner().invoke(cli, [*map(str, args)]).stdout)


def _lines_of(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


# --- what is given ----------------------------------------------------------------------------------------------------


def test_the_document_is_about_all_that_was_asked(given: Given) -> None:
    assert set(DOCUMENTED) == set(given)


def test_every_command_that_gives_json_has_a_section() -> None:
    # A job gives what the command of the same name gives.
    commands = {command.removeprefix("jobs run ") for command in _commands_with_output(cli)}
    assert commands <= {part for title in DOCUMENTED for part in title.split(", ")}


def _commands_with_output(group: click.Group, prefix: str = "") -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands_with_output(command, f"{prefix}{name} ")
        elif any(option.name == "output" for option in command.params):
            yield prefix + name


@pytest.mark.parametrize("section", DOCUMENTED)
def test_names_that_are_given_and_names_that_are_documented_are_the_same(given: Given, section: str) -> None:
    known = DOCUMENTED[section]
    found = {path for value in given[section] for path, _ in names_in(value, known)}
    assert (found - set(known), set(known) - found) == (set(), set()), "(not documented, not given)"


@pytest.mark.parametrize("section", DOCUMENTED)
def test_values_are_of_the_type_that_is_documented(given: Given, section: str) -> None:
    assert wrong_types(given[section], DOCUMENTED[section]) == {}


@pytest.mark.parametrize("section", DOCUMENTED)
def test_each_document_is_as_its_golden_one(given: Given, section: str) -> None:
    now, kept = kept_or_rewritten(section, given[section])
    assert now == kept


def test_there_is_a_golden_document_for_each_section_and_for_nothing_else() -> None:
    assert len(list(GOLDEN.glob("*.json"))) == len(DOCUMENTED)


# --- the rules at the top of the page ---------------------------------------------------------------------------------

ENDINGS = {
    "_at": "integer", "_ms": "number", "_bytes": "integer", "_count": "integer", "_records": "integer",
    "_index": "integer", "_id": "text", "_problem": "text",
}  # fmt: skip

PLURALS = ("list of texts", "list of lists", "list", "object of texts", "object of values")


def names_of_ours() -> Iterator[tuple[str, str]]:
    """The last word of each path, and its type where it is not null. An integer is a number."""
    for section, names in DOCUMENTED.items():
        for path, kind in names.items():
            if section != OF_THE_REGISTRY:
                yield path.rpartition(".")[2], kind.removesuffix(" or null")


def test_a_type_is_one_of_those_that_there_are() -> None:
    assert {each for _, kind in names_of_ours() for each in kind.split(" or ")} <= set(TYPES)


def test_a_name_says_by_its_end_what_it_is() -> None:
    for name, kind in names_of_ours():
        for end, wanted in ENDINGS.items():
            if f"_{name}".endswith(end):
                assert kind in (wanted, "integer" if wanted == "number" else wanted), name


def test_a_list_has_a_plural_and_nothing_else_is_measured_in_seconds() -> None:
    for name, kind in names_of_ours():
        assert kind not in PLURALS or name.endswith("s"), name
        assert not name.endswith("_seconds"), name


def test_a_word_means_one_thing() -> None:
    kinds = defaultdict(set)
    for name, kind in names_of_ours():
        kinds[name].add(kind)
    assert {name: kind for name, kind in kinds.items() if len(kind) > 1} == {}
