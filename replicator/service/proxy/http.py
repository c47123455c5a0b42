"""Requests, over ASGI: passed to a program, and its answer sent back, both as they come.

A write is answered once three things are so: the program has answered, the node led in one term all the while, and what
the program wrote by then is in the log. If one of them is not known, the client hears that (`outcome_unknown`), and
nothing is sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any

import anyio
import anyio.to_thread
import httpx

from ...errors import NotRunning, PositionLost
from ...web.error_codes import BUSY, PRIMARY_UNNAMED, PRIMARY_UNREACHABLE
from ...web.failures import ALL_ANSWERS, Refusal, answer_of, failure_of, problem
from ...web.forward import Header
from ...web.guard.token_bearer import Nodes
from .answer import Answer
from .body import ClientGone
from .headers import REFUSED, answered, passed_on, trusts
from .options import ProxyOptions
from .passing import Again, Passing
from .place import Place
from .publications import Publications
from .routing import Follow, Local, Remote, may_repeat
from .upstream import Broken, NotSent, Outgoing, Upstream
from .visit import Receive, Scope, Send, Visit

__all__ = ["HttpProxy"]

PROGRAM_UNREACHABLE = "program_unreachable"

#: How long the end of an answer is waited for before the beginning goes out: of a write, which is published in between,
#: and of a read, which is asked for again if it breaks off.
HOLD_WRITE_S, HOLD_READ_S = 1.0, 0.2

#: How long a read waits on a standby for the position that it has to find, before it goes to the primary.
POSITION_WITHIN_S = 2.0

#: A proxy that passed a request on has its answer long before the other one's node is taken for dead. After that, and
#: so much more, nobody waits for the answer of a machine that is gone.
REPLACED_FOR_S = 2.0
LOOK_EVERY_S = 0.2

PUBLISH_AGAIN_S = 0.05

#: Threads that wait for positions.
WAITS_MAX = 64


class HttpProxy:
    """An ASGI application for requests. All of it runs on one event loop."""

    def __init__(self, place: Place, passing: Passing, options: ProxyOptions) -> None:
        self._place = place
        self._passing = passing
        self._options = options
        self._named = Nodes(options.to) if options.to else None
        self._trusted = options.trusted
        self._publications = Publications(place.beside.publish_now)
        self._upstreams: tuple[Upstream, Upstream] | None = None
        self._waits: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            visit = self._visit(scope, receive)
            if visit.nonce is not None:
                self._place.node.hear(visit.nonce)
                await _send_whole(send, 204, [], b"")
                return
            with self._passing.measures.keeping(visit.body):
                await self._pass(visit, sent)
        except ClientGone:
            pass
        except Exception as error:
            if not has_begun:
                await _refuse(send, error)
            elif not isinstance(error, httpx.HTTPError):
                raise
            # Of an answer that has begun, nothing but its end can tell that it breaks off.

    def _visit(self, scope: Scope, receive: Receive) -> Visit:
        try:
            return Visit(scope, receive)
        except Refusal as refusal:
            self._passing.measures.not_taken(refusal)
            raise

    async def _pass(self, visit: Visit, send: Send) -> None:
        passing = self._passing
        try:
            # At the client's pace. What was known of the primary when it began to send may not be so at its end; and it
            # keeps no switchover waiting.
            await visit.body.begin()
            answer = await passing.until_taken(visit.asked, lambda where: self._attempt(visit, where))
        except Exception as error:
            passing.measures.not_taken(error)
            raise
        try:
            await _relayed(visit, answer, send)
        finally:
            await answer.close()

    # --- where it goes ---

    async def _attempt(self, visit: Visit, where: Local | Follow | Remote) -> Answer:
        if isinstance(where, Local):
            return await self._local(visit, where.term)
        return await (self._followed(visit) if isinstance(where, Follow) else self._remote(visit, where.url))

    async def _local(self, visit: Visit, term: int) -> Answer:
        with self._place.beside.requests.one():
            # Counted before it is looked: whoever wants the program to stop sees the one or the other.
            answer = await self._asked(visit, self._options.target_url, to_program=True, term=term)
            async with _closed_on_error(answer):
                await self._held(visit, answer)
                if not visit.asked.is_safe and self._options.publish:
                    await self._publish(visit, term)
                elif not self._place.leads_in(term):
                    raise self._given_up(visit, "the node does not lead any more")
            return answer

    def _check_takes(self, term: int) -> None:
        if self._place.beside.program_term != term:
            raise Again("not_primary", "the node led until a moment ago")

    async def _while_leading(self, pieces: AsyncIterator[bytes], term: int) -> AsyncIterator[bytes]:
        """A program does not get all of a request that outlasts the lease."""
        async for piece in pieces:
            if not self._place.leads_in(term):
                raise Broken("was not sent all of it: the node does not lead any more")
            yield piece

    async def _followed(self, visit: Visit) -> Answer:
        if (position := visit.position) is not None:
            await self._reach(visit, position)
        if self._place.node.state_problem:
            raise Again(PROGRAM_UNREACHABLE, "this standby is not what was published", needs_primary=True)
        try:
            answer = await self._asked(visit, self._options.target_url, to_program=True)
            async with _closed_on_error(answer):
                await self._held(visit, answer)
        except Again as again:
            raise Again(again.code, str(again), needs_primary=True) from None
        return answer

    async def _reach(self, visit: Visit, position: str) -> None:
        node, within_s = self._place.node, min(POSITION_WITHIN_S, self._options.wait_s)
        self._waits = self._waits or anyio.CapacityLimiter(WAITS_MAX)
        try:
            try:
                node.wait(position=position, timeout_s=0)  # it is mostly there
            except TimeoutError:
                wait = _waiting(node.wait, position, within_s)
                async with asyncio.timeout(within_s):  # a thread is waited for, too
                    await anyio.to_thread.run_sync(wait, abandon_on_cancel=True, limiter=self._waits)
        except PositionLost:
            lost = (b"replicator-lost", position.encode())
            visit.more = [lost, (b"set-cookie", visit.cookie.cleared.encode())]
        except (TimeoutError, NotRunning):
            raise Again(PROGRAM_UNREACHABLE, f"this standby has not reached {position}", needs_primary=True) from None

    async def _remote(self, visit: Visit, url: str) -> Answer:
        self._check_named(visit, url)
        asking = asyncio.ensure_future(self._asked_and_held(visit, url))
        replaced = asyncio.ensure_future(self._is_replaced(url))
        try:
            await asyncio.wait({asking, replaced}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise self._given_up(visit, f"{url} is not the primary's proxy any more, and has not answered")
            answer = await asking
        finally:
            await _cancelled(asking, replaced)
        code = next((value.decode("latin-1") for name, value in answer.headers if name.lower() == REFUSED.encode()), "")
        if code and visit.body.is_whole:
            await answer.close()
            raise Again(code, f"the proxy at {url} passed it to no program")
        return answer

    async def _asked_and_held(self, visit: Visit, url: str) -> Answer:
        answer = await self._asked(visit, url, to_program=False)
        async with _closed_on_error(answer):
            await self._held(visit, answer)
        return answer

    async def _is_replaced(self, url: str) -> None:
        """Return once another node, or nobody, has been the primary for a while."""
        since: float | None = None
        while True:
            now = asyncio.get_running_loop().time()
            since = None if self._place.standing().primary == url else since if since is not None else now
            if since is not None and now - since > REPLACED_FOR_S:
                return
            await asyncio.sleep(LOOK_EVERY_S)

    def _check_named(self, visit: Visit, url: str) -> None:
        """Raises `Refusal` if the request is not to be shown to the server there (`web/forward.py` has the rule)."""
        if self._named is None and visit.has_token:
            what = "a request with a token is passed only to proxies that --proxy-to names"
        elif self._named is not None and not self._named.has(url):
            what = "--proxy-to does not name it"
        else:
            return
        raise Refusal(503, PRIMARY_UNNAMED, f"the primary's proxy is at {url}, and {what}; nothing was sent")

    # --- what becomes of it ---

    async def _asked(self, visit: Visit, url: str, *, to_program: bool, term: int = 0) -> Answer:
        """`term`: the one in which this node has to lead, until all of it is sent; 0: that is no matter."""
        onward = passed_on(
            visit.headers,
            client=visit.client,
            scheme=visit.scheme,
            is_trusted=trusts(self._trusted, visit.client),
            by=self._place.node.name,
            to_program=to_program,
        )
        content = visit.body.content()
        if term and content is not None and not isinstance(content, bytes):
            content = self._while_leading(content, term)
        outgoing = Outgoing(visit.method, visit.target, onward.headers, content)
        program, proxy = self._both()
        try:
            answer = await (program if to_program else proxy).ask(
                url, outgoing, is_safe=visit.asked.is_safe, check=lambda: self._check_takes(term) if term else None
            )
        except NotSent as error:
            code = BUSY if error.is_full else PROGRAM_UNREACHABLE if to_program else PRIMARY_UNREACHABLE
            raise Again(code, f"the server at {url} takes no connection ({error})") from None
        except Broken as error:
            raise self._given_up(visit, f"the server at {url} {error}", timed_out=error.timed_out) from None
        answer.headers = answered(answer.headers, by_program=to_program)
        return answer

    def _both(self) -> tuple[Upstream, Upstream]:
        """To the program, and to other proxies, which may wait for theirs as long as this one does."""
        if self._upstreams is None:
            timeout_s, wait_s = self._options.timeout_s, self._options.wait_s
            self._upstreams = Upstream(timeout_s), Upstream(timeout_s + 2 * wait_s)
        return self._upstreams

    async def _held(self, visit: Visit, answer: Answer) -> None:
        if answer.is_stream:
            return
        try:
            await answer.hold(HOLD_READ_S if visit.asked.is_safe else HOLD_WRITE_S)
        except httpx.HTTPError as error:
            raise self._given_up(visit, f"the answer broke off ({error})") from None

    def _given_up(self, visit: Visit, why: str, *, timed_out: bool = False) -> Exception:
        """What comes of a request that was sent and has no answer."""
        whole = visit.body.is_whole
        if not timed_out and may_repeat(is_safe=visit.asked.is_safe, was_sent=True, body_is_whole=whole):
            return Again(PROGRAM_UNREACHABLE, why)
        if visit.asked.is_safe:
            return Refusal(504 if timed_out else 502, "no_answer", why)
        message = f"{why}: the request may or may not have been carried out; read before you repeat it"
        return Refusal(504 if timed_out else 502, "outcome_unknown", message)

    async def _publish(self, visit: Visit, term: int) -> None:
        """Return once what the program wrote is in the log, by the node that led. Raises `Refusal`."""
        await asyncio.sleep(self._options.settle_s)
        clock = asyncio.get_running_loop().time
        until = clock() + self._options.wait_s
        while True:
            publication = await self._publications.of_now()
            leads = self._place.leads_in(term)
            if leads and not publication.problem:
                break
            if not leads or clock() >= until:
                why = publication.problem or "the node does not lead any more"
                message = (
                    f"the program answered, and it is not known whether what it wrote is in the log ({why}): "
                    "read before you repeat it"
                )
                raise Refusal(504, "outcome_unknown", message)
            await asyncio.sleep(PUBLISH_AGAIN_S)
        position = publication.position
        visit.more = [
            (b"replicator-position", position.encode()),
            (b"set-cookie", visit.cookie.set_to(position).encode()),
        ]


def _waiting(wait: Callable[..., None], position: str, timeout_s: float) -> Callable[[], None]:
    return lambda: wait(position=position, timeout_s=timeout_s)


class _closed_on_error:
    """The answer is closed if something goes wrong before it goes out."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: object, error: BaseException | None, at: object) -> None:
        if error is not None:
            await self._answer.close()


