"""A failover step by step: the primary is killed, replaced, comes back with its old data, and can do no harm.

    python -m tests.acceptance.story [--nodes 10000]

Real processes throughout: a Redis and three nodes under supervisord (the very stack of `replicator dev`), the command
line, and HTTP. Every step is checked; the exit code is 0 only if all of them hold. `run` is also the acceptance test.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import orjson
import redis

from bench.registry_data import generate
from replicator import ops
from replicator.errors import ReplicatorError
from replicator.format.ids import RecordId, Writer
from replicator.log.redis_log import RedisLog
from replicator.protocol.fold import View
from replicator.protocol.group import Code
from replicator.protocol.node_state import NodeState
from replicator.sandbox.stack import DevStack
from tests.support import plain_http

#: A step that takes longer hangs. Generous: the machine may be busy, and 108,000 nodes are 80 MB of JSON three times.
#: Of a request whose body is JSON.
JSON = {"Content-Type": "application/json"}

STEP_TIMEOUT_S = 300.0


class StepFailed(Exception):
    """A step of the story is not so."""


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise StepFailed(what)


@dataclass
class Story:
    """One run. `say` shows a line of the transcript."""

    stack: DevStack
    nodes: int
    say: Callable[[str], None]
    http: httpx.Client = field(default_factory=lambda: plain_http.Client(timeout=STEP_TIMEOUT_S))
    peak_mib: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        self.log = RedisLog(self.stack.redis_url, self.stack.group)
        try:
            self._lead_with_a()
            self._load()
            self._write_to("a", "db-before")
            old = self._kill_a()
            self._promote_b()
            self._write_to("b", "db-after")
            self._bring_a_back()
            self._try_to_do_harm(old)
            self._compare()
        finally:
            self._note_memory()
            self.http.close()
            self.log.close()

    # --- the story ---

    def _lead_with_a(self) -> None:
        self._title("three nodes; a leads")
        self._command("promote", "a", "--expect-term", "0")
        self._command("status")

    def _load(self) -> None:
        self._title(f"a registry of {self.nodes:,} nodes is loaded into a, over HTTP")
        document = orjson.dumps(generate(self.nodes, seed=1))
        started = time.monotonic()
        answer = self._request("PUT", "a", "/v1/state", content=document, headers=JSON)
        expect(
            answer.status_code == 200 and answer.json()["applied"], f"a did not take the document: {answer.text[:300]}"
        )
        self.say(f"  {len(document) / 1e6:.1f} MB in the log after {time.monotonic() - started:.1f} s")
        self._wait_everywhere("bc", answer.headers["Replicator-Position"])
        self.say(f"  b and c have it after {time.monotonic() - started:.1f} s")

    def _write_to(self, name: str, hostname: str) -> None:
        self._title(f"{name} takes a write: register {hostname}")
        answer = self._register(name, hostname)
        expect(answer.status_code == 201, f"{name} answered {answer.status_code}: {answer.text}")
        self.say(f"  {answer.status_code} {answer.text}, at {answer.headers['Replicator-Position']}")
        self._wait_everywhere("bc", answer.headers["Replicator-Position"])

    def _kill_a(self) -> Writer:
        self._title("kill -9 of a")
        heartbeat = self.log.look().heartbeats["a"]
        self._note_memory()
        self.stack.kill_program("node-a")
        try:
            self.http.get(f"{self.stack.urls()['a']}/health", timeout=2)
        except httpx.TransportError as error:
            self.say(f"  a is gone: {type(error).__name__}")
        else:
            raise StepFailed("a still answers")
        return Writer("a", heartbeat.boot)

    def _promote_b(self) -> None:
        self._title("promote b")
        self._command("promote", "b")
        self._command("status")

    def _bring_a_back(self) -> None:
        self._title("a comes back, with its old checkpoint")
        self.stack.start_program("node-a")
        self.stack.wait_ready(STEP_TIMEOUT_S)  # it loads its checkpoint before it serves
        last_id = ops.status(self.log).last_id
        assert last_id is not None
        self._wait_everywhere("a", last_id)
        health = self._request("GET", "a", "/health").json()
        expect(health["role"] == "standby", f"a is {health['role']}")
        self.say(f"  a is a {health['role']} in term {health['term']}, at {health['position']}")

    def _try_to_do_harm(self, old: Writer) -> None:
        self._title("what the old primary might still send, and what becomes of it")
        before = self._states()
        self._raw_write_is_refused()
        self._append_of_the_old_boot_is_fenced(old)
        self._api_write_of_the_old_term_is_refused()
        self._stale_document_is_ignored()
        self._write_to_a_is_redirected()
        expect(self._states() == before, "a refused write changed a state")
        self.say("  and no state has changed")

    def _compare(self) -> None:
        self._title("the states, byte for byte")
        states = self._states()
        for name, state in states.items():
            self.say(f"  {name}  {len(state):>11,} bytes  sha256 {hashlib.sha256(state).hexdigest()[:32]}")
        expect(len(set(states.values())) == 1, "the states differ")
        state = orjson.loads(states["a"])
        hostnames = {node.get("hostname") for node in state["nodes"].values()}
        expect({"db-before", "db-after"} <= hostnames, "a write was lost")
        expect(state["term"] == 2, f"the term is {state['term']}")
        self._command("history")
        self._command("verify")

    # --- attempts at harm ---

    def _raw_write_is_refused(self) -> None:
        with redis.Redis.from_url(self.stack.redis_url) as client:
            key = f"replicator:{{{self.stack.group}}}:log"
            try:
                client.xadd(key, {"h": "{}", "b": ""}, id="1-999999")
            except redis.exceptions.ResponseError as refused:
                self.say(f"  raw XADD of 1-999999       Redis: {refused}")
            else:
                raise StepFailed("Redis took a raw record of the old term")

    def _append_of_the_old_boot_is_fenced(self, old: Writer) -> None:
        head = self.log.look().head
        assert head is not None
        holder = (old.node, old.boot, head.run)
        view = View(term=1, holder=holder, position=head.position._replace(id=RecordId(1, head.position.id.n)))  # type: ignore[arg-type]
        zombie = NodeState(me=old, view=view, run=head.run)
        record = zombie.change(codec="json", digest="0" * 32, count=1, body=b'[{"op":"harm"}]', at=0)
        reply = self.log.append(record)
        expect(reply.code is Code.FENCED, f"the append of the old boot was answered {reply}")
        self.say(f"  append by a's old boot     {reply.code.value}: {reply.node} holds term {reply.term}")

    def _api_write_of_the_old_term_is_refused(self) -> None:
        answer = self._register("b", "db-harm", headers={"Replicator-Term": "1"})
        expect(answer.status_code == 409, f"b took a write of term 1: {answer.status_code}")
        self.say(f"  POST to b with term 1      {answer.status_code} {answer.json()['error']}")

    def _stale_document_is_ignored(self) -> None:
        answer = self._request("PUT", "b", "/v1/state", content=b'{"version":1,"term":1,"nodes":{}}', headers=JSON)
        expect(answer.status_code == 200 and answer.json()["applied"] is False, f"{answer.status_code} {answer.text}")
        self.say(f"  PUT of a document of term 1  {answer.status_code} {answer.text}")

    def _write_to_a_is_redirected(self) -> None:
        answer = self._request("DELETE", "a", "/v1/nodes/1")
        expect(answer.status_code == 307, f"a took a write: {answer.status_code}")
        self.say(f"  DELETE to a                {answer.status_code} to {answer.headers['Location']}")

    # --- tools ---

    def _title(self, text: str) -> None:
        self.say("")
        self.say(f"* {text}")

    def _command(self, *args: str) -> None:
        self.say(f"  $ replicator {' '.join(args)}")
        environment = {
            **os.environ,
            "REPLICATOR_REDIS": self.stack.redis_url,
            "REPLICATOR_GROUP": self.stack.group,
            "REPLICATOR_LOG_LEVEL": "ERROR",
        }
        command = [sys.executable, "-c", "from replicator.cli import main; main()", *args]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=STEP_TIMEOUT_S, check=False
        )
        for line in done.stdout.splitlines():
            self.say(f"    {line}")
        expect(done.returncode == 0, f"replicator {' '.join(args)}: exit code {done.returncode}\n{done.stderr}")

    def _request(self, method: str, name: str, path: str, **more: Any) -> httpx.Response:
        return self.http.request(method, self.stack.urls()[name] + path, **more)

    def _register(self, name: str, hostname: str, **more: Any) -> httpx.Response:
        body = {"owner": "story", "hostname": hostname, "public_key": _key_of(hostname)}
        return self._request("POST", name, "/v1/nodes", json=body, **more)

    def _wait_everywhere(self, names: str, position: str) -> None:
        deadline = time.monotonic() + STEP_TIMEOUT_S
        for name in names:
            while True:
                answer = self._request("GET", name, "/v1/nodes?limit=1", headers={"Replicator-Wait": position})
                if answer.status_code == 200:
                    break
                expect(time.monotonic() < deadline, f"{name} did not reach {position}: {answer.text}")

    def _states(self) -> dict[str, bytes]:
        return {name: self._request("GET", name, "/v1/state").content for name in "abc"}

    def _note_memory(self) -> None:
        for program, pid in self.stack.pids().items():
            if program.startswith("node-"):
                self.peak_mib[program] = max(self.peak_mib.get(program, 0.0), _peak_mib(pid))


def _key_of(hostname: str) -> str:
    import base64

    return base64.b64encode(hashlib.sha256(hostname.encode()).digest()).decode()


def _peak_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0  # not Linux, or gone
    peak = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(peak.split()[1]) / 1024


@contextmanager
def story_stack() -> Iterator[DevStack]:
    """The dev stack in a directory of its own, on free ports."""
    with tempfile.TemporaryDirectory(prefix="replicator-story-") as directory:
        stack = DevStack(directory, port=0)
        with stack:
            stack.wait_ready()
            yield stack


def run(nodes: int, say: Callable[[str], None]) -> dict[str, float]:
    """Play it. The peak memory of each node in MiB. Raises `StepFailed` at the first step that is not so."""
    with story_stack() as stack:
        story = Story(stack, nodes, say)
        story.run()
    return story.peak_mib


@click.command()
@click.option("--nodes", default=10_000, show_default=True, help="Size of the registry.")
def main(nodes: int) -> None:
    """Kill a primary, promote another, and see that the old one can do no harm."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        peak_mib = run(nodes, click.echo)
    except (StepFailed, ReplicatorError, httpx.HTTPError) as failed:
        click.echo(f"\nNOT SO: {failed}", err=True)
        sys.exit(1)
    click.echo("")
    click.echo("peak memory: " + ", ".join(f"{name} {mib:.0f} MiB" for name, mib in sorted(peak_mib.items())))
    click.echo("\nevery step is as it should be")


if __name__ == "__main__":
    main()
