"""Work that is done in a forked child, as it would be in a worker process of an application."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.support.kv import PATIENCE_S


class Child:
    """A child of `os.fork` that does `work` and ends at once, without running anything of its parent's after that."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._answers, answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            said = {"error": "it said nothing"}
            try:
                said = {"value": work()}
            except BaseException as error:
                said = {"error": f"{type(error).__name__}: {error}"}
            finally:
                os.write(answers, json.dumps(said).encode())
                os._exit(0)
        os.close(answers)

    def result(self) -> Any:
        """What `work` gave. Fails with what it raised, or if it hangs."""
        deadline = time.monotonic() + PATIENCE_S
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the child did not end in {PATIENCE_S} s")
            time.sleep(0.005)
        said = json.loads(os.read(self._answers, 1 << 20))
        os.close(self._answers)
        assert "error" not in said, said["error"]
        return said["value"]

    def kill(self) -> None:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def in_child(work: Callable[[], Any]) -> Any:
    return Child(work).result()


def outcome(call: Callable[[], Any]) -> str:
    """What comes of a call, in a form that a child can say."""
    try:
        return f"gave {call()!r}"
    except BaseException as error:
        return type(error).__name__