async def _cancelled(*tasks: asyncio.Future[object] | asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _relayed(visit: Visit, answer: Answer, send: Send) -> None:
    """Send it, until its end or until the client has left."""
    names = {name for name, _ in visit.more} - {b"set-cookie"}
    headers = [header for header in answer.headers if header[0] not in names] + visit.more
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    for piece in answer.held:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if not answer.has_ended:
        going = asyncio.ensure_future(_streamed(answer, send))
        gone = asyncio.ensure_future(visit.is_gone())
        try:
            await asyncio.wait({going, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not going.done():
                return
            await going
        finally:
            await _cancelled(going, gone)
    await send({"type": "http.response.body", "body": b""})


async def _streamed(answer: Answer, send: Send) -> None:
    async for piece in answer.rest():
        await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _refuse(send: Send, error: Exception) -> None:
    if not isinstance(error, Refusal):
        # A bug, or nearly one. Whatever it says of itself, nobody knows what became of the request: 500.
        bug = RuntimeError(repr(error))
        bug.__cause__, error = error, bug
    failure = failure_of(error, ALL_ANSWERS)
    assert failure is not None  # all of them have an answer
    answer = answer_of(failure, problem)
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    if failure.status == 503:  # nothing was sent
        headers.append((REFUSED.encode(), failure.code.encode()))
    await _send_whole(send, answer.status, headers, answer.body)


async def _send_whole(send: Send, status: int, headers: list[Header], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
