"""A large file of which a little changed: what a patch costs against sending the file whole.

A primary and a standby, each a process with a `FileState`. Before each case both have the same content, which was sent
whole. Then the file of the primary becomes another one, and is published: from the call to the moment at which the
standby's file is that, too, checked, on its disk and under its name. The whole goes the same way, from the same
content, only that no patch is made.

Lines of the document are records, so that the variants are made quickly; nothing in the package knows of lines.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import orjson

from bench.harness import (
    Child,
    Memory,
    Report,
    Setting,
    Table,
    heard,
    in_rounds,
    memory,
    now_ns,
    ratio,
    reset_peak,
)
from bench.registry_data import generate
from replicator import Node
from replicator.format.codec import digest_of
from replicator.state.file import FileState

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

#: The same document, and the same changes, in every run.
SEED = 1

APPLY_TIMEOUT_S = 120.0

#: A file that was just written is looked at again before it is read: no case is to wait for that.
STILL_S = 0.2

#: Of the records that are changed, inserted or deleted.
INSERTED = 100

WHOLE = "whole, 1 %"
IN_PLACE, MOVED, MANY = "patch, 1 % in place", "patch, 1 %, and moved", "patch, 10 % in place"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    records: int


FULL = Sizes(rounds=7, records=108_000)
QUICK = Sizes(rounds=2, records=8_000)

PROSE = """\
A file of JSON, a record a line, is replicated whole (`FileState`). Some of it changes: a time and a key of 44 random
characters in 1 % of the records, at random places; the same and host names of another length, 100 records inserted and
100 deleted, so that nothing stays where it was; 10 % of the records. *Bytes* are those of the bodies in the log. *ms*
are from the call of `Node.publish` to the standby's file being the new one, on its disk. *Whole* is the same
publication of the 1 % without a patch: the file read, packed (zstd, level 1), sent in parts, saved, unpacked, written.
*MB more* is what the standby's process takes at the most beyond what it had before.
"""


class Published(NamedTuple):
    """What the primary says. `what`: as `Node.publish` does."""

    what: str
    bytes: int
    n: int
    called_ns: int
    returned_ns: int


class Applied(NamedTuple):
    """What the standby says."""

    at_ns: int
    digest: str
    before: Memory
    after: Memory


class Round(NamedTuple):
    published: Published
    applied: Applied

    @property
    def ms(self) -> float:
        return (self.applied.at_ns - self.published.called_ns) / 1e6

    @property
    def publish_ms(self) -> float:
        return (self.published.returned_ns - self.published.called_ns) / 1e6

    @property
    def more_mb(self) -> float:
        return self.applied.after.peak_mb - self.applied.before.resident_mb


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure the whole and the patches, interleaved."""
    place = setting.fresh("patch")
    place.mkdir()
    variants = _variants(place, sizes.records)
    group = setting.group("patch")
    with (
        Child(be_primary, setting.url, group, str(place / "a")) as primary,
        Child(be_standby, setting.url, group, str(place / "b")) as standby,
    ):
        primary.hear()
        standby.hear()

        def published(name: str, *, whole: bool) -> Round:
            n = primary.ask((str(variants["base"]), True)).n
            standby.ask(n)
            standby.ask("watch")
            said = primary.ask((str(variants[name]), whole))
            return Round(said, standby.ask(said.n))

        cases: dict[str, Callable[[], Any]] = {
            WHOLE: partial(published, "in place", whole=True),
            IN_PLACE: partial(published, "in place", whole=False),
            MOVED: partial(published, "moved", whole=False),
            MANY: partial(published, "many", whole=False),
        }
        rounds = in_rounds(cases, sizes.rounds)
    wanted = {WHOLE: "in place", IN_PLACE: "in place", MOVED: "moved", MANY: "many"}
    for name, each in rounds.items():
        digest = digest_of(variants[wanted[name]].read_bytes())
        if {one.applied.digest for one in each} != {digest}:
            raise RuntimeError(f"{name}: the standby has another file than the primary")
    return _report(rounds, sizes, variants["base"].stat().st_size)


# --- the files --------------------------------------------------------------------------------------------------------


