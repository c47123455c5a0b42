"""What a request says: its body, integers in its path and query, its headers. What is said wrongly is refused."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

import orjson
from starlette.requests import Request

from ..format import large_json
from ..format.keyed import Key
from ..runtime.gil import Turns
from .failures import Refusal
from .head import POSITION
from .idempotency import idempotency_key
from .pieces import Pieces
from .thread_pools import Place

__all__ = [
    "PLACE",
    "SENT_KEY",
    "drop_body",
    "now",
    "parsed",
    "parsed_in_slices",
    "path_id",
    "query_integer",
    "read_body",
    "read_pieces",
    "sent_ack",
    "sent_key",
    "sent_tag",
    "sent_term",
    "wants_fresh",
]

#: Where a request has the key that was sent with it, once its body was read.
SENT_KEY = "replicator.key"

#: Where it has its place in a pool, to which what is read of its body belongs.
PLACE = "replicator.place"

#: How much of a body that nobody wants is read and dropped, so that its sender gets to see the answer.
DROPPED_BYTES_MAX = 1024 * 1024 * 1024

INTEGER = re.compile(r"[0-9]{1,16}")
ACK = re.compile(r"[a-z]{1,16}(:[0-9]{1,16})?")

#: An entity tag of ours. Some proxies weaken what they compress.
TAG = re.compile(rf'(?:W/)?"({POSITION.pattern})"|({POSITION.pattern})')


async def read_body(request: Request, bytes_max: int) -> bytearray:
    """The body of a megabyte or so at the most. Raises what `read_pieces` does."""
    return (await read_pieces(request, bytes_max)).joined()


async def read_pieces(request: Request, bytes_max: int) -> Pieces:
    """The body. Raises Refusal if it is longer than `bytes_max`, of which no more than that is held in memory.

    Raises `Full` if it finds no room beside the bodies of others, and `ClientDisconnect`. What was read is free then.
    """
    body = Pieces()
    try:
        await _read_into(body, request, bytes_max)
    except Exception:
        await body.drop()
        raise
    return body


async def _read_into(body: Pieces, request: Request, bytes_max: int) -> None:
    place: Place | None = request.scope.get(PLACE)
    fits = (integer(request.headers.get("content-length", "0")) or 0) <= bytes_max
    if fits:
        async for chunk in request.stream():
            fits = fits and len(body) + len(chunk) <= bytes_max
            if fits and place is not None:
                place.take(len(chunk))
            if fits:
                body.take(chunk)
            else:
                await body.drop()
    else:
        await drop_body(request)
    if not fits:
        raise Refusal(413, "too_large", f"the body must be at most {bytes_max} bytes; send less", field="body")


async def drop_body(request: Request) -> None:
    """Read the body and drop it: a sender that is not done sending would see a broken connection and no answer.

    One that asked first (`Expect: 100-continue`) has not begun, and waits for the answer.
    """
    if "expect" in request.headers:
        return
    dropped = 0
    async for chunk in request.stream():
        dropped += len(chunk)
        if dropped > DROPPED_BYTES_MAX:
            return


def parsed(body: bytearray) -> Any:
    """The JSON value of a body of a megabyte at the most, on the event loop."""
    return _parsed(body, orjson.loads)


def parsed_in_slices(body: Pieces) -> Any:
    """The JSON value of a body of any size, on a thread: it pauses again and again, and others go on meanwhile.

    The pieces are gone then.
    """
    turns = Turns()
    return _parsed(body.joined(turns.pause), lambda it: large_json.loads(it, turns.pause))


def _parsed(body: bytearray, decode: Callable[[bytearray], Any]) -> Any:
    try:
        return decode(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, "invalid_json", f"the body is not JSON: {error}", field="body") from None


def path_id(request: Request, name: str) -> int:
    text: str = request.path_params[name]
    value = integer(text)
    if value is None:
        raise Refusal(404, "unknown_id", f"{text} is not an id: ids are integers", field=name)
    return value


def query_integer(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    value = integer(text)
    if value is None or not least <= value <= most:
        raise Refusal(400, "invalid_query", f"{name} must be an integer from {least} to {most}", field=name)
    return value


def integer(text: str) -> int | None:
    return int(text) if INTEGER.fullmatch(text) else None


def now() -> str:
    """RFC 3339, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sent_term(request: Request) -> int | None:
    text = request.headers.get("replicator-term")
    if text is None:
        return None
    term = integer(text)
    if term is None:
        raise Refusal(400, "invalid_header", "Replicator-Term must be an integer", field="Replicator-Term")
    return term


def sent_tag(request: Request) -> str | None:
    text = request.headers.get("if-match")
    if text is None:
        return None
    tag = TAG.fullmatch(text.strip())
    if tag is None:
        message = (
            'If-Match must be the ETag that GET /v1/state gave, like "5-1042"; ?force=1 replaces whatever is there'
        )
        raise Refusal(400, "invalid_header", message, field="If-Match")
    return tag[1] or tag[2]


def sent_key(request: Request, body: bytes | bytearray) -> Key | None:
    """The `Idempotency-Key` of a write.

    A repeat has to be of the same method, path, query and body: not of the same change, for in that may be the time.
    """
    target = (request.method, request.scope["path"], request.scope["query_string"].decode("latin-1"))
    return idempotency_key(request.headers, content=orjson.dumps(target) + body)


def sent_ack(request: Request) -> str | None:
    text = request.headers.get("replicator-ack")
    if text is not None and not ACK.fullmatch(text):
        message = "Replicator-Ack must be appended, fsynced, replicated:N or applied:N"
        raise Refusal(400, "invalid_header", message, field="Replicator-Ack")
    return text


def wants_fresh(request: Request) -> bool:
    text = request.headers.get("replicator-fresh", "0")
    if text not in ("0", "1"):
        raise Refusal(400, "invalid_header", "Replicator-Fresh must be 1", field="Replicator-Fresh")
    return text == "1"
