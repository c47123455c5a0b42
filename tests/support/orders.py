"""A process that takes orders: a line of JSON each, on stdin, and answers with one on stdout."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .kv import PATIENCE_S

__all__ = ["TakesOrders"]


class TakesOrders:
    """Started by `command`. What it says on stderr is shown if it ends instead of answering."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self._process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def answer(self) -> Any:
        """What it says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            raise AssertionError(self._process.stderr.read()[-2000:])
        return json.loads(line)

    def order(self, order: Mapping[str, Any]) -> Any:
        """What it says to that."""
        assert self._process.stdin is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return self.answer()

    def refused(self) -> tuple[int, str]:
        """The exit code, and what it said, of one that does not start."""
        _, said = self._process.communicate(timeout=PATIENCE_S)
        return self._process.returncode, said

    def stop(self) -> None:
        with suppress(OSError):
            self._process.communicate(timeout=2 * PATIENCE_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()
