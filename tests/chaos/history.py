"""What clients did: calls and answers, as lines of JSON with times of the clock that all processes of a machine share.

Every call is a line before it is sent and a line after its answer, so what a client was doing when it ended is known,
too. An operation is the two put together. Kinds:

- `write`: submit `value` to `node` at the level `ack`; with a `key` it is sent until it is answered, and `node` is the
  one that did. Outcomes: `ok` (then it stands at `index`, and `token` is a
  place that contains it), `unacknowledged` (it is in the log, not acknowledged at its level), `refused` (nothing was
  written), `unknown`.
- `read`: read on `node` with the token of `value`, which stands at `index`.
- `fresh`: read all that was acknowledged before. Outcomes of both: `ok` (there are `count` values, whose digest is
  `digest`; at `index` stands `found`), `lost` (the place was lost in a failover), `failed`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One call, and its answer if there was one. Times in ns of the monotonic clock."""

    id: str
    kind: str
    node: str
    began: int
    ended: int | None = None
    outcome: str = "unknown"
    value: str = ""
    ack: str = ""
    index: int | None = None
    token: str = ""
    count: int = 0
    digest: str = ""
    found: str | None = None
    error: str = ""
    #: It is sent until it is answered.
    key: str = ""
    attempts: int = 1


_FIELDS = {field.name for field in fields(Operation)}


class Notes:
    """A file of lines of JSON. Every line is there when `add` returns, whatever becomes of the process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()

    def add(self, line: dict[str, Any]) -> None:
        text = json.dumps(line)
        with self._lock:
            self._file.write(text + "\n")

    def close(self) -> None:
        with self._lock:
            self._file.close()


class Recorder:
    """Notes the operations of one client."""

    def __init__(self, notes: Notes, client: str) -> None:
        self._notes = notes
        self._client = client
        self._count = 0

    def call(self, kind: str, node: str, **what: Any) -> str:
        """A call is about to be sent; its id."""
        self._count += 1
        id_ = f"{self._client}.{self._count}"
        self._notes.add({"id": id_, "kind": kind, "node": node, "began": time.monotonic_ns(), **what})
        return id_

    def answer(self, id_: str, outcome: str, **what: Any) -> None:
        """Its answer came, or will not come."""
        self._notes.add({"id": id_, "ended": time.monotonic_ns(), "outcome": outcome, **what})


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of notes; a last one that is not whole is left out."""
    with path.open() as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def load(paths: Iterable[Path]) -> list[Operation]:
    """All operations in these files, in the order in which they were begun."""
    operations: dict[str, Operation] = {}
    for path in paths:
        for line in lines(path):
            known = {name: value for name, value in line.items() if name in _FIELDS}
            if "began" in known:
                operations[known["id"]] = Operation(**known)
            else:
                operations[known["id"]] = replace(operations[known["id"]], **known)
    return sorted(operations.values(), key=lambda operation: operation.began)
