"""What the library itself keeps beside the application's state: the table of keys.

It is moved by `AppliedState.apply` alone, so it is equal on nodes at equal positions, and it goes where the state goes:
into snapshots (`json2`, `raw2`; of an empty ledger there is no trace), into digests, and into the checkpoint, as the
snapshot and the changes from which it is made again. A restore puts another state and another ledger into place
together, under the lock of the state.

**The rule.** A keyed change is applied if its key is not in the table. If it is, nothing is applied: the result is that
of the first time, or its rejection; of another change with that key it is `KeyReused`. This stands here, where every
node applies, and nowhere else: a primary remembers nothing that a new one would not know, and looks nothing up before
it appends. So a repeat is a record like any other, and whoever waits for acknowledgements of it waits for those of
the first, too, which comes before it.

**What leaves the table** is a function of the log alone: the oldest keyed change, once there are more than KEYS_MAX or
they take more than KEYS_BYTES_MAX. A repeat does not make a key younger. No clock is asked.

An entry is kept as the line of JSON that it is in a snapshot, cut in two: its key, and the rest. 65,536 of them take
23 MiB at most, with all that a dict and Python's objects have around them.

    ["order-4711","5-1042",0,"<digest>",{"result":17}]
    ["order-4712","5-1042",1,"<digest>",{"rejected":["OutOfStock","none left",{"field":"item"}]}]
    ["order-4713","5-1043",0,"<digest>",{}]                  its result was not kept

**Results** are kept if JSON gives back what it was given, in at most RESULT_BYTES_MAX; of a state that has its results
in JSON and back (`TypedResults`), what it makes of them. Others are not, and whoever repeats such a change is told so
(`ResultNotKept`).

**What is compared** between nodes is all of it but the words of a rejection: its class and its `field` count. Words are
for people, and new code may have better ones, or another version of a library that is asked what is wrong.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from ..errors import ChangeRejected, KeyReused, ResultNotKept, SnapshotRefused
from ..format.ids import RecordId
from ..format.keyed import Keyed, is_key
from ..runtime.gil import Turns
from ..state import TypedResults

__all__ = ["KEYS_BYTES_MAX", "KEYS_MAX", "RESULT_BYTES_MAX", "Ledger", "LedgerImage"]

#: These three belong to the format: nodes with other ones would have other tables.
KEYS_MAX = 65_536
KEYS_BYTES_MAX = 16 * 1024 * 1024
RESULT_BYTES_MAX = 4096

#: What has a form of its own in JSON, and would come back as something else, is not taken for what it looks like.
_PLAIN = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS

_AT = re.compile(r"\d{1,16}-\d{1,16}")
_DIGEST = re.compile("[0-9a-f]{32}")

#: The rest of the line of a change that was rejected, up to what became of it.
_REJECTED = re.compile(rb'"\d+-\d+",\d+,"[0-9a-f]{32}",(?=\{"rejected":)')

#: Instead of what a rejection says, where that cannot be kept.
_TOO_MUCH = "it was rejected, with more to say than is kept"

#: What belongs to an entry besides its two halves: brackets, a comma, a newline.
_AROUND = 4


class LedgerImage(NamedTuple):
    """A ledger as it was at one moment, to be written down later, without any lock."""

    keys: tuple[bytes, ...] = ()
    entries: tuple[bytes, ...] = ()

    def to_bytes(self) -> bytes:
        """As a snapshot has it; empty if there is nothing in it."""
        return self._lines(self.entries)

    def compared(self) -> bytes:
        """What nodes that are equal have in common; empty if there is nothing in it."""
        return self._lines(map(_compared, self.entries))

    def _lines(self, entries: Iterable[bytes]) -> bytes:
        if not self.keys:
            return b""
        head = orjson.dumps({"keys": len(self.keys)}) + b"\n"
        pairs = Turns().over(zip(self.keys, entries, strict=True))
        return head + b"".join([b"[%b,%b]\n" % pair for pair in pairs])


class Ledger:
    """The keys of the newest keyed changes, and what became of each. Whoever moves the state moves this."""

    def __init__(self) -> None:
        #: By the key as JSON: the rest of its line.
        self._entries: dict[bytes, bytes] = {}
        #: The keys, the oldest first: the dict has that order, and takes long to say which is the first.
        self._order: deque[bytes] = deque()
        self._size = 0

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """Their bytes, as they would be in a snapshot."""
        return self._size

    def knows(self, change: Any) -> bool:
        """Whether this is a change with a key that is here: whoever applies it applies nothing."""
        return type(change) is Keyed and orjson.dumps(change.key) in self._entries

    # --- applying ---

    def applied(
        self, change: Any, id_: RecordId, index: int, apply: Callable[[Any], Any], typed: TypedResults | None = None
    ) -> Any:
        """The result of a change that may have a key: see `once`."""
        return self.once(change, id_, index, apply, typed) if type(change) is Keyed else apply(change)

    def once(
        self, keyed: Keyed, id_: RecordId, index: int, apply: Callable[[Any], Any], typed: TypedResults | None = None
    ) -> Any:
        """Apply a change, unless its key is here: then give, or raise, what the first time gave.

        `id_`, `index`: of the record, and of the change in it. `typed`: what has results in JSON, and back. Gives a
        `ResultNotKept` where there is nothing to give.
        """
        key = orjson.dumps(keyed.key)
        known = self._entries.get(key)
        if known is not None:
            return _first_outcome(keyed, known, typed)
        try:
            result = apply(keyed.change)
        except ChangeRejected as rejected:
            self._keep(keyed, key, id_, index, _rejection(rejected))
            raise
        self._keep(keyed, key, id_, index, _result(keyed, result, typed))
        return result

    def _keep(self, keyed: Keyed, key: bytes, id_: RecordId, index: int, outcome: bytes) -> None:
        self._add(key, b'"%b",%d,"%b",%b' % (str(id_).encode(), index, keyed.digest.encode(), outcome))

    def _add(self, key: bytes, entry: bytes) -> None:
        key = bytes(memoryview(key))  # a copy: what orjson gives keeps the 4 KiB that it was written into
        self._entries[key] = entry
        self._order.append(key)
        self._size += len(key) + len(entry) + _AROUND
        while len(self._order) > KEYS_MAX or self._size > KEYS_BYTES_MAX:
            oldest = self._order.popleft()
            self._size -= len(oldest) + len(self._entries.pop(oldest)) + _AROUND

    # --- to and from a snapshot ---

    def image(self) -> LedgerImage:
        """It as it is now. The caller holds the lock of the state, and writes it down without."""
        # A key that is there again came last, in the dict as well. So both are in the order of `_order`.
        return LedgerImage(tuple(self._entries), tuple(self._entries.values()))

    @classmethod
    def of(cls, data: bytes, *, id_: str) -> Ledger:
        """What `LedgerImage.to_bytes` gave. Raises `SnapshotRefused`."""
        ledger = cls()
        if not data:
            return ledger
        head, *lines = data.removesuffix(b"\n").split(b"\n")
        try:
            if not data.endswith(b"\n") or orjson.loads(head) != {"keys": len(lines)}:
                raise ValueError("it does not have the keys that it says")
            for key, entry in Turns().over(_read(lines)):
                ledger._add(key, entry)
        except ValueError as problem:
            raise SnapshotRefused(id=id_, problem=f"its ledger cannot be read ({problem}): update replicator") from None
        if len(ledger) != len(lines):
            raise SnapshotRefused(id=id_, problem="its ledger has a key twice, or more keys than there may be")
        return ledger


def _compared(entry: bytes) -> bytes:
    begins = _REJECTED.match(entry)
    if begins is None:
        return entry
    name, _, told = orjson.loads(entry[begins.end() :])["rejected"]
    return begins[0] + orjson.dumps({"rejected": [name, told.get("field")]})


def _read(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for line in lines:
        match orjson.loads(line):
            case [str() as key, str() as at, int() as index, str() as digest, dict() as outcome] if is_key(key):
                _check_outcome(outcome)
                if _AT.fullmatch(at) is None or index < 0 or _DIGEST.fullmatch(digest) is None:
                    raise ValueError(f"the entry of {key!r:.80} is none")
                in_json = orjson.dumps(key)
                begins = b'[%b,"%b",%d,"%b",{' % (in_json, at.encode(), index, digest.encode())
                if not line.startswith(begins) or not line.endswith(b"}]"):
                    raise ValueError("one of its entries has spaces where none belong")
                yield in_json, line[1 + len(in_json) + 1 : -1]
            case _:
                raise ValueError("one of its entries is none")


def _check_outcome(outcome: dict[str, Any]) -> None:
    match outcome:
        case {"rejected": [str(), str(), dict()]} | {"result": _} if len(outcome) == 1:
            return
    if outcome:
        raise ValueError(f"what became of a change is none that is known: {outcome!r:.80}")


# --- what became of a change ------------------------------------------------------------------------------------------


def _kept(outcome: dict[str, Any]) -> bytes | None:
    """It as JSON, if that is all that it is, and short enough to be kept."""
    try:
        in_json = orjson.dumps(outcome, option=_PLAIN)
        # The equality tells a tuple from a list, and a NaN from a null.
        fits = len(in_json) <= RESULT_BYTES_MAX and bool(orjson.loads(in_json) == outcome)
    except (TypeError, ValueError, RecursionError):
        return None
    return in_json if fits else None


def _result(keyed: Keyed, result: Any, typed: TypedResults | None) -> bytes:
    try:
        told = result if typed is None else typed.result_to_json(keyed.change, result)
    except Exception:  # it is not of the type that it should be: it is given as it is, and no more than that
        return b"{}"
    return _kept({"result": told}) or b"{}"


def _rejection(rejected: ChangeRejected) -> bytes:
    """What is kept of a rejection: its class, what it says, what it has; of one that is too long, that it was one."""
    name, message, field = type(rejected).__name__, _message(rejected), {"field": rejected.__dict__.get("field")}
    for told in ([message, vars(rejected)], [message, field], [_TOO_MUCH, field]):
        if (in_json := _kept({"rejected": [name, *told]})) is not None:
            return in_json
    return orjson.dumps({"rejected": [name, _TOO_MUCH, {}]})


def _message(rejected: ChangeRejected) -> str:
    try:
        return str(rejected)
    except Exception:  # of a class that says it in its own way
        return _TOO_MUCH


def _first_outcome(keyed: Keyed, entry: bytes, typed: TypedResults | None) -> Any:
    at, _, digest, outcome = orjson.loads(b"[%b]" % entry)
    if digest != keyed.digest:
        raise KeyReused(key=keyed.key, id=at)
    if "rejected" in outcome:
        raise _rejected_as(*outcome["rejected"])
    not_kept = ResultNotKept(key=keyed.key, id=at)
    if "result" not in outcome or typed is None:
        return outcome.get("result", not_kept)
    try:
        return typed.result_from_json(keyed.change, outcome["result"])
    except Exception:  # the code has other types than when it was kept
        return not_kept


def _rejected_as(name: str, message: str, told: dict[str, Any]) -> ChangeRejected:
    """A rejection like that of the first time: of the same class, if this program has it."""
    kind = next((each for each in _rejections(ChangeRejected) if each.__name__ == name), ChangeRejected)
    try:
        # Not what the class has for this: it may ask for arguments that are not here.
        rejected: ChangeRejected = Exception.__new__(kind, message)
    except TypeError:  # it is an exception of another kind as well, which is laid out in its own way
        rejected = Exception.__new__(ChangeRejected, message)
    rejected.__dict__ |= {"field": None, "fields": {}} | told
    return rejected


def _rejections(kind: type[ChangeRejected]) -> Iterator[type[ChangeRejected]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _rejections(each)
