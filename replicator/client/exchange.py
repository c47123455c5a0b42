"""One request of a client, from its first attempt to what its caller gets. Decides, and does nothing: no clock, no I/O.

`next` says what is to be done, and whoever does it says what came of it:

    Find    look the nodes up            -> `found`, `not_found`
    Send    send the request there       -> `answered`, `broke`
    Pause   wait                         -> nothing to say
    Done    the answer last given is what the caller gets
    Fail    the caller gets this error

Both clients are a loop around that (`client.py`, `async_client.py`). The rules:

1. Nothing is repeated that may have landed, unless it has a key (then it lands once however often it is sent) or only
   reads. A write that nobody received, or that a node says it did not write, is sent again whatever it is.
2. An answer about the request (a result, 404, 422) is the caller's. One about the service ("I am not the primary") is
   ours to deal with, until the deadline.
3. Once an attempt may have landed, the request ends with an answer or with `OutcomeUnknown`, whatever came after it.
   So no write is begun that a node would hold back for longer than there is time, as it did before: it would be cut
   off, and nobody could say that nothing was written.
4. Reads go to standbys, each in its turn, then to the primary, and carry the newest position that this client has
   seen: a node answers once it has that. If the position was lost in a failover, that is told once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import Fenced, NotAcknowledged, NotPrimary, OutcomeUnknown, PositionLost, ReplicatorError
from ..format.ids import RecordId
from ..runtime.backoff import Backoff
from ..web.error_codes import BUSY, PRIMARY_UNREACHABLE, WAIT_TIMEOUT
from .answers import Answer, base_of, error_of
from .known import Known, Nodes

__all__ = ["Call", "Done", "Exchange", "Fail", "Find", "Pause", "Send", "Step"]

#: A failover takes a lease, seconds; a hiccup some milliseconds.
PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 1.0

#: So many redirects in a row are two nodes that send to each other.
REDIRECTS_MAX = 3

#: A proxy in between has no answer of a node.
OF_A_GATEWAY = (502, 503, 504)

#: Nothing was carried out, and nothing is wrong with the request: there, or elsewhere, it may go better in a moment.
IN_A_MOMENT = (BUSY, PRIMARY_UNREACHABLE)

#: A request is refused for its `Replicator-Term`: this very request wrote nothing.
OF_THE_TERM = ("stale_term", "unknown_term")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is asked for. `headers`: the caller's, with names in lower case. `key`: of a write that may be repeated."""

    method: str
    path: str
    is_read: bool
    key: str | None = None
    fresh: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def may_be_repeated(self) -> bool:
        return self.is_read or self.key is not None


class Find(NamedTuple):
    """Look the nodes up."""


class Send(NamedTuple):
    """Send it to the node at `url`, with these headers, and wait no longer for the answer."""

    url: str
    headers: Mapping[str, str]
    timeout_s: float


class Pause(NamedTuple):
    seconds: float


class Done(NamedTuple):
    """The answer last given is the caller's."""


class Fail(NamedTuple):
    error: Exception


Step = Find | Send | Pause | Done | Fail


