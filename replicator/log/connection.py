"""Connections to the Redis of a URL, wherever it is at the moment.

What a client can get wrong about a connection is settled here:

- No command is ever sent twice. By default redis-py repeats commands on its own. Here it makes single connections with
  retries off, a `Wire` uses them, and a broken connection is never reopened behind our back.
- A connection knows the run of the Redis that it leads to: it learns that when it is made. So an append carries the run
  without asking INFO each time, and a primary that talks to another Redis than it thinks is refused.
- A request whose answer was lost raises `OutcomeUnknown`; one that was certainly not sent raises `LogUnavailable`. Only
  the first has to be looked into.
- Behind Sentinel and in a cluster the master moves. A connection asks for it when it is made, never in the middle of a
  call. An answer that the master is elsewhere (MOVED, READONLY ...) means that nothing was done: the connection is
  given up, the caller is told, and its next call finds the right place.

`finders.py` finds the master and makes connections; `urls.py` says what a URL means.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import Any, Protocol, Self

import redis

from replicator.errors import LogUnavailable, OutcomeUnknown
from replicator.log.urls import Address, shown
from replicator.log.wire import Limit, Wire
from replicator.runtime.hanging_calls import Aside
from replicator.runtime.process import Owner, let_go_in_child
from replicator.runtime.sharing import FairLock

from .finders import ANSWER_S, SOURCE_WAIT_S, Finder, Opened
from .redis_errors import advice, is_elsewhere

__all__ = [
    "Asking",
    "Exchange",
    "Link",
    "Script",
    "follow",
    "shown",
]


class Script(Protocol):
    """A script's text, and the hash by which Redis knows it."""

    text: bytes
    sha: bytes


DEFAULT_LIMIT = Limit(ANSWER_S)

_CLOSED = "the connection is closed"


