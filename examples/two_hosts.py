"""Runs a program that is not ours on two hosts, which are two directories of this machine, until Ctrl-C.

    python -m examples.json_server

Under supervisord, with the `supervisord.conf` of the example: a Redis, and for each host a node that runs the program
while it leads (docs/run.md). The program is installed once, into a directory of its own (installing.py). What ends all
of it, whatever ends first, is the dev stack (replicator/sandbox/stack.py).
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from string import Template

from replicator import ops
from replicator.cli.dev import command_here
from replicator.errors import LogUnavailable, ReplicatorError
from replicator.log.redis_log import RedisLog
from replicator.runtime.direct_http import ask
from replicator.sandbox.free_ports import free_ports
from replicator.sandbox.stack import DevStack

HERE = Path(__file__).resolve().parent

HOSTS = ("a", "b")

#: A program starts in a second or two; a machine that is busy with other things may take much longer.
ANSWERS_WITHIN_S = 300.0

ANSWER_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What is run. `name`: of the group, and of its directory in examples/. `path`: of a URL that it answers.

    `install` gives its command. `prepare` makes the files that a host has before it starts, in a directory, for a port.
    `write`, `read`: commands to try, with `$url` for where the program runs.
    """

    name: str
    path: str
    install: Callable[[], Path]
    prepare: Callable[[Path, int], None]
    write: str
    read: str


class TwoHosts(DevStack):
    """A dev stack with two nodes, and a program beside each. `programs`: the port of each host's."""

    nodes = HOSTS

    def __init__(self, program: Program, directory: Path, command: Path) -> None:
        self.program = program
        self.programs = dict(zip(HOSTS, free_ports(len(HOSTS)), strict=True))
        super().__init__(
            directory,
            port=0,
            group=program.name,
            conf=HERE / program.name.replace("-", "_") / "supervisord.conf",
            environment={
                "EXAMPLE_PROGRAM": str(command),
                **{f"EXAMPLE_PORT_{host.upper()}": str(port) for host, port in self.programs.items()},
            },
        )

    def prepare(self) -> None:
        for host, port in self.programs.items():
            (self.directory / host).mkdir(parents=True, exist_ok=True)
            self.program.prepare(self.directory / host, port)

    def url(self, host: str) -> str:
        """Of the program, where it runs."""
        return f"http://127.0.0.1:{self.programs[host]}"


def main(program: Program) -> None:
    """Run it until Ctrl-C."""
    options = argparse.ArgumentParser(prog=f"python -m examples.{program.name.replace('-', '_')}")
    options.add_argument("--dir", type=Path, help="where the data and the logs are kept; without: nowhere")
    directory = options.parse_args().dir
    try:
        command = program.install()
        with tempfile.TemporaryDirectory(prefix="example-") as temporary:
            stack = TwoHosts(program, directory or Path(temporary), command)
            stack.prepare()
            print(f"starting Redis and {program.name} on two hosts ...", flush=True)
            stack.run(lead_and_tell)
    except KeyboardInterrupt:  # while it is installed; later ones the stack takes
        sys.exit("ended")
    except ReplicatorError as error:
        sys.exit(f"Error: {error}")


def lead_and_tell(stack: DevStack) -> None:
    assert isinstance(stack, TwoHosts)
    with closing(RedisLog(stack.redis_url, stack.group)) as log:
        host = first_to_lead(log)
    wait(lambda: answers(stack.url(host) + stack.program.path), f"{stack.program.name} does not answer")
    tell(stack, host)


def first_to_lead(log: RedisLog) -> str:
    """The host that leads: in a new group it is told to; one that goes on finds it by itself."""

    def leads() -> str:
        try:
            now = ops.status(log)
            if now.term == 0 and any(node.node == HOSTS[0] and node.alive for node in now.nodes):
                ops.promote(log, HOSTS[0], by="the example", reason="the first primary", expect=0)
            return next((node.node for node in now.nodes if node.role == "primary" and node.alive), "")
        except LogUnavailable:
            return ""

    return wait(leads, "nobody leads")


def answers(url: str) -> bool:
    try:
        with ask(url, timeout_s=ANSWER_S, follow=True):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


def wait(holds: Callable[[], str | bool], otherwise: str) -> str:
    """What it gives once that is something. `otherwise`: what is wrong if that takes too long."""
    deadline = time.monotonic() + ANSWERS_WITHIN_S
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise ReplicatorError(f"{otherwise} after {ANSWERS_WITHIN_S:.0f} s: the logs say why")
        time.sleep(0.1)
    return str(found)


def tell(stack: TwoHosts, leads: str) -> None:
    print()
    for host in HOSTS:
        print(f"  host {host}  {stack.url(host)}  {'runs here' if host == leads else f'starts once node {host} leads'}")
    print(f"  data    {stack.directory}/a and b\n  logs    {stack.directory}/log")
    print("\nin another terminal, in this directory:")
    print(f"  export REPLICATOR_REDIS='{stack.redis_url}' REPLICATOR_GROUP={stack.group}")
    for line in tries(stack, leads):
        print(f"  {line}")
    print("\nCtrl-C ends all of it\n", flush=True)


def tries(stack: TwoHosts, leads: str) -> list[str]:
    """Something is written here, and read there; then there a node is killed, and it is read here."""
    other = next(host for host in HOSTS if host != leads)
    write, read = Template(stack.program.write), Template(stack.program.read)
    control = f"{shlex.quote(sys.executable)} -m supervisor.supervisorctl -s unix://{stack.control_path}"
    return [
        write.substitute(url=stack.url(leads)),
        f"{command_here()} switchover --to {other}",
        read.substitute(url=stack.url(other)),
        f"{control} signal KILL node-{other}",
        read.substitute(url=stack.url(leads)),
        f"{command_here()} status",
    ]
