"""What becomes of jobs that are not done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ReplicatorError

__all__ = [
    "BackupsInUse",
    "BrokeDown",
    "BrokenOff",
    "JobFailed",
    "JobLost",
    "JobRefused",
    "NoSuchJob",
    "NotDone",
    "NotPassed",
    "NotTaken",
]


class JobRefused(ReplicatorError):
    """{problem}: nothing of it was run. This worker runs {jobs}, without callbacks or webhooks"""


class JobFailed(ReplicatorError):
    """the job {name} failed: {problem}"""

    def __init__(self, *, name: str, problem: str, exit_code: int = 1) -> None:
        super().__init__(name=name, problem=problem)
        self.exit_code = exit_code


class JobLost(JobFailed):
    """the job {name} failed: Redis does not have it any more, as after a failover or a restart that lost it; ask for
    it again"""


class NoSuchJob(ReplicatorError):
    """there is no job {id} of group {group}; `replicator jobs list` shows those that there are"""

    exit_code = 3


class NotTaken(ReplicatorError):
    """no worker took job {id} from the queue; is `python -m replicator.workers.jobs` running?"""


class NotDone(ReplicatorError):
    """{problem}; nothing was done"""

    exit_code = 3


class BrokeDown(ReplicatorError):
    """a {kind} came up, which the log of the worker has: what it says may be a part of the sealed state"""


class NotPassed(ReplicatorError):
    """{verdict}"""

    def __init__(self, *, verdict: str, result: Mapping[str, Any]) -> None:
        super().__init__(verdict=verdict)
        #: What was found, as the job gives it where all is well.
        self.result = dict(result)


class BrokenOff(ReplicatorError):
    """it was asked to end before it was done; nothing of it runs any more"""


class BackupsInUse(ReplicatorError):
    """{path}: another process writes a backup of {group} there now; try again when it is done"""

    exit_code = 3