class Link:
    """One connection, made when it is needed, and never remade in the middle of a call.

    Every call has a `Limit`, and keeps it whatever hangs: the call before it, the network, the server. The connection
    is made in a thread of its own: a caller that cannot wait any longer leaves, and the next one finds the attempt
    further advanced.
    """

    def __init__(self, finder: Finder, url: str) -> None:
        self._finder = finder
        self._url = url
        self._opened: Opened | None = None
        self._lock = FairLock()
        self._attempts: Aside[None] = Aside("connection", most=1)
        #: Held while the result of an attempt becomes the connection, or while this is closed.
        self._adopting = threading.Lock()
        self._stale = False
        self._closed = False
        self._owner = Owner(f"this connection to {url}")
        let_go_in_child(self, Link._let_go)

    def call(self, *command: Any, limit: Limit = DEFAULT_LIMIT) -> Any:
        """Send one command, return its answer. Raises `LogUnavailable`, `OutcomeUnknown`, or redis' `ResponseError`."""
        opened = self._taken(limit)
        try:
            return opened.wire.ask(*command, limit=limit)
        except BaseException as error:
            raise self._failed(error) from None
        finally:
            self._lock.release()

    def script(
        self,
        script: Script,
        keys: list[bytes],
        *args: Any,
        in_run: bool = False,
        reads: bool = False,
        limit: Limit = DEFAULT_LIMIT,
    ) -> Any:
        """Run a script, and wait for its answer. `in_run`, `reads`: see `Asking`."""
        with Asking(self, script, keys, args, in_run=in_run, reads=reads, limit=limit) as asking:
            return asking.receive()

    def script_then(
        self,
        script: Script,
        keys: list[bytes],
        *args: Any,
        then: tuple[Any, ...],
        limit: Limit = DEFAULT_LIMIT,
        then_limit: Limit = DEFAULT_LIMIT,
    ) -> tuple[Any, Any]:
        """Run a script and, if it answers `ok`, one more command on the very same connection. Return both answers."""
        with Asking(self, script, keys, args, in_run=False, limit=limit) as asking:
            answer = asking.receive()
            return answer, asking.ask_too(*then, limit=then_limit) if answer[0] == b"ok" else None

    @property
    def address(self) -> Address | None:
        """Where the connection leads; None if there is none, or if that cannot change."""
        opened = self._opened
        return opened.address if opened is not None else None

    def leave_other_run(self, run: str) -> None:
        """Have the next call make a new connection, if the run is not the one that the connection learnt."""
        opened = self._opened
        if opened is not None and opened.run != run:
            self._stale = True

    def leave_other_address(self, address: Address) -> None:
        """Close the connection if it leads elsewhere. A call that is waiting for an answer on it fails."""
        opened = self._opened
        if opened is not None and opened.address != address:
            self._stale = True
            self._end()

    def close(self) -> None:
        """Close it for good. A call that is waiting for an answer, such as a blocking read, fails."""
        self._owner.check()
        with self._adopting:
            self._closed = True
        self._attempts.give_up(redis.exceptions.ConnectionError(_CLOSED))
        self._end()

    def _taken(self, limit: Limit) -> Opened:
        """Wait for the connection to be free, and occupy it: whoever has it releases the lock. It is made if need be.

        Raises `WrongProcess` before it waits for a lock.
        """
        self._owner.check()
        if not self._lock.acquire() and not self._lock.acquire(limit.left_s):
            raise self._unavailable("it has not answered the requests before this one")
        try:
            opened = self._opened
            if opened is None or self._stale or not opened.wire.is_open:
                opened = self._connect(limit)
            if limit.until != math.inf and limit.left_s <= 0:
                raise self._unavailable("there was no time left to ask it")
            return opened
        except BaseException:
            self._lock.release()
            raise

    def _connect(self, limit: Limit) -> Opened:
        """Replace the connection. The attempt goes on in its own thread if there is no time to wait for it."""
        self._drop()
        # Before the attempt begins: what another thread learns meanwhile makes the new connection stale as well.
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

    def _answer(self, wire: Wire, *command: Any, limit: Limit) -> Any:
        try:
            return wire.ask(*command, limit=limit)
        except BaseException as error:
            raise self._failed(error) from None

    def _failed(self, error: BaseException) -> BaseException:
        """The error to raise for this one. Unless the server did answer, the connection is of no use any more."""
        if isinstance(error, redis.exceptions.ResponseError):
            if is_elsewhere(error):
                self._drop()
            return error
        if isinstance(error, redis.exceptions.BusyLoadingError | redis.exceptions.AuthenticationError):
            # redis-py calls these connection errors, but the server did answer, and did nothing.
            return self._unavailable(advice(error))
        # An answer that stays unread would be taken for that of the next command.
        self._drop()
        if isinstance(error, redis.exceptions.RedisError | OSError):
            return OutcomeUnknown(url=self._url, problem=str(error) or type(error).__name__)
        return error

    def _let_go(self) -> None:
        if self._opened is not None:
            self._opened.wire.let_go()

    def _drop(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.wire.close()

    def _end(self) -> None:
        """Close the connection, also while another thread uses it."""
        if self._lock.acquire():
            try:
                self._drop()
            finally:
                self._lock.release()
        elif (opened := self._opened) is not None:
            opened.wire.shut_down()


class Exchange:
    """A script that is asked for in two steps: entering sends it, and `receive` gives its answer.

    The connection is this one's until it is left. Left without an answer, by an error or a Ctrl-C in between, it gives
    the connection up: what is unread would be taken for the answer to the next command.
    """

    __slots__ = ("_due", "_limit", "_link", "_opened")

    def __init__(self, link: Link, limit: Limit) -> None:
        self._link = link
        self._limit = limit
        #: The limit of the answer that is due; None: none is.
        self._due: Limit | None = None

    def _sent(self) -> Limit:
        """Send it by its hash; the limit for its answer."""
        raise NotImplementedError

    def _asked_otherwise(self, refused: redis.exceptions.ResponseError) -> Any:
        """The answer, although Redis does not know the script, or the user may not do it so: nothing was done yet."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._opened = self._link._taken(self._limit)
        try:
            self._due = self._sent()
        except BaseException as error:
            try:
                raise self._link._failed(error) from None
            finally:
                self.__exit__()
        return self

    def receive(self) -> Any:
        """The answer. A script that Redis does not know, as after a restart, has done nothing: so to send its text then
        is no repeat.
        """
        assert self._due is not None
        try:
            answer = self._opened.wire.receive(self._due)
        except (redis.exceptions.NoScriptError, redis.exceptions.NoPermissionError) as refused:
            self._due = None
            return self._asked_otherwise(refused)
        except BaseException as error:
            failed = self._link._failed(error)
            self._due = None
            raise failed from None
        self._due = None
        return answer

    def ask_too(self, *command: Any, limit: Limit) -> Any:
        """Send one more command on the very same connection, and give its answer."""
        return self._link._answer(self._opened.wire, *command, limit=limit)

    def __exit__(self, *_: object) -> None:
        try:
            if self._due is not None:
                self._link._drop()
        finally:
            self._link._lock.release()


class Asking(Exchange):
    """Any script, by its keys and arguments.

    `in_run`: its first argument is the run that this very connection belongs to. `reads`: it only reads, so a Redis
    that can tell asks for no right to write (EVALSHA says that all keys are written to, EVALSHA_RO that they are read).
    """

    __slots__ = ("_apart", "_args", "_in_run", "_keys", "_reads", "_script")

    def __init__(
        self,
        link: Link,
        script: Script,
        keys: list[bytes],
        args: tuple[Any, ...],
        *,
        in_run: bool,
        reads: bool = False,
        limit: Limit,
    ) -> None:
        super().__init__(link, limit)
        self._script = script
        self._keys = keys
        self._args = args
        self._in_run = in_run
        self._reads = reads
        #: Whether the command for scripts that only read is the one that was sent.
        self._apart = False

    def _sent(self) -> Limit:
        keys, opened = self._keys, self._opened
        if self._in_run:
            self._args = (opened.run, *self._args)
        self._apart = self._reads and opened.reads_apart
        name = b"EVALSHA_RO" if self._apart else b"EVALSHA"
        return opened.wire.send(name, self._script.sha, len(keys), *keys, *self._args, limit=self._limit)

    def _asked_otherwise(self, refused: redis.exceptions.ResponseError) -> Any:
        if isinstance(refused, redis.exceptions.NoScriptError):
            keys, name = self._keys, b"EVAL_RO" if self._apart else b"EVAL"
            return self.ask_too(name, self._script.text, len(keys), *keys, *self._args, limit=self._limit)
        if self._apart and "evalsha_ro" in str(refused):
            return self._as_one_that_writes(refused)
        raise self._link._failed(refused) from None

    def _as_one_that_writes(self, refused: Exception) -> Any:
        """The user may not use the command for scripts that only read: he may be older than this. If he may not use the
        other one either, that was `refused`.
        """
        link, keys = self._link, self._keys
        try:
            with_sha = (self._script.sha, len(keys), *keys, *self._args)
            try:
                answer = self.ask_too(b"EVALSHA", *with_sha, limit=self._limit)
            except redis.exceptions.NoScriptError:
                answer = self.ask_too(b"EVAL", self._script.text, *with_sha[1:], limit=self._limit)
        except redis.exceptions.NoPermissionError:
            raise refused from None
        if link._opened is not None:
            link._opened = link._opened._replace(reads_apart=False)
        return answer


def follow(finder: Finder, links: Iterable[Link], *, wait_s: float = SOURCE_WAIT_S) -> None:
    """Close the connections to a Redis that is no longer the master.

    A master that hung while the sentinels chose another one accepts writes on its old connections for seconds after it
    is back, and loses them all when the sentinels make it a replica. The sentinels are waited for no longer than
    `wait_s`; if none answers, nothing changes.
    """
    connected = [link for link in links if link.address is not None]
    address = finder.master(wait_s) if connected else None
    if address is not None:
        for link in connected:
            link.leave_other_address(address)
