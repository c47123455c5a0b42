"""Acts: changes of the group itself, in the log between those of the application, which never sees them.

An act is a change record with a codec of its own, whose body is a JSON list of one object. It is folded like any other
change, so it is in the state's history, in every checkpoint and in every fork. There is one:

    [{"version": 2, "before": 1, "by": "ann"}]    the group is at version 2 from here on; before it was at 1

The new version stands in the header, too: a reader has to know before it looks into a body.
"""

from __future__ import annotations

from typing import Any

import orjson

from replicator.errors import CorruptRecord

from .codec import digest_of
from .records import ACT

__all__ = ["decode_act", "encode_version"]


def encode_version(version: int, *, before: int, by: str) -> tuple[str, bytes, str]:
    """The act that raises the group's version: its codec, body and digest."""
    body = orjson.dumps([{"version": version, "before": before, "by": by}])
    return ACT, body, digest_of(body)


def decode_act(body: bytes, digest: str, version: int, *, id_: str) -> dict[str, Any]:
    """The act in a record of which the header says `version`. Raises `CorruptRecord`."""
    if digest_of(body) != digest:
        raise CorruptRecord(id=id_, problem="its digest does not fit its body: it was damaged")
    try:
        acts = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise CorruptRecord(id=id_, problem=f"its body is not JSON ({error})") from None
    act = acts[0] if isinstance(acts, list) and len(acts) == 1 and isinstance(acts[0], dict) else {}
    before = act.get("before")
    if act.get("version") != version or type(before) is not int or not 0 < before < version:
        raise CorruptRecord(id=id_, problem="its body is no act that this program knows: update replicator")
    return act
