"""A node of an application in its first or second version (tests/support/versions.py), as a process that takes orders.

    python -m tests.acceptance.numbers VERSION NAME REDIS_URL DATA_DIR [APP]

An order is a line of JSON on stdin, its answer one on stdout. The end of stdin ends the node in order.

    {"add": [KEY, N]}         write in the form of the first version
    {"note": [KEY, TEXT]}     write in that of the second, once the group is at version 2
    {"read": null}            what the state has here, and where this node is
"""

from __future__ import annotations

import json
import sys
from typing import Any

from replicator import Node
from replicator.errors import ReplicatorError
from tests.support.kv import LEASE_S, PATIENCE_S
from tests.support.versions import ONE, TWO, One, Two

GROUP = "numbers"


def answer(node: Node[Any], order: dict[str, Any]) -> Any:
    match order:
        case {"add": [key, n]}:
            return node.submit(["add", key, n], timeout_s=PATIENCE_S)
        case {"note": [key, text]}:
            if node.version < 2:
                return f"not at version {node.version}"
            node.submit(["note", key, text], timeout_s=PATIENCE_S)
            return "noted"
        case {"read": _}:
            with node.reading() as state:
                told = {"numbers": state.numbers, "notes": state.notes}
            position = str(node.position.id)
            return told | {"position": position, "version": node.version, "stalled": node.stalled, "role": node.role}
    raise ValueError(order)


def main() -> int:
    version, name, redis, data_dir, *app = sys.argv[1:]
    state, release = (One(), ONE) if version == "1" else (Two(), TWO)
    release = release | {"app": app[0]} if app else release
    node: Node[Any] = Node(state, group=GROUP, name=name, redis=redis, data_dir=data_dir, lease_s=LEASE_S, **release)
    try:
        with node:
            print(json.dumps("started"), flush=True)
            for line in sys.stdin:
                try:
                    told = {"answer": answer(node, json.loads(line))}
                except (ReplicatorError, TimeoutError) as error:
                    told = {"error": type(error).__name__, "message": str(error)}
                print(json.dumps(told), flush=True)
    except ReplicatorError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
