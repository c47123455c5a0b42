"""A client process: threads that write unique values at every ack level, and read them back wherever they like.

    python -m tests.chaos.client --name c0 --nodes a=PATH,b=PATH --history FILE --acks appended,applied:1 --seed 1

Each thread follows the primary: a node that refuses says who leads. Every value has a key, and is sent again until it
is answered, to one node after the other: what was refused at once was not written, and once an outcome is unknown,
nothing but an answer ends the write. So at the end no outcome is unknown. It ends at SIGTERM, or when its standard
input does, and with it the write under way, as soon as that is answered.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from replicator.runtime.signals import wait_until

from .history import Notes, Recorder
from .wire import Caller, NoAnswer, NotSent

#: How long a node may wait for its answer, and how much longer we wait for the node.
TIMEOUT_S, GRACE_S = 2.0, 1.0

#: Errors that say: nothing was written.
REFUSALS = ("NotPrimary", "LeaseLost", "Fenced", "LogUnavailable", "ChangeRejected", "ChangeTooLarge", "NotJSON")

#: After a refusal: soon enough to find the next primary at once, and no busy loop.
REFUSED_PAUSE_S = 0.03

#: Now and then somebody else than the primary is asked, as somebody would who does not know better.
STRAY_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class Place:
    """An acknowledged value, where it stands, and a token that contains it."""

    value: str
    index: int
    token: str


class Client(threading.Thread):
    """One thread. `rest_s`: how long it rests between two operations, on average.

    A script calls its methods, and does not start it.
    """

    def __init__(
        self,
        name: str,
        nodes: dict[str, Path],
        notes: Notes,
        *,
        acks: Sequence[str] = ("appended",),
        seed: str = "",
        rest_s: float = 0.0,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.ended = threading.Event()
        self._nodes = list(nodes)
        self._callers = {node: Caller(path) for node, path in nodes.items()}
        self._recorder = Recorder(notes, name)
        self._acks = acks
        self._chance = random.Random(seed)
        self._rest_s = rest_s
        self._primary = self._chance.choice(self._nodes)
        self._places: deque[Place] = deque(maxlen=20)
        self._count = 0

    def run(self) -> None:
        while not self.ended.wait(self._chance.uniform(0, 2 * self._rest_s)):
            what = self._chance.random()
            if what < 0.6 or not self._places:
                self.insist(self._whom(), self._chance.choice(self._acks))
            elif what < 0.85:
                self.read(self._chance.choice(self._nodes), self._chance.choice(self._places))
            else:
                self.read_fresh(self._chance.choice(self._nodes))

    def insist(self, node: str, ack: str) -> Place | None:
        """One value with a key, sent until it is answered; where it stands, if it was acknowledged."""
        value = self._next_value()
        id_ = self._recorder.call("write", node, value=value, ack=ack, key=value)
        answer = self._submit(node, value, ack, key=value)
        attempts = 1
        if outcome_of(answer) == "unknown":
            while outcome_of(answer) not in ("ok", "unacknowledged"):
                # Whoever leads then: what is refused now says nothing of what was sent before.
                time.sleep(REFUSED_PAUSE_S)
                node = answer.get("primary") or self._chance.choice(self._nodes)
                answer = self._submit(node, value, ack, key=value)
                attempts += 1
        return self._noted(id_, node, value, answer, attempts=attempts)

    def write(self, node: str, ack: str, *, keyed: bool = False) -> Place | None:
        """One value, one attempt; where it stands, if it was acknowledged. `keyed`: it may be sent again (`repeat`)."""
        value = self._next_value()
        id_ = self._recorder.call("write", node, value=value, ack=ack)
        return self._noted(id_, node, value, self._submit(node, value, ack, key=value if keyed else ""))

    def repeat(self, node: str, place: Place) -> bool:
        """Send a value again that was answered; whether this node answers, too."""
        return outcome_of(self._submit(node, place.value, "appended", key=place.value)) == "ok"

    @property
    def next_value(self) -> str:
        """What the next write will be of."""
        return f"{self.name}-{self._count + 1}"

    def _next_value(self) -> str:
        value = self.next_value
        self._count += 1
        return value

    def _submit(self, node: str, value: str, ack: str, *, key: str) -> dict[str, Any]:
        request = {"op": "submit", "value": value, "ack": ack, "key": key, "timeout_s": TIMEOUT_S}
        return self._call(node, request)

    def _noted(self, id_: str, node: str, value: str, answer: dict[str, Any], *, attempts: int = 1) -> Place | None:
        outcome = outcome_of(answer)
        told = {"node": node, "attempts": attempts}
        if outcome == "ok":
            self._recorder.answer(id_, "ok", index=answer["index"], token=answer["token"], **told)
            place = Place(value, answer["index"], answer["token"])
            if place.token:
                self._places.append(place)
            self._primary = node
            return place
        self._recorder.answer(id_, outcome, error=f"{answer['error']}: {answer['text']}", **told)
        if outcome == "refused":
            self._primary = answer.get("primary") or self._chance.choice(self._nodes)
            self.ended.wait(REFUSED_PAUSE_S)
        return None

    def read(self, node: str, place: Place) -> None:
        """Read with the token of a value."""
        id_ = self._recorder.call("read", node, **asdict(place))
        request = {"op": "read", "token": place.token, "index": place.index, "timeout_s": TIMEOUT_S}
        self._note_read(id_, self._call(node, request))

    def read_fresh(self, node: str) -> None:
        """Read all that was acknowledged by now."""
        id_ = self._recorder.call("fresh", node)
        self._note_read(id_, self._call(node, {"op": "read", "fresh": True, "timeout_s": TIMEOUT_S}))

    def _note_read(self, id_: str, answer: dict[str, Any]) -> None:
        if "error" not in answer:
            self._recorder.answer(id_, "ok", **answer)
        else:
            outcome = "lost" if answer["error"] == "PositionLost" else "failed"
            self._recorder.answer(id_, outcome, error=f"{answer['error']}: {answer['text']}")

    def _whom(self) -> str:
        known = self._primary if self._primary in self._callers else self._nodes[0]
        return self._chance.choice(self._nodes) if self._chance.random() < STRAY_SHARE else known

    def _call(self, node: str, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._callers[node].call(request, TIMEOUT_S + GRACE_S)
        except (NotSent, NoAnswer) as error:
            return {"error": type(error).__name__, "text": str(error)}


def outcome_of(answer: dict[str, Any]) -> str:
    """What the answer to a write means for whoever sent it."""
    error = answer.get("error")
    if error is None:
        return "ok"
    if error == "NotAcknowledged":
        return "unacknowledged"
    return "refused" if error == NotSent.__name__ or error in REFUSALS else "unknown"


def main() -> None:
    """Run the threads of one client until SIGTERM."""
    options = _options()
    faulthandler.enable()
    nodes = {name: Path(path) for name, _, path in (node.partition("=") for node in options.nodes.split(","))}
    notes = Notes(options.history)
    clients = [
        Client(
            f"{options.name}.{number}", nodes, notes, acks=options.acks.split(","),
            seed=f"{options.seed} {options.name} {number}", rest_s=options.rest,
        )
        for number in range(options.threads)
    ]  # fmt: skip
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    threading.Thread(target=_wait_for_parent, args=[ended], daemon=True).start()
    for client in clients:
        client.start()
    wait_until(ended)
    for client in clients:
        client.ended.set()
    for client in clients:
        client.join()


def _wait_for_parent(ended: threading.Event) -> None:
    # Not through sys.stdin: the interpreter cannot end while a thread has its lock.
    while os.read(0, 1):
        pass
    ended.set()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.client")
    parser.add_argument("--name", required=True)
    parser.add_argument("--nodes", required=True)
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--acks", default="appended")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--rest", type=float, default=0.02)
    return parser.parse_args()


if __name__ == "__main__":
    main()