class Exchange:
    """`until`: by the clock whose `now` is given. `attempt_s`: how long one node is waited for, if there may be others
    to ask."""

    def __init__(
        self, call: Call, known: Known, *, until: float, attempt_s: float, backoff: Backoff | None = None
    ) -> None:
        self._call = call
        self._known = known
        self.until = until
        self._attempt_s = attempt_s
        self._backoff = backoff or Backoff(PAUSE_S_MIN, PAUSE_S_MAX)
        self._turn = known.turn() if call.is_read else 0
        #: The end, once there is one.
        self._end: Done | Fail | None = None
        self._must_find = False
        self._pause_s = 0.0
        #: Where it was sent since the last pause; where it is now; where the node there says that it belongs.
        self._tried: set[str] = set()
        self._at = ""
        self._sent_to: str | None = None
        self._redirects = 0
        #: When it was sent there. Whether that node knew of nobody who leads; how long each one held it back for that.
        self._sent_at = 0.0
        self._was_held = False
        self._holds_s: dict[str, float] = {}
        #: The position that it asked for.
        self._token: RecordId | None = None
        #: What went wrong last; and why an attempt may have landed, if one may.
        self._problem: Exception | None = None
        self._doubt = ""

    def next(self, now: float) -> Step:
        if self._end is not None:
            return self._end
        if self._was_held:
            self._was_held, self._holds_s[self._at] = False, now - self._sent_at
        left_s = self.until - now
        if left_s <= self._pause_s:  # nothing would be sent after that pause
            return self._ends(Fail(self._too_late()))
        if self._pause_s:
            pause, self._pause_s = Pause(self._pause_s), 0.0
            return pause
        if self._must_find or self._known.nodes is None or self._known.is_old(now):
            return Find()
        url = self._sent_to or self._untried(left_s)
        if url is None:
            if not self._tried and not self._places():
                self._problem = self._nobody()
            self._wait()
            return self.next(now)
        self._at, self._sent_at, self._sent_to = url, now, None
        self._tried.add(url)
        return Send(url, self._headers(), self._patience_s(left_s))

    # --- what came of it ---

    def found(self, nodes: Nodes, now: float) -> None:
        self._must_find = False
        self._known.found(nodes, now)

    def not_found(self, error: Exception, now: float) -> None:
        """Nobody could say which nodes there are. Those that are known are asked all the same."""
        self._must_find = False
        self._known.not_found(now)
        if self._known.nodes is None:
            self._problem = error
            self._wait()

    def answered(self, answer: Answer) -> None:
        self._known.hear(self._at, answer.role)
        if (
            answer.status == 307
            and answer.code == "not_primary"
            and (base := base_of(answer.location, self._call.path))
        ):
            self._redirected(base)
        elif self._doubt and answer.code in OF_THE_TERM:
            self._fails(ReplicatorError(answer.message))  # this one was not written; the one before it may be
        elif self._is_about_the_service(answer):
            self._deal_with(answer)
        else:
            self._known.saw(answer.position)
            self._ends(Done())

    def broke(self, problem: str, *, sent: bool) -> None:
        """There was no answer. `sent`: the node may have received the request."""
        if sent:
            self._may_have_landed(f"no answer from {self._at} ({problem})")
        else:
            self._again(self._unreached(problem))

    def withheld(self, error: ReplicatorError) -> None:
        """It cannot be sent there: what is needed is not for that node."""
        self._fails(error)

    # --- decisions ---

    def _is_about_the_service(self, answer: Answer) -> bool:
        """What the application says of the request is for the caller: 4xx, but for two, and failures of its own."""
        if answer.kind is None:
            is_gateway = answer.status in OF_A_GATEWAY and not answer.role
            return is_gateway or answer.code in (*IN_A_MOMENT, WAIT_TIMEOUT)
        return answer.status >= 500 or issubclass(answer.kind, Fenced | PositionLost)

    def _deal_with(self, answer: Answer) -> None:
        kind, error = answer.kind, error_of(answer)
        if kind is None or error is None:
            self._deal_with_no_error_of_ours(answer)
        elif issubclass(kind, PositionLost):
            self._known.drop(self._token)
            self._fails(error)
        elif issubclass(kind, OutcomeUnknown) or (kind is ReplicatorError and not self._call.is_read):
            self._may_have_landed(str(error))  # what failed may have been something after the write
        elif issubclass(kind, Fenced) and "replicator-term" in self._call.headers:
            self._fails(error)  # the caller wanted this term, and no other
        elif answer.status == 503 or issubclass(kind, Fenced):
            self._was_held = issubclass(kind, NotPrimary)
            self._again(error)  # nothing was written
        elif self._call.is_read and not issubclass(kind, NotAcknowledged) and self._untried() is not None:
            self._again(error)  # this node is broken, and there are others
        else:
            self._fails(error)

    def _deal_with_no_error_of_ours(self, answer: Answer) -> None:
        if answer.code == WAIT_TIMEOUT:
            self._again(TimeoutError(answer.message))
        elif answer.code in IN_A_MOMENT:
            is_lost = answer.code == PRIMARY_UNREACHABLE and not self._call.is_read
            self._again(NotPrimary("{hint}", hint=answer.message) if is_lost else TimeoutError(answer.message))
            if self._untried() is None:
                self._wait()
                self._pause_s = max(self._pause_s, answer.retry_after_s)
        else:
            self._may_have_landed(f"{self._at} answers {answer.status}, and no node of the group said so")

    def _redirected(self, base: str) -> None:
        self._redirects += 1
        self._known.learn_primary(base)
        if self._redirects > REDIRECTS_MAX:
            self._again(_not_primary("the nodes send a write to each other"))
            self._wait()
        else:
            self._sent_to = base

    def _may_have_landed(self, problem: str) -> None:
        if self._call.is_read:
            self._again(TimeoutError(f"{self._call}: {problem}"))
            return
        self._doubt = problem
        if self._call.key is None:
            self._ends(Fail(self._too_late()))
        else:
            self._again(None)

    def _again(self, problem: Exception | None) -> None:
        self._problem = problem or self._problem
        self._must_find = True

    def _wait(self) -> None:
        """Everybody was asked, or there is nobody to ask."""
        self._tried.clear()
        self._redirects = 0
        self._must_find = True
        self._pause_s = self._backoff.failed()

    def _places(self) -> list[str]:
        return self._known.readers(self._turn) if self._call.is_read else self._known.writers()

    def _untried(self, left_s: float = math.inf) -> str | None:
        """The next one to ask, with so much time left."""
        places = (url for url in self._places() if url not in self._tried)
        return next((url for url in places if not self._would_be_cut_off(url, left_s)), None)

    def _would_be_cut_off(self, url: str, left_s: float) -> bool:
        """Where it is known who leads, a write goes there, whatever that node was before."""
        nodes = self._known.nodes
        is_known = nodes is None or nodes.has_roles
        return not is_known and not self._doubt and self._holds_s.get(url, 0.0) >= left_s

    def _headers(self) -> dict[str, str]:
        headers = dict(self._call.headers)
        if self._call.key is not None:
            escaped = self._call.key.replace("\\", "\\\\").replace('"', '\\"')
            headers["idempotency-key"] = f'"{escaped}"'  # a string, as structured fields write it (RFC 9651)
        if self._call.is_read:
            self._token = None if "replicator-wait" in headers else self._known.token
            if self._token is not None:
                headers["replicator-wait"] = str(self._token)
            if self._call.fresh:
                headers["replicator-fresh"] = "1"
        return headers

    def _patience_s(self, left_s: float) -> float:
        """A write that cannot be repeated, or that waits for others, is not given up while there is time."""
        waits = not self._call.may_be_repeated or "replicator-ack" in self._call.headers
        return left_s if waits else min(left_s, self._attempt_s)

    # --- ends ---

    def _fails(self, error: ReplicatorError) -> None:
        """With an error that says what became of this attempt. An earlier one may have landed all the same."""
        if self._doubt and not isinstance(error, NotAcknowledged):
            self._doubt = f"{self._doubt}; then: {error}"
            self._ends(Fail(self._too_late()))
        else:
            self._ends(Fail(error))

    def _ends(self, end: Done | Fail) -> Done | Fail:
        self._end = end
        return end

    def _too_late(self) -> Exception:
        if self._doubt:
            key = f"; sent again with the key {self._call.key!r} it lands once" if self._call.key else ""
            return OutcomeUnknown(problem=self._doubt + key, key=self._call.key)
        if self._problem is not None:
            return self._problem
        return TimeoutError(f"{self._call}: there was no time to send it")

    def _nobody(self) -> Exception:
        if self._call.is_read:
            return TimeoutError(f"{self._call}: no node of the group lives, lacks nothing, and serves HTTP")
        return _not_primary("nobody leads the group, or its primary serves no HTTP")

    def _unreached(self, problem: str) -> Exception:
        if self._call.is_read:
            return TimeoutError(f"{self._call}: {self._at} cannot be reached ({problem})")
        return _not_primary(f"{self._at} cannot be reached ({problem})")


def _not_primary(problem: str) -> NotPrimary:
    return NotPrimary("{hint}", hint=f"{problem}; nothing was written: try again in a moment")
