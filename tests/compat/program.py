"""A node of a small application, as a process that takes orders. Whichever replicator is on PYTHONPATH runs it.

    python -m tests.compat.program NAME REDIS_URL DATA_DIR

So it uses nothing but what every version has. An order is a line of JSON on stdin, its answer one on stdout: `{"add":
[KEY, N]}` (with `"key"`, where keys are known), or `{"read": null}`. The end of stdin ends the node in order.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from replicator import Node

GROUP = "counters"


class Counters:
    """`[KEY, N]` adds to a number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def apply(self, change: Any) -> Any:
        key, n = change
        self.numbers[key] = self.numbers.get(key, 0) + n
        return self.numbers[key]

    def snapshot(self) -> Iterator[Any]:
        return iter([[key, self.numbers[key]] for key in sorted(self.numbers)])

    def restore(self, pieces: Iterable[Any]) -> None:
        self.numbers = {key: number for key, number in pieces}  # noqa: C416  # two, and no more


def answer(node: Node[Any], order: dict[str, Any]) -> Any:
    if "add" in order:
        more = {"key": order["key"]} if "key" in order else {}
        return node.submit(order["add"], timeout_s=60.0, **more)
    with node.reading() as state:
        numbers = dict(state.numbers)
    return {"numbers": numbers, "position": str(node.position.id), "role": node.role}


def main() -> None:
    name, redis, data_dir = sys.argv[1:]
    with Node(Counters(), group=GROUP, name=name, redis=redis, data_dir=data_dir, lease_s=10.0) as node:
        print(json.dumps("started"), flush=True)
        for line in sys.stdin:
            try:
                told = {"answer": answer(node, json.loads(line))}
            except Exception as error:
                told = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
