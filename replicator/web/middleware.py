"""What is done with a request before and after the application, for every server and framework.

    before:  answer it here (a probe, a redirect, a refusal), or forward it, or let the application have it
    after:   stamps and the cookie on whatever goes out; an error of this package becomes an answer

`Middleware` decides. It holds no socket and waits for nobody: what there is to wait for it yields, as a `Reach` or a
`Pause`, and a shell (`asgi.py`, `wsgi.py`) does that in its own way, throws in what came of it, and goes on.

The rules, in this order:

1. `Replicator-Wait` is a promise that was asked for: the answer has that position, or is an error (504; 409 if it was
   lost in a failover).
2. A write goes to the primary, unless `writes="local"`. Nobody there: it waits `primary_within_s`, and is answered 503.
   What another node forwarded is not sent on once more, so nothing goes round in circles.
3. A read waits for the position in the cookie. It is a hint that nobody asked for, so it ends with an answer whatever
   becomes of it. Lost in a failover: the cookie is cleared, and `Replicator-Lost` says so. Not reached in time: the
   request goes to the primary, as a write does; where there is none, or `writes="local"`, the state is shown as it is,
   and `Replicator-Behind` says that it may lack what the browser wrote. On the primary itself, a position that it has
   not reached is of another history: lost.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, NamedTuple, TypeAlias

import orjson

from ..errors import NotPrimary, NotRunning, PositionLost, ReplicatorError, WrongProcess
from ..format.ids import RecordId
from ..runtime.request_writes import CURRENT, Writes
from .content import Content
from .error_codes import PRIMARY_UNREACHABLE
from .failures import Answer, Failure, Full, Refusal, answer_of, failure_of, half_done, problem
from .head import POSITION, Head
from .metrics import metrics_answer
from .options import Options
from .page import page_answer
from .probes import METHODS, PROBES, PROBLEM_DETAILS
from .redirect import on_the_primary, redirect_of, redirect_to
from .served_node import Facts, ServedNode

__all__ = ["CURRENT", "Forward", "Middleware", "Pause", "Reach", "Step", "Steps", "Visit", "answer", "answered"]

#: So long a primary waits for what a cookie says that a standby had.
AHEAD_S = 1.0

#: How often it looks for a primary while there is none.
LOOK_EVERY_S = 0.05


#: A client that gets one of these makes the request again, because nothing came of it.
NOT_BEGUN = frozenset((307, 503))


ALLOW = ("Allow", ", ".join(METHODS))


class Reach(NamedTuple):
    """Wait until the node has this position. The shell throws in what `Node.wait` raises."""

    position: str
    timeout_s: float


class Pause(NamedTuple):
    seconds: float


class Forward(NamedTuple):
    """Send the request to this URL, and the answer back."""

    url: str


Step: TypeAlias = Reach | Pause

#: What is to be done with a request: answer it, forward it, or (None) let the application have it.
Steps: TypeAlias = Generator[Step, None, Answer | Forward | None]


class Visit(Writes):
    """One request on its way through."""

    __slots__ = ("behind", "carried", "content", "head", "is_write", "lost", "middleware")

    def __init__(self, head: Head, middleware: Middleware) -> None:
        super().__init__()
        self.head = head
        self.middleware = middleware
        self.is_write = False
        #: What its key goes by, if it has an `Idempotency-Key`.
        self.content: Content | None = None
        #: The position that its cookie carries.
        self.carried: RecordId | None = None
        #: The one that a failover lost, and the one that is not reached yet.
        self.lost: str | None = None
        self.behind: str | None = None


class Middleware:
    """The rules above, for one node."""

    def __init__(self, node: ServedNode[Any], options: Options) -> None:
        self.node = node
        self.options = options
        self._metrics = options.metrics_path
        self._cookie = options.cookie
        self._probes = options.probe_paths
        self._page = options.page_paths

    # --- before the application ---------------------------------------------------------------------------------------

    def before(self, visit: Visit) -> Steps:
        """Raises what comes to an answer by `answer`: `Refusal`, and what nodes raise."""
        head, options = visit.head, self.options
        if head.nonce is not None:
            self.node.hear(head.nonce)
        if head.path == self._metrics:
            return metrics_answer(self.node, head.method, self.render)
        if head.path in self._probes:
            yield from self._asked_for(head)
            return self._probed(head)
        if head.path in self._page:
            return (yield from self._shown(head, self._page[head.path]))
        if self._cookie is not None:
            visit.carried = self._cookie.read(head.cookies)
        elif options.writes == "local" and head.wait is None:
            return None
        visit.is_write = options.is_write(head.method, head.path)
        if visit.is_write and options.writes != "local":
            url = yield from self._primary(head)
            if url is not None:
                return (yield from self._to(url, str(NotPrimary(node=self.node.name, primary=url))))
        yield from self._asked_for(head)
        if visit.carried is not None and not visit.is_write:
            return (yield from self._carried_by(visit, str(visit.carried)))
        return None

    def _asked_for(self, head: Head) -> Generator[Step, None, None]:
        position = head.wait
        if position is None:
            return
        if not POSITION.fullmatch(position):
            message = "Replicator-Wait must be a position as Replicator-Position gives it, like 5-1042"
            raise Refusal(400, "invalid_header", message, field="Replicator-Wait")
        try:
            yield from self._reach(position, self.options.wait_timeout_s)
        except TimeoutError:
            within = f"{self.options.wait_timeout_s:g} s"
            message = f"{position} was not applied here within {within}; ask again, or another node"
            raise Refusal(504, "wait_timeout", message, field="Replicator-Wait") from None

    def _reach(self, position: str, timeout_s: float) -> Generator[Step, None, None]:
        try:
            self.node.wait(position=position, timeout_s=0)
        except TimeoutError:  # it is mostly there: no thread is needed to see that
            yield Reach(position, timeout_s)

    def _carried_by(self, visit: Visit, position: str) -> Steps:
        # A standby may have shown a moment ago what the primary is about to have; more than that it is not ahead.
        timeout_s = self.options.wait_timeout_s
        try:
            yield from self._reach(position, min(timeout_s, AHEAD_S) if self.node.leads else timeout_s)
        except PositionLost:
            visit.lost = position
        except (NotRunning, Full):
            visit.behind = position
        except TimeoutError:
            return (yield from self._too_late(visit, position))
        return None

    def _too_late(self, visit: Visit, position: str) -> Steps:
        if self.node.leads:
            visit.lost = position  # it is no position of the history that there is
            return None
        local = self.options.writes == "local" or visit.head.is_forwarded
        url = None if local else on_the_primary(self.node, visit.head)
        if url is None:
            visit.behind = position
            return None
        return (
            yield from self._to(url, f"{position}, which the cookie names, is not on this node yet; the primary has it")
        )

    def _primary(self, head: Head) -> Generator[Step, None, str | None]:
        """The request's URL on the primary; None: that is this node. Waits for one. Raises `NotPrimary`."""
        node, until = self.node, None
        while not node.leads:
            if not head.is_forwarded and (url := on_the_primary(node, head)):
                return url
            unready = node.unready
            if node.role == "primary" and node.state_problem:
                return None  # it will not lead by itself; the application's write says why
            if unready is not None and unready.code in ("not_running", "stopping", "failed", "stalled"):
                break
            now = time.monotonic()
            until = until if until is not None else now + self.options.primary_within_s
            if now >= until or (head.is_forwarded and node.role != "primary"):
                break
            yield Pause(min(LOOK_EVERY_S, until - now))
        self._refuse_unless_ours(head)
        return None

    def _refuse_unless_ours(self, head: Head) -> None:
        """A node that is the primary, and does not lead, has words of its own for that."""
        node, unready = self.node, self.node.unready
        if node.role == "primary":
            return
        if unready is not None and unready.code == "not_running":
            raise NotRunning(node.name)
        if head.is_forwarded:
            hint = "another node took it for the primary, and sent this here: try again in a moment"
            raise NotPrimary(node=node.name, hint=hint)
        raise NotPrimary(node=node.name)

    def _to(self, url: str, message: str) -> Steps:
        """There: a redirect at once, and forwarded once the server at that URL has proved that it is the primary."""
        if self.options.writes != "forward":
            return self.render(redirect_to(url, message))
        until = time.monotonic() + self.options.primary_within_s
        while not self.node.has_proven(url):
            if time.monotonic() >= until:
                where = f"the server at {url.partition('?')[0]} did not prove that it is the primary"
                raise Refusal(503, PRIMARY_UNREACHABLE, f"{where}; nothing was sent: try again in a moment")
            yield Pause(LOOK_EVERY_S)
        return Forward(url)

    # --- probes -------------------------------------------------------------------------------------------------------

    def _probed(self, head: Head) -> Answer:
        name = self._probes[head.path]
        render = problem if name in PROBLEM_DETAILS else self.options.errors
        if head.method not in METHODS:
            answer = answer_of(Failure(status=405, code="wrong_method", message="not with this method"), render)
            return answer._replace(headers=[*answer.headers, ALLOW])
        found = PROBES[name](self.node, head.query)
        if isinstance(found, Failure):
            answer = answer_of(found, render)
        else:
            body = orjson.dumps(found)
            answer = Answer(200, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))], body)
        return answer if head.method != "OPTIONS" else _without_body(answer)

    def _shown(self, head: Head, path: str) -> Generator[Step, None, Answer]:
        assert self.options.page is not None
        Facts.of(self.node)  # or it raises `WrongProcess`: nobody looks in a forked child
        steps = page_answer(self.options.page, head, path)
        while True:
            try:
                yield Pause(next(steps))
            except StopIteration as end:
                answer: Answer = end.value
                return answer

    # --- what goes out ------------------------------------------------------------------------------------------------

    def stamps(self, visit: Visit, facts: Facts | None = None) -> list[tuple[bytes, bytes]]:
        """Headers for an answer that begins now. `facts`: of what it shows, if they are known. Raises `WrongProcess`:
        a worker that cannot use the node is to say so at each request, and not to serve half of them.
        """
        facts = facts or Facts.of(self.node)
        headers = facts.headers
        if visit.lost is not None:
            headers.append((b"replicator-lost", visit.lost.encode()))
        if visit.behind is not None:
            headers.append((b"replicator-behind", visit.behind.encode()))
        if self._cookie is not None and (cookie := self._cookie_after(visit, facts.position)):
            headers.append((b"set-cookie", cookie.encode()))
        return headers

    def stamps_of_ours(self, visit: Visit, facts: Facts | None = None) -> list[tuple[bytes, bytes]]:
        """The same for an answer that the middleware gives itself."""
        try:
            return self.stamps(visit, facts)
        except WrongProcess:  # there are no facts to stamp
            return []

    def _cookie_after(self, visit: Visit, position: str) -> str | None:
        cookie = self._cookie
        assert cookie is not None
        if visit.is_write or cookie.after == "all":
            # A node that lags must not take the browser back.
            if visit.lost is None and visit.carried is not None and visit.carried >= RecordId.parse(position):
                return None
            return cookie.set_to(position)
        return cookie.cleared if visit.lost is not None else None

    def answer(self, error: Exception, visit: Visit) -> Answer | None:
        """What an error comes to; None: it is not ours."""
        # What was read of the body cannot be forwarded any more, and the primary may be out of the client's reach; so
        # it may be if another node is between.
        redirects = self.options.writes != "forward" and not visit.head.is_forwarded
        try:
            redirect = redirect_of(error, self.node, visit.head) if redirects else None
        except (WrongProcess, Refusal):  # there is no URL to go to
            redirect = None
        failure = redirect or failure_of(error, self.options.answers, request=str(visit.head))
        if failure is not None and visit.writes and isinstance(error, ReplicatorError) and failure.status in NOT_BEGUN:
            failure = half_done(error)
        return self.render(failure) if failure is not None else None

    def render(self, failure: Failure) -> Answer:
        return answer_of(failure, self.options.errors)


def _without_body(answer: Answer) -> Answer:
    kept = [header for header in answer.headers if header[0] not in ("Content-Type", "Content-Length")]
    return Answer(answer.status, [*kept, ALLOW, ("Content-Length", "0")], b"")


def answer(error: Exception) -> tuple[bytes, int, list[tuple[str, str]]]:
    """An error of this package as an answer of Flask and Quart: `app.register_error_handler(ReplicatorError, answer)`.

    They let no exception out to a middleware. The answer is the one that the middleware of this request gives.
    """
    found = answered(error)
    if found is None:
        raise error
    return found.body, found.status, found.headers


def answered(error: Exception) -> Answer | None:
    """What an error comes to in the request that is under way; None: it is not ours, or there is no such request."""
    visit = CURRENT.get()
    return visit.middleware.answer(error, visit) if isinstance(visit, Visit) else None