def _variants(place: Path, records: int) -> dict[str, Path]:
    base = list(generate(records, SEED)["nodes"].values())
    draw = random.Random(SEED)
    moved = _changed(base, records // 100, draw, in_place=False)
    for number in range(min(INSERTED, records // 100)):
        del moved[draw.randrange(len(moved))]
        record = dict(draw.choice(base), id=10 * records + number, certificate=draw.randbytes(110).hex())
        moved.insert(draw.randrange(len(moved)), record)
    variants = {
        "base": base,
        "in place": _changed(base, records // 100, draw),
        "moved": moved,
        "many": _changed(base, records // 10, draw),
    }
    return {name: _written(place / name, lines) for name, lines in variants.items()}


def _changed(base: list[Any], count: int, draw: random.Random, *, in_place: bool = True) -> list[Any]:
    lines = list(base)
    for at in draw.sample(range(len(lines)), count):
        seconds = f"{draw.randrange(60):02d}:{draw.randrange(60):02d}"
        changes = {"last_seen": f"2026-11-26T19:{seconds}Z", "public_key": draw.randbytes(22).hex()}
        if not in_place:
            changes["hostname"] = f"renamed-{draw.randrange(10_000)}.example.org"
        lines[at] = lines[at] | changes
    return lines


def _written(path: Path, lines: list[Any]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))
    return path


# --- the primary ------------------------------------------------------------------------------------------------------


def be_primary(pipe: Connection, url: str, group: str, place: str) -> None:
    """The process of the primary: told a file, and whether it is to go whole, it makes it its own and publishes it."""
    path = Path(place) / "file"
    with Node(FileState(path), group=group, name="a", data_dir=Path(place) / "data", redis=url) as node:
        node.promote()
        pipe.send("ready")
        while (told := heard(pipe)) is not None:
            content, whole = told
            pipe.send(_publish(node, path, Path(content), whole=whole))


def _publish(node: Node, path: Path, content: Path, *, whole: bool) -> Published:
    draft = path.with_name("draft")
    shutil.copyfile(content, draft)
    with draft.open("rb") as file:
        os.fsync(file)  # by the kernel some time later, it would fall into the case
    os.replace(draft, path)
    time.sleep(STILL_S)
    running = node._running
    assert running is not None
    payload = running.replica.whole
    assert payload is not None
    before = payload.patch_bytes_max
    payload.patch_bytes_max = 0 if whole else before
    called_ns = now_ns()
    done = node.publish(timeout_s=APPLY_TIMEOUT_S)
    returned_ns = now_ns()
    payload.patch_bytes_max = before
    return Published(done.what, done.bytes, done.id.n, called_ns, returned_ns)


# --- the standby ------------------------------------------------------------------------------------------------------


def be_standby(pipe: Connection, url: str, group: str, place: str) -> None:
    """The process of the standby: told a number of a record, it says when it had applied that."""
    path = Path(place) / "file"
    with Node(FileState(path), group=group, name="b", data_dir=Path(place) / "data", redis=url) as node:
        node.wait(n=1, timeout_s=APPLY_TIMEOUT_S)
        pipe.send("ready")
        before = memory()
        while (told := heard(pipe)) is not None:
            if told == "watch":
                reset_peak()
                before = memory()
                pipe.send("watching")
                continue
            node.wait(n=told, timeout_s=APPLY_TIMEOUT_S)
            at_ns, after = now_ns(), memory()
            pipe.send(Applied(at_ns, _digest(path), before, after))


def _digest(path: Path) -> str:
    return digest_of(path.read_bytes())


# --- the report -------------------------------------------------------------------------------------------------------


def _report(rounds: dict[str, list[Round]], sizes: Sizes, file_bytes: int) -> Report:
    figures: dict[str, float] = {"file bytes": file_bytes}
    rows = []
    times = {name: [one.ms for one in each] for name, each in rounds.items()}
    for name, each in rounds.items():
        sent, more_mb = each[-1].published.bytes, median(one.more_mb for one in each)
        against = ratio(times[name], times[WHOLE])
        figures |= {
            f"{name} bytes": sent,
            f"{name} bytes share": sent / rounds[WHOLE][-1].published.bytes,
            f"{name} ms": median(times[name]),
            f"{name} ratio": against.of_medians,
            f"{name} MB more": more_mb,
        }
        rows.append(
            [
                name,
                f"{sent:,}",
                f"{sent / file_bytes:.2%}",
                f"{figures[f'{name} bytes share']:.2%}",
                f"{median(one.publish_ms for one in each):,.0f}",
                f"{median(times[name]):,.0f}",
                "1" if name == WHOLE else str(against),
                f"{more_mb:,.0f}",
            ]
        )
    head = ["sent", "bytes", "of the file", "of the whole as sent", "publish ms", "ms", f"x {WHOLE}", "MB more"]
    kinds = {name: {one.published.what for one in each} for name, each in rounds.items()}
    wrong = [name for name, found in kinds.items() if found != {"whole" if name == WHOLE else "patch"}]
    notes = [f"{sizes.records:,} records, {file_bytes / 1e6:.1f} MB."]
    notes += [f"{name} was sent as {' and '.join(sorted(kinds[name]))}." for name in wrong]
    return Report(
        title="A patch of a file", prose=PROSE, tables=[Table(head=head, rows=rows)], notes=notes, figures=figures
    )
