"""A node in a process of its own, which fails at a push of "poison": `python -m tests.support.skip_child URL DIR NAME`.

Each line on stdin is a change for it, in JSON; the line that it gives back is the result, or the name of the error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from replicator import Node, ReplicatorError
from tests.support.kv import KV, LEASE_S, PATIENCE_S


class Failing(KV):
    """It fails in the middle, so nobody knows what is left of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.in_apply = self._fail

    def _fail(self, change: Any) -> None:
        if change == {"push": "poison"}:
            raise ZeroDivisionError("division by zero")


def main(url: str, directory: str, name: str) -> None:
    with Node(Failing(), group="g", name=name, redis=url, data_dir=Path(directory) / name, lease_s=LEASE_S) as node:
        print(json.dumps("started"), flush=True)
        for line in sys.stdin:
            try:
                answer: Any = node.submit(json.loads(line), timeout_s=PATIENCE_S)
            except ReplicatorError as error:
                answer = type(error).__name__
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    from tests.support import skip_child

    skip_child.main(*sys.argv[1:])  # the class of the state has a name that others can import
