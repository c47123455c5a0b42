"""`replicator node` as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from .kv import PATIENCE_S

__all__ = ["NodeProcess"]


class NodeProcess:
    """A node of the registry, called `a`, in the group `g`. `end` waits for it, and takes what it said."""

    def __init__(self, url: str, directory: Path, *args: str, module: str = "replicator", **environment: str) -> None:
        self.args = args
        command = (
            [sys.executable, "-m", "replicator.workers.node"]
            if module == "workers"
            else [sys.executable, "-c", "from replicator.cli import main; main()", "node"]
        )
        watchers = ("SUPERVISOR_ENABLED", "INVOCATION_ID")
        known = {name: value for name, value in os.environ.items() if name not in watchers}
        env = {**known, "REPLICATOR_REDIS": url, "REPLICATOR_GROUP": "g", "REPLICATOR_LEASE_S": "3.0", **environment}
        self.process = subprocess.Popen(
            [*command, "--name", "a", "--data-dir", str(directory), *args],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self, number: int | None = signal.SIGTERM) -> tuple[int, str, str]:
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err
