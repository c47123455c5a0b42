"""Where a request goes, and whether it may be sent once more. Pure: no clock, no socket.

1. *A write goes to the program of the node that leads*, and to no other one. A standby passes it to the proxy of the
   primary, which does not pass it on.
2. *A read goes there as well*, unless programs answer reads on standbys (`reads="local"`).
3. *What is safe (RFC 9110, 9.2.1: it changes nothing) is sent again and again*, as long as there is time. Anything else
   is sent once. It is sent again only if no byte of it can have reached a program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

__all__ = [
    "Asked",
    "Follow",
    "Local",
    "Refused",
    "Remote",
    "Route",
    "Standing",
    "Wait",
    "is_safe",
    "may_repeat",
    "route",
]

SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request. `is_forwarded`: another proxy sent it. `needs_primary`: what this node has is not enough for it."""

    is_safe: bool
    is_forwarded: bool = False
    needs_primary: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What a node knows. `program_term`: the term in which its program takes requests; 0: it takes none.

    `is_primary`: by its role; it may not lead yet, or not now. `primary`: the URL of the proxy of another one that is;
    empty: nobody knows it. `is_proven`: whether the server there has proved to be that.
    """

    program_term: int
    is_primary: bool
    primary: str
    is_proven: bool


class Local(NamedTuple):
    """To the program of this node, which leads in this term."""

    term: int


class Follow(NamedTuple):
    """To the program of this node, which is a standby."""


class Remote(NamedTuple):
    """To the proxy at this URL."""

    url: str


class Wait(NamedTuple):
    """Until things are otherwise. `code`, `why`: what the client is told if that takes too long."""

    code: str
    why: str


class Refused(NamedTuple):
    """It came to the wrong node, and whoever sent it knows better by now."""

    why: str


Route: TypeAlias = Local | Follow | Remote | Wait | Refused


def is_safe(method: str) -> bool:
    return method in SAFE


def route(asked: Asked, standing: Standing, *, reads: str) -> Route:
    """`reads`: "primary" or "local"."""
    if standing.program_term:
        return Local(standing.program_term)
    if asked.is_safe and reads == "local" and not (asked.needs_primary or asked.is_forwarded):
        return Follow()
    if standing.is_primary:
        return Wait("not_primary", "the program of the primary, on this node, takes no requests yet")
    if asked.is_forwarded:
        return Refused("another node took this one for the primary, and sent this here")
    if not standing.primary:
        return Wait("not_primary", "no node leads, or the one that does has no proxy")
    if not standing.is_proven:
        return Wait("primary_unreachable", f"the server at {standing.primary} did not prove to be the primary's proxy")
    return Remote(standing.primary)


def may_repeat(*, is_safe: bool, was_sent: bool, body_is_whole: bool) -> bool:
    """Whether a request that got no answer may be sent once more.

    `was_sent`: whether a byte of it may have reached a program. `body_is_whole`: whether all of its body is still here.
    """
    return body_is_whole and (is_safe or not was_sent)
