"""The job: it registers a host of somebody with the service. Once, however often RQ runs it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from replicator.client import Client
from replicator.rq import submit_from_job


def register(owner: str) -> Any:
    # RQ forks a process for each job, and a client belongs to the process that made it.
    with Client(os.environ["REPLICATOR_REDIS"], os.environ["REPLICATOR_GROUP"]) as client:
        return submit_from_job(client, {"op": "register", "owner": owner})


def register_and_die(owner: str) -> Any:
    """The same, killed the first time, after it has written. Nobody has its result then, and RQ runs it again."""
    result = register(owner)
    been_here = Path(os.environ["REPLICATOR_DEV_DIR"]) / f"{owner}.died"
    if not been_here.exists():
        been_here.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return result
