"""A group of nodes over one Redis, its clients and its watchers: started together, ended together, read at the end."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from replicator import ops
from replicator.errors import ReplicatorError
from replicator.replica.applied_state import changes_of
from replicator.replica.ledger import Ledger
from replicator.storage.checkpoint import Checkpoint
from tests.support.small_disk import can_mount, fill, mount, unmount

from .checker import Event, Fork, Run, Term
from .history import Notes, Recorder, load
from .processes import Process
from .redises import GROUP, Redis
from .values import Values, values_of
from .watcher import LogWatcher, Loops, NodeWatcher
from .wire import Caller, NoAnswer, NotSent

#: Short, so that many terms fit into a run; long enough for a busy machine to renew it most of the time.
LEASE_S = 0.6

#: How long the group may take, once all faults are over. It takes two seconds; a busy machine may take longer.
SETTLE_S = 60.0

POLL_S = 0.05

#: What a node is told once everything is over.
HEALS: tuple[dict[str, Any], ...] = (
    {"op": "frail", "how": ""},
    {"op": "silent-names", "on": False},
)

#: The disk of a node, where it can have one of its own: its data and some forks.
DISK_BYTES = 64 * 1024 * 1024


class Cluster:
    """Everything of one run. `directory` gets its notes, data and logs.

    `breaks`: takes that rule out of replicator in every node (`broken.py`).
    """

    def __init__(
        self, directory: Path, redis: Redis, *, nodes: Sequence[str] = ("a", "b", "c"), breaks: str = ""
    ) -> None:
        self.directory = directory
        self.redis = redis
        self.names = tuple(nodes)
        self.events: list[Event] = []
        self.nodes: dict[str, Process] = {}
        self.watchers: dict[str, NodeWatcher] = {}
        self.sockets: dict[str, Path] = {}
        self._breaks = breaks
        self._clients: list[Process] = []
        self._histories: list[Path] = []
        self._notes: list[Notes] = []
        self._loops = Loops()
        #: What was seen to be wrong on the way.
        self._found: list[str] = []
        self._disks: list[Path] = []

    # --- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _start(self) -> None:
        # The path of a unix socket is short; that of a test's directory is not.
        self._short = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.redis.start(self.names)
        sightings = self.notes("sightings")
        for name in self.names:
            self._give_disk(name)
            self.sockets[name] = self._short / name
            self.nodes[name] = self._node(name)
            self.nodes[name].start()
            self.watchers[name] = NodeWatcher(name, self.sockets[name], sightings)
            self._loops.start(self.watchers[name].once)
        self.log = LogWatcher(self.redis.open_log, self.notes("log"))
        self._loops.start(self.log.once)
        self._loops.start(self.redis.watch, every_s=0.1)

    def _node(self, name: str) -> Process:
        options = {
            "name": name, "group": GROUP, "redis": self.redis.url_for(name), "data": str(self._data(name)),
            "socket": str(self.sockets[name]), "lease": str(LEASE_S),
        }  # fmt: skip
        if self._breaks:
            options["break"] = self._breaks
        log = self.directory / f"node-{name}.log"
        return Process("node", _arguments(options), log, within=self.redis.within(name))

    def _data(self, name: str) -> Path:
        return self.directory / "data" / name

    def _give_disk(self, name: str) -> None:
        """A file system of its own, which can be full while those of the others are not."""
        place = self._data(name)
        place.mkdir(parents=True)
        if can_mount():
            mount(place, DISK_BYTES)
            self._disks.append(place)

    def _keep_disks(self) -> None:
        """What is on them, as plain directories: the notes of a run outlive it."""
        for place in self._disks:
            copy = place.with_name(f"{place.name}-kept")
            shutil.copytree(place, copy, ignore=shutil.ignore_patterns("filler"))
            unmount(place)
            place.rmdir()
            copy.rename(place)
        self._disks.clear()

    def start_clients(self, count: int, *, acks: Sequence[str], seed: int | str, threads: int = 3) -> None:
        """Start client processes that use every node until `stop_clients`."""
        nodes = ",".join(f"{name}={path}" for name, path in self.sockets.items())
        for number in range(count):
            history = self._new_history(f"client-{number}")
            options = {
                "name": f"c{number}", "nodes": nodes, "history": str(history), "acks": ",".join(acks),
                "seed": str(seed), "threads": str(threads),
            }  # fmt: skip
            client = Process("client", _arguments(options), self.directory / f"client-{number}.log")
            self._clients.append(client)
            client.start()

    def stop_clients(self) -> None:
        """Let every client finish the operation under way, which it sends until it is answered."""
        for client in self._clients:
            client.stop(SETTLE_S)

    def notes(self, name: str) -> Notes:
        """A file of notes of this run, closed at its end."""
        self._notes.append(Notes(self.directory / f"{name}.jsonl"))
        return self._notes[-1]

    def history(self, name: str) -> Notes:
        """Where another client, in this process, notes what it does."""
        self._new_history(name)
        return self.notes(f"history-{name}")

    def _new_history(self, name: str) -> Path:
        self._histories.append(self.directory / f"history-{name}.jsonl")
        return self._histories[-1]

    def close(self) -> None:
        """End every process and thread."""
        for process in (*self._clients, *self.nodes.values()):
            process.kill()
        self._loops.stop()
        self._keep_disks()
        self.redis.close()
        if hasattr(self, "log"):
            self.log.close()
        for notes in self._notes:
            notes.close()
        if hasattr(self, "_short"):
            shutil.rmtree(self._short, ignore_errors=True)

    # --- what is seen of it ------------------------------------------------------------------------------------------

    def status(self, name: str) -> dict[str, Any]:
        """What that node said last; empty if it did not answer."""
        return self.watchers[name].status

    @property
    def primary(self) -> str | None:
        """Who calls itself the primary, of the highest term if there are several."""
        leads = [name for name in self.names if self.status(name).get("role") == "primary"]
        return max(leads, key=lambda name: int(self.status(name).get("term", 0)), default=None)

    def call(self, name: str, request: dict[str, Any], timeout_s: float = 5.0) -> dict[str, Any]:
        """Ask one node, on a connection of its own. Raises `NotSent` or `NoAnswer`."""
        caller = Caller(self.sockets[name])
        try:
            return caller.call(request, timeout_s)
        finally:
            caller.close()

    def wait_for(self, holds: Callable[[], object], timeout_s: float = SETTLE_S) -> bool:
        """Whether that comes true in time."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    # --- the end -----------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """End every fault, start what is dead."""
        self.redis.heal()
        for name, node in self.nodes.items():
            node.resume()
            node.start()
            self.free_disk(name)
            for request in HEALS:
                self.wait_for(partial(self._is_healed, name, request))

    def _is_healed(self, name: str, request: dict[str, Any]) -> bool:
        return self.tell(name, timeout_s=5.0, **request) or not self.nodes[name].alive

    def slow_disk(self, name: str, seconds: float, *, for_s: float) -> bool:
        """Make every save of that node take so much longer, for so long; whether it heard."""
        return self.tell(name, op="slow", seconds=seconds, until=time.monotonic() + for_s)

    def tell(self, name: str, *, timeout_s: float = 0.3, **request: Any) -> bool:
        """Have a node do something; whether it heard."""
        try:
            self.call(name, request, timeout_s=timeout_s)
        except (NotSent, NoAnswer):
            return False
        return True

    def fork(self, name: str, seconds: float) -> None:
        """Have that node's process fork. A child that hangs is a problem; a node that was killed meanwhile is none."""
        with contextlib.suppress(NotSent, NoAnswer):
            if self.call(name, {"op": "fork", "seconds": seconds}, timeout_s=30)["hangs"]:
                self._found.append(f"a child of {name} hung")

    def fill_disk(self, name: str) -> None:
        """Use up all that is left on the disk of that node."""
        fill(self._data(name) / "filler")

    def free_disk(self, name: str) -> None:
        (self._data(name) / "filler").unlink(missing_ok=True)
        self.nodes[name].start()  # if it could not before

    def settle(self, timeout_s: float = SETTLE_S) -> list[str]:
        """Wait until a write is taken, end the clients, wait until all are at the same place; what is wrong if not."""
        deadline = time.monotonic() + timeout_s
        recorder = Recorder(self.history("last"), "last")
        written = self.wait_for(lambda: self._writes(recorder), timeout_s)
        self.stop_clients()
        if not written:
            return [f"no write was taken within {timeout_s:g} s after the last fault: {self._told()}"]
        if not self.wait_for(self._in_step, max(5.0, deadline - time.monotonic())):
            return [f"the nodes were not in step {timeout_s:g} s after the last fault: {self._told()}"]
        return []

    def _writes(self, recorder: Recorder) -> bool:
        """Try to write a value on whoever leads."""
        primary = self.primary
        if primary is None:
            return False
        value = f"last-{time.monotonic_ns()}"
        id_ = recorder.call("write", primary, value=value, ack="appended")
        try:
            request = {"op": "submit", "value": value, "ack": "appended", "timeout_s": 2.0}
            answer = self.call(primary, request)
        except (NotSent, NoAnswer) as error:
            answer = {"error": type(error).__name__, "text": ""}
        if "error" in answer:
            recorder.answer(id_, "unknown", error=f"{answer['error']}: {answer['text']}")
            return False
        recorder.answer(id_, "ok", index=answer["index"], token=answer["token"])
        return True

    def _in_step(self) -> bool:
        # Asked now: what the watchers know may be from before the last write.
        told = [self._status_now(name) for name in self.names]
        if not all(each.get("in_sync") for each in told):
            return False
        alike = len({(each["position"], each["term"], each["count"]) for each in told}) == 1
        return alike and sum(each["role"] == "primary" for each in told) == 1

    def _status_now(self, name: str) -> dict[str, Any]:
        try:
            return self.call(name, {"op": "status"})
        except (NotSent, NoAnswer):
            return {}

    def _told(self) -> str:
        names = ("role", "term", "position", "in_sync", "problem", "failed", "stalled")
        told = {name: {key: self.status(name).get(key) for key in names} for name in self.names}
        return "; ".join(f"{name} {facts}" for name, facts in told.items())

    def collect(self, problems: Sequence[str] = ()) -> Run:
        """End the nodes, and give all that was noted."""
        told = {name: self._told_at_the_end(name) for name in self.names}
        every = [*problems, *self._complaints(told), *self._found]
        finals = self._finals([name for name in self.names if told[name]])
        for node in self.nodes.values():
            node.stop()
        self.redis.finish()
        self._loops.stop()
        self.log.once()  # when one stopped, another one may have taken a last term
        history = self._history(every)
        finals |= {f"the disk of {name}": self._values_on_disk(name) for name in finals}
        every += [problem for process in (*self._clients, *self.nodes.values()) for problem in process.problems]
        return Run(
            setting=self.redis.setting,
            operations=load(path for path in self._histories if path.exists()),
            events=[*self.events, *self.redis.events],
            sightings=[seen for watcher in self.watchers.values() for seen in watcher.sightings],
            written=self.log.written,
            finals=finals,
            forks=[fork for name in self.names for fork in self._forks(name)],
            told=history,
            unread=self.log.unread,
            problems=every,
        )

    def _history(self, problems: list[str]) -> list[Term] | None:
        """The terms in the history of the group, asked of Redis past every fault."""
        log = self.redis.open_log()
        try:
            entries = ops.history(log).entries
        except ReplicatorError as error:
            problems.append(f"the history: {error}")
            return None
        finally:
            log.close()
        taken = (entry for entry in entries if entry.takes_term and not entry.from_log)
        return [Term(term=each.term, node=each.node or "", boot=each.boot or "") for each in taken]

    def _told_at_the_end(self, name: str) -> dict[str, Any]:
        """What a node says of itself, if it lives: on a busy machine it takes its time."""
        told: list[dict[str, Any]] = []

        def has_told() -> bool:
            told.append(self._status_now(name))
            return bool(told[-1]) or not self.nodes[name].alive

        self.wait_for(has_told)
        return told[-1]

    def _finals(self, names: Sequence[str]) -> dict[str, list[str]]:
        """The values of each node, at one moment: nothing came in between, of a write that nobody waited for."""
        found: list[dict[str, list[str]]] = []

        def at_rest() -> bool:
            before = [self._status_now(name).get("count") for name in names]
            found.append({name: self._values(name) for name in names})
            return before == [len(found[-1][name]) for name in names]

        self.wait_for(at_rest)
        return found[-1]

    def _complaints(self, every: dict[str, dict[str, Any]]) -> Iterator[str]:
        for name, told in every.items():
            if not told:
                yield f"{name} does not answer"
            elif told["failed"] or told["stalled"]:
                yield f"{name} has given up: {told['failed'] or told['stalled']}"
        if self.log.problem:
            yield f"the log: {self.log.problem}"

    def _values(self, name: str) -> list[str]:
        values: list[str] = []
        while True:
            answer = self.call(name, {"op": "values", "since": len(values)}, timeout_s=30)
            values += answer["values"]
            if len(values) >= answer["count"]:
                return values

    def _values_on_disk(self, name: str) -> list[str]:
        return _values_in(self._data(name) / "checkpoint.sqlite", name, self.directory / "opened" / name)

    def _forks(self, name: str) -> Iterator[Fork]:
        for number, path in enumerate(sorted((self._data(name) / "forks").glob("*.sqlite"))):
            yield Fork(node=name, values=_values_in(path, name, self.directory / "opened" / f"{name}-{number}"))


def _values_in(file: Path, node: str, place: Path) -> list[str]:
    """All values in a checkpoint. A fork is one, too: by its usual name it can be opened."""
    place.mkdir(parents=True)
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(f"{file}{suffix}", place / f"checkpoint.sqlite{suffix}")
    with contextlib.closing(Checkpoint(place, GROUP, node=node)) as checkpoint:
        values = values_of(checkpoint.payload() or ())
        state, ledger = Values(), Ledger.of(checkpoint.ledger(), id_="checkpoint")
        state.values = values
        for record in checkpoint.changes():
            for index, change in enumerate(changes_of(record)):
                ledger.applied(change, record.id, index, state.apply)
    return state.values


def _arguments(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", value)]
