"""Connections to the Redis of a URL, wherever it is at the moment.

What a client can get wrong about a connection is settled here:

- No command is ever sent twice. redis-py repeats commands on its own if built the plain way; here it makes single
  connections with retries off, a `Wire` uses them, and one that broke is not opened again behind our back.
- A connection knows the run of the Redis that it leads to: it is learnt when the connection is made. So an append
  carries it without asking INFO each time, and a primary that talks to another Redis than it thinks is refused.
- A request whose answer was lost raises `OutcomeUnknown`, one that was certainly not sent `LogUnavailable`. Only the
  first needs a second look.
- Behind Sentinel and in a cluster the master moves. It is asked for whenever a connection is made, and never in the
  middle of a call: an answer that it is elsewhere (MOVED, READONLY ...) means that nothing was done, so the connection
  is given up, the caller is told, and its next call finds the right place.

`urls.py` says what a URL means.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import Any, Protocol

import redis

from replicator.errors import LogUnavailable, OutcomeUnknown
from replicator.log.urls import Address, shown
from replicator.log.wire import Limit, Wire
from replicator.runtime.aside import Aside
from replicator.runtime.process import Owner, let_go_in_child
from replicator.runtime.sharing import FairLock

from .advice import advice, is_elsewhere
from .finders import ANSWER_S, TELLER_WAIT_S, Finder, Opened

__all__ = [
    "Link",
    "Script",
    "follow",
    "shown",
]


class Script(Protocol):
    """A script's text and the hash that Redis knows it by."""

    text: bytes
    sha: bytes


DEFAULT_LIMIT = Limit(ANSWER_S)

_CLOSED = "the connection is closed"


