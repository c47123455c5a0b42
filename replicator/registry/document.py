"""The registry as one JSON document: its members, the checks of their values, and what is said of one that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson

from ..errors import ChangeRejected

#: A decoded JSON object.
Record = dict[str, Any]

#: The version of the document that this module reads and writes.
VERSION = 1

#: Ids and terms stay exact in every JSON reader.
INTEGER_MAX = 2**53 - 1

#: A hostname, an address, an owner: what is longer is a mistake.
TEXT_LENGTH_MAX = 1024

#: Tags or addresses of one node.
LIST_LENGTH_MAX = 256


# --- What is refused --------------------------------------------------------------------------------------------------


class UnknownId(ChangeRejected):
    """The change names something that the registry does not have."""


class Conflict(ChangeRejected):
    """The change claims what belongs to another."""


class InvalidDocument(ChangeRejected):
    """A document, or a piece of one, that is not a registry. `field` is the path of what is wrong in it."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or 'the document'} {problem}", field=path or None)


class IncompleteDocument(InvalidDocument):
    """What may be a part of a registry, or no registry at all. To take it for one would empty what it leaves out."""

    def __init__(self, missing: Sequence[str]) -> None:
        message = f"the document has no {', '.join(missing)}: a whole one is what GET /v1/state gives"
        ChangeRejected.__init__(self, message, field=missing[0])


# --- Checks: each gives the problem of a value, or None -----------------------------------------------------------

Check = Callable[[Any], str | None]

HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
# Expressions of our own and no library's parser, whose opinion may differ between versions, and so between nodes.
RFC_3339 = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?"
    r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
JOIN_RULES = ("open", "token", "invite")


def integer(value: Any) -> str | None:
    return None if type(value) is int and 0 <= value <= INTEGER_MAX else "must be an integer from 0 to 2^53-1"


def integers(value: Any) -> str | None:
    if type(value) is list and set(map(type, value)) <= {int} and not any(map(integer, value)):
        return None
    return "must be a list of integers from 0 to 2^53-1"


def flag(value: Any) -> str | None:
    return None if type(value) is bool else "must be true or false"


def any_texts(value: Any) -> str | None:
    if type(value) is list and set(map(type, value)) <= {str}:
        return None
    return "must be a list of strings"


def roles(value: Any) -> str | None:
    if type(value) is dict and set(map(type, value.values())) <= {str}:
        return None
    return "must be an object of node id to role"


def text(value: Any) -> str | None:
    if type(value) is str and 0 < len(value) <= TEXT_LENGTH_MAX:
        return None
    return f"must be a string of 1 to {TEXT_LENGTH_MAX} characters"


def texts(value: Any) -> str | None:
    if type(value) is list and len(value) <= LIST_LENGTH_MAX and not any(text(one) for one in value):
        return None
    return f"must be a list of at most {LIST_LENGTH_MAX} strings of 1 to {TEXT_LENGTH_MAX} characters"


def hostname(value: Any) -> str | None:
    if type(value) is str and HOSTNAME.fullmatch(value):
        return None
    return "must be a hostname: letters, digits, '.', '-' and '_', at most 253, a letter or digit at both ends"


def hostname_or_null(value: Any) -> str | None:
    problem = None if value is None else hostname(value)
    return problem and f"{problem}; or null, to give it up"


def timestamp(value: Any) -> str | None:
    if type(value) is str and RFC_3339.fullmatch(value):
        return None
    return "must be an RFC 3339 time, like 2026-01-31T12:00:00Z"


def public_key(value: Any) -> str | None:
    if type(value) is str and 0 < len(value) <= TEXT_LENGTH_MAX and BASE64.fullmatch(value):
        return None
    return "must be a key in base64"


def join_rule(value: Any) -> str | None:
    return None if value in JOIN_RULES else f"must be one of {', '.join(JOIN_RULES)}"


# --- The members that we know, in the order they are written; in a document each may be null as well ---------------

#: Types first and what is in the lists second, because a large registry has more than a million members to check.
NODE_MEMBERS: dict[str, type] = {
    "id": int,
    "owner": str,
    "public_key": str,
    "real_addr": str,
    "networks": list,
    "public": bool,
    "last_seen": str,
    "hostname": str,
    "tags": list,
    "lan_addrs": list,
    "version": str,
    "key_created": str,
}
NODE_LISTS: dict[str, Check] = {"networks": integers, "tags": any_texts, "lan_addrs": any_texts}

NETWORK_MEMBERS: dict[str, type] = {
    "id": int,
    "name": str,
    "join_rule": str,
    "token": str,
    "members": list,
    "member_roles": dict,
    "created": str,
}
NETWORK_LISTS: dict[str, Check] = {"members": integers, "member_roles": roles}

TYPE_NAMES = {int: "an integer", str: "a string", bool: "true or false", list: "a list", dict: "an object"}

#: Members of the document that are not simply kept.
DOCUMENT_MEMBERS = ("version", "term", "next_node", "next_net", "nodes", "networks", "trust_pairs")

#: Without these it is no document. A term belongs to a node, and the counters follow from the ids.
REQUIRED_MEMBERS = ("version", "nodes", "networks", "trust_pairs")

#: What a piece after the first one holds: one of these, and nothing else.
PIECES = ("nodes", "networks", "trust_pairs")


# --- The document as a whole -----------------------------------------------------------------------------------------


def term_of(document: Any) -> int:
    """The term that a parsed document carries; 0 if it carries none. Raises InvalidDocument if it is no term."""
    term = document.get("term") if type(document) is dict else None
    if term is None:
        return 0
    if problem := integer(term):
        raise InvalidDocument("term", problem)
    return int(term)


def check_complete(document: Any) -> None:
    """Raise `IncompleteDocument` if a parsed document lacks members, `InvalidDocument` if it is not even an object.

    A piece of a snapshot may lack them; what is sent to replace the whole state may not.
    """
    if type(document) is not dict:
        raise InvalidDocument("", "must be a JSON object")
    if missing := [name for name in REQUIRED_MEMBERS if name not in document]:
        raise IncompleteDocument(missing)


def document_of(pieces: Iterable[Any], term: int) -> Iterator[bytes]:
    """The JSON document that snapshot pieces make, in chunks: never all of it in memory at once."""
    drawn = iter(pieces)
    head = next(drawn)
    stamp = {"version": VERSION, "term": term} if term else {"version": VERSION}
    counters = {name: head[name] for name in ("next_node", "next_net")}
    yield orjson.dumps({**stamp, **counters})[:-1]
    piece: Record = next(drawn, {})
    for name in PIECES:
        begin, end = (b"[", b"]") if name == "trust_pairs" else (b"{", b"}")
        yield b',"%b":%b' % (name.encode(), begin)
        comma = b""
        while name in piece:
            yield comma + orjson.dumps(piece[name])[1:-1]
            comma = b","
            piece = next(drawn, {})
        yield end
    kept = {name: value for name, value in head.items() if name not in DOCUMENT_MEMBERS}
    yield (b"," if kept else b"") + orjson.dumps(kept)[1:]
