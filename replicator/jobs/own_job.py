"""A job as it is read from the queue: data, which anybody who can write to Redis may have written.

RQ would run any function, callback or method that a job names, and call any URL. Here a job may only name one of
`KINDS`, with arguments that this kind takes. Nothing else in it is imported, run or sent, and a job that asks for more
fails. Its call is a pickle of plain values, and is read as such (`plain_pickle.py`).
"""

from __future__ import annotations

import base64
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, cast

from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.results import Result

from ..errors import ConfigError
from ..log.redis_errors import is_of_another_type
from .errors import JobRefused
from .in_worker import perform
from .kinds import KINDS, checked, function_of, kind_of
from .plain_pickle import BYTES_MAX, AnswersInJSON, is_pickle, written

__all__ = ["OwnJob"]

#: The fields of a job that are used: its call, its progress, and how long it may take and its result is kept.
KEPT = frozenset(
    b"data created_at enqueued_at started_at ended_at last_heartbeat status origin worker_name timeout result_ttl "
    b"failure_ttl ttl".split()
)

#: The fields that would have something else run, or sent.
ASKS_FOR_MORE = frozenset(b"success_callback_name failure_callback_name stopped_callback_name webhooks".split())

#: Limit on the call of a job, unpacked: it is a name and a few words.
CALL_BYTES_MAX = 4096

#: Replaces a call that is not run. It names nothing.
NO_CALL = written(["", None, [], {}])


class OwnJob(Job):
    """A job in the queue, restricted to what `KINDS` allows.

    RQ uses this class for every job that the worker touches, also for those that it only cleans up after.
    """

    #: Why the job is not run; empty: it is.
    problem = ""

    #: What it is, if it is one.
    asked = ""
    asked_arguments: Mapping[str, Any] = {}

    @classmethod
    def fetch(cls, id: str, connection: Any = None, serializer: Any = None) -> OwnJob:
        """As in RQ, except that an impossible id counts as that of a missing job: it must not end the worker."""
        try:
            return cast(OwnJob, super().fetch(id, connection=connection, serializer=serializer))
        except Exception as error:
            if not (isinstance(error, ValueError | TypeError) or is_of_another_type(error)):
                raise
            raise NoSuchJobError(f"{id!r} is no job ({error})") from None

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Take over the allowed fields. If there is more, remember why the job is not run."""
        if b"data" not in raw_data:
            raise NoSuchJobError("it has no data")
        try:
            _check_small("call", raw_data[b"data"], CALL_BYTES_MAX)
            super().restore({name: value for name, value in raw_data.items() if name in KEPT})
            self.problem = self._more_than_a_job(raw_data)
            if not is_pickle(self.data):
                self.serializer = AnswersInJSON
        except Exception as error:  # of any kind: RQ reads dates, numbers and texts
            self.problem = f"it cannot be read ({error!r})"
            self.origin = raw_data.get(b"origin", b"").decode("ascii", "replace")
        if self.problem:
            self.data = NO_CALL

    def _more_than_a_job(self, raw_data: Mapping[bytes, bytes]) -> str:
        name, instance, positional, arguments = self.serializer.loads(self.data)
        kind = kind_of(name)
        if kind is None:
            return f"there is no job {name!r:.100}"
        if instance is not None or positional:
            return f"{name} takes arguments by their names alone"
        try:
            self.asked, self.asked_arguments = kind.name, checked(kind, arguments)
        except ConfigError as error:
            return str(error)
        asked = sorted(each.decode() for each in ASKS_FOR_MORE if raw_data.get(each, b"") not in (b"", b"[]"))
        return f"it has {', '.join(asked)}" if asked else ""

    def latest_result(self, timeout: int = 0) -> Result | None:
        """As in RQ, except that what was raised is unpacked only if it is small. Raises `ValueError`, and others of any
        kind: it is data."""
        client: Any = self.connection  # what it gives is bytes, which its types do not know
        key = Result.get_key(self.id)  # type: ignore[no-untyped-call]
        found = client.xrevrange(key, "+", "-", count=1)
        if not found:
            return None
        ((id, payload),) = found
        _check_small("traceback", base64.b64decode(payload.get(b"exc_string", b"")), BYTES_MAX)
        return Result.restore(self.id, id.decode(), payload, connection=client, serializer=self.serializer)

    @property
    def func(self) -> Callable[..., dict[str, Any]]:
        """The function to run. Raises `JobRefused`."""
        if self.problem:
            raise JobRefused(problem=self.problem, jobs=", ".join(map(function_of, KINDS)))
        return functools.partial(perform, self)


def _check_small(what: str, data: bytes, bytes_max: int) -> None:
    """Raises `ValueError` for what is too large, unpacked: a few bytes may unpack to gigabytes."""
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(data, bytes_max)
        small = not unpacking.unconsumed_tail
    except zlib.error:  # it is not compressed
        small = len(data) <= bytes_max
    if not small:
        raise ValueError(f"its {what} has more than {bytes_max} bytes")