class Link:
    """One connection, made when it is needed, and never remade in the middle of anything.

    Every call has a `Limit`, and keeps it whatever hangs: the call before it, the way to the server, the server. A
    connection is made aside from who needs it: who cannot wait leaves, and the next one finds the attempt further on.
    """

    def __init__(self, finder: Finder, url: str) -> None:
        self._finder = finder
        self._url = url
        self._opened: Opened | None = None
        self._lock = FairLock()
        self._attempts: Aside[None] = Aside("connection", most=1)
        #: Held while what an attempt made becomes the connection, or none is wanted any more.
        self._adopting = threading.Lock()
        self._stale = False
        self._closed = False
        self._owner = Owner(f"this connection to {url}")
        let_go_in_child(self, Link._let_go)

    def call(self, *command: Any, limit: Limit = DEFAULT_LIMIT) -> Any:
        """Send one command, give its answer. Raises `LogUnavailable`, `OutcomeUnknown`, or redis' `ResponseError`."""
        self._begin(limit)
        try:
            return self._answer(self._connected(limit).wire, *command, limit=limit)
        finally:
            self._lock.release()

    def script(
        self,
        script: Script,
        keys: list[bytes],
        *args: Any,
        in_run: bool = False,
        limit: Limit = DEFAULT_LIMIT,
    ) -> Any:
        """Run a script; with `in_run` its first argument is the run that this very connection belongs to.

        A script that Redis does not know has done nothing, so sending its text then is no repeat.
        """
        self._begin(limit)
        try:
            opened = self._connected(limit)
            args = (opened.run, *args) if in_run else args
            return self._evaluated(opened.wire, script, keys, args, limit)
        finally:
            self._lock.release()

    def script_then(
        self,
        script: Script,
        keys: list[bytes],
        *args: Any,
        then: tuple[Any, ...],
        limit: Limit = DEFAULT_LIMIT,
        then_limit: Limit = DEFAULT_LIMIT,
    ) -> tuple[Any, Any]:
        """Run a script and, if it answers `ok`, one more command on the very same connection; both answers."""
        self._begin(limit)
        try:
            wire = self._connected(limit).wire
            answer = self._evaluated(wire, script, keys, args, limit)
            if answer[0] != b"ok":
                return answer, None
            return answer, self._answer(wire, *then, limit=then_limit)
        finally:
            self._lock.release()

    @property
    def address(self) -> Address | None:
        """Where the connection leads, if that can change."""
        opened = self._opened
        return opened.address if opened is not None else None

    def leave_other_run(self, run: str) -> None:
        """Make a new connection for the next call if the run is not the one that the connection learnt."""
        opened = self._opened
        if opened is not None and opened.run != run:
            self._stale = True

    def leave_other_address(self, address: Address) -> None:
        """Close the connection if it leads elsewhere. A call that is waiting for its answer fails."""
        opened = self._opened
        if opened is not None and opened.address != address:
            self._stale = True
            self._end()

    def close(self) -> None:
        """Close it for good. A call that is waiting for its answer, such as a read that blocks, fails."""
        self._owner.check()
        with self._adopting:
            self._closed = True
        self._attempts.give_up(redis.exceptions.ConnectionError(_CLOSED))
        self._end()

    def _begin(self, limit: Limit) -> None:
        """Be the one who uses the connection. Raises `WrongProcess` before it waits for a lock."""
        self._owner.check()
        if not self._lock.acquire() and not self._lock.acquire(limit.left_s):
            raise self._unavailable("it has not answered the requests before this one")

    def _connected(self, limit: Limit) -> Opened:
        opened = self._opened
        if opened is None or self._stale or not opened.wire.is_open:
            opened = self._connect(limit)
        if limit.until != math.inf and limit.left_s <= 0:
            raise self._unavailable("there was no time left to ask it")
        return opened

    def _connect(self, limit: Limit) -> Opened:
        self._drop()
        # Before the way is asked for: what is found out meanwhile makes the new connection stale as well.
        self._stale = False
        while not self._closed:
            attempt = self._attempts.ask("", lambda: self._open(limit.answer_s))
            if not attempt.wait(limit.left_s):
                raise self._unavailable("there is no connection to it yet")
            if attempt.error is not None:
                raise self._unavailable(advice(attempt.error))
            opened = self._opened
            if opened is not None:
                return opened
        self._drop()
        raise self._unavailable(_CLOSED)

    def _open(self, timeout_s: float) -> None:
        opened = self._finder.open(timeout_s)
        with self._adopting:
            if not self._closed:
                self._opened = opened
                return
        opened.wire.close()

    def _unavailable(self, problem: str) -> LogUnavailable:
        return LogUnavailable(url=self._url, problem=problem)

    def _evaluated(
        self,
        wire: Wire,
        script: Script,
        keys: list[bytes],
        args: tuple[Any, ...],
        limit: Limit,
    ) -> Any:
        try:
            command = (b"EVALSHA", script.sha, len(keys), *keys, *args)
            return self._answer(wire, *command, limit=limit)
        except redis.exceptions.NoScriptError:
            return self._answer(wire, b"EVAL", script.text, len(keys), *keys, *args, limit=limit)

    def _answer(self, wire: Wire, *command: Any, limit: Limit) -> Any:
        try:
            return wire.ask(*command, limit=limit)
        except redis.exceptions.ResponseError as error:
            if is_elsewhere(error):
                self._drop()
            raise
        except (redis.exceptions.BusyLoadingError, redis.exceptions.AuthenticationError) as error:
            # Connection errors to redis-py, but the server did answer: it did nothing.
            raise self._unavailable(advice(error)) from None
        except (redis.exceptions.RedisError, OSError) as error:
            self._drop()
            raise OutcomeUnknown(url=self._url, problem=str(error) or type(error).__name__) from None
        except BaseException:
            # An answer that was not read would be taken for that of the next command.
            self._drop()
            raise

    def _let_go(self) -> None:
        if self._opened is not None:
            self._opened.wire.let_go()

    def _drop(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.wire.close()

    def _end(self) -> None:
        """Close the connection, whoever uses it."""
        if self._lock.acquire():
            try:
                self._drop()
            finally:
                self._lock.release()
        elif (opened := self._opened) is not None:
            opened.wire.shut_down()


def follow(finder: Finder, links: Iterable[Link], *, wait_s: float = TELLER_WAIT_S) -> None:
    """Leave a Redis that is no longer the master.

    One that hung while the sentinels chose another takes writes on its old connections for seconds after it is back,
    and loses them all when the sentinels make it a replica. A sentinel that does not answer changes nothing. They are
    waited for no longer than `wait_s`.
    """
    connected = [link for link in links if link.address is not None]
    address = finder.master(wait_s) if connected else None
    if address is not None:
        for link in connected:
            link.leave_other_address(address)


# --- URLs ---


# --- finders ---


# --- errors ---
