"""The pages docs/handbook*.md: their sections, the commands in them, and what these say as the page shows it.

A section is an incident, and a test plays it. The test gives the section's commands in their order. What a command says
has to be what the page shows, but for what is never twice the same (times, ages, ports, ids of boots): that stands on
the page as `Shown` writes it. With `REWRITE=1` the page is written anew from what the commands say; read the diff.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .kv import eventually
from .log_events import in_the_document

__all__ = ["DOCS", "PAGES", "Section", "Shown", "commands_of", "section_titles", "slug", "text_of"]

DOCS = Path(__file__).parents[2] / "docs"

PAGES = sorted(DOCS.glob("handbook*.md"))

#: How long a machine that is busy may take until a command says what the page shows.
PATIENCE_S = 60.0

#: A command is not cheap; heartbeats are as rare as this is short.
POLL_S = 0.1

#: What has not changed for so long is no moment between two heartbeats.
LASTS_S = 2.5

_SECTION = re.compile(r"^## (.+)$", re.M)


def section_titles(page: Path) -> list[str]:
    return _SECTION.findall(page.read_text())


def slug(title: str) -> str:
    """The anchor of a heading, as mkdocs and GitHub make it."""
    return re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-")


def text_of(title: str) -> str:
    """All of that section."""
    page = _page_of(title)
    return page.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0].rstrip("\n") + "\n"


def _page_of(title: str) -> Path:
    (page,) = [page for page in PAGES if title in section_titles(page)]
    return page


def commands_of(text: str) -> list[tuple[str, str]]:
    """Each command of its consoles, and what it says there."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return [(command, "\n".join(said)) for command, said in found]


def _with_outputs(text: str, outputs: Iterator[str]) -> str:
    """The same text, in which each command says the next of these."""
    lines, in_console = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            in_console = line == "```console"
        elif in_console and not line.startswith("$ "):
            continue
        lines.append(line)
        if in_console and line.startswith("$ ") and (said := next(outputs)):
            lines.append(said)
    return "\n".join(lines) + "\n"


def _rewrite(title: str, outputs: list[str]) -> None:
    """One test at a time, while others read the page."""
    page, heading = _page_of(title), f"\n## {title}\n"
    with (DOCS / "index.md").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        text = text_of(title)
        written = page.with_suffix(".new")
        written.write_text(page.read_text().replace(heading + text, heading + _with_outputs(text, iter(outputs))))
        written.replace(page)


class Section:
    """One incident of the handbook. `run` carries out a command as it is on the page, and gives what it says."""

    def __init__(self, title: str, run: Callable[[str], str]) -> None:
        self.title = title
        self._run = run
        self._steps = commands_of(text_of(title))
        self._said: list[str] = []

    def shows(self, command: str, *until: str) -> str:
        """This command, which changes nothing, is the next one. It is given until it says that, and what is shown."""
        shown = self._next(command)
        said = eventually(lambda: self._says(command, until), f"$ {command}: {', '.join(until)}", patience_s=PATIENCE_S)
        said = self._lasting(command, said) if _rewrites() else self._as_shown(command, said, shown)
        self._said.append(said)
        return str(said)

    def does(self, command: str) -> str:
        """This command is the next one. It is given once."""
        shown = self._next(command)
        said = self._run(command)
        self._said.append(said)
        assert _rewrites() or said == shown, _differs(command, said, shown)
        return said

    def alerts(self, firing: Callable[[], set[str]]) -> None:
        """Those are the ones that the paragraph of the section that begins with "Alerts" names.

        What is seen is taken for what lasts, so a moment in which a busy machine is late is looked at again.
        """
        (paragraph,) = re.findall(r"^Alerts: .*?^$", text_of(self.title), re.M | re.S) or [""]
        named = set(re.findall(r"`(Replicator[A-Z]\w+)`", paragraph))
        told = [firing()]

        def are_named() -> bool:
            if told[-1] != named:
                time.sleep(POLL_S)
                told.append(firing())
            return told[-1] == named

        try:
            eventually(are_named, patience_s=PATIENCE_S)
        except AssertionError:
            fire = told[-1]
            raise AssertionError(f"not firing: {named - fire}; firing and not named: {fire - named}") from None

    def end(self, events: Callable[[], set[str]]) -> None:
        """All commands were given; every event of the log that the section names is among `events`, sooner or later."""
        assert len(self._said) == len(self._steps), f"not played: {self._steps[len(self._said) :]}"
        text = text_of(self.title)
        named = set(re.findall(r"`([a-z]+\.[a-z_]+)`", text)) & set(in_the_document())
        try:
            eventually(lambda: named <= events(), patience_s=PATIENCE_S)
        except AssertionError:
            raise AssertionError(f"the logs have no {named - events()}, but {events()}") from None
        if _rewrites():
            _rewrite(self.title, self._said)

    def _next(self, command: str) -> str:
        assert len(self._said) < len(self._steps), f"the page has no further command: {command}"
        wanted, shown = self._steps[len(self._said)]
        assert command == wanted, f"the next command on the page is {wanted}"
        return shown

    def _says(self, command: str, until: Sequence[str]) -> str:
        said = self._run(command)
        if all(each in said for each in until):
            return said
        time.sleep(POLL_S)
        return ""

    def _lasting(self, command: str, said: str) -> str:
        """What it says once that has been the same for longer than nodes take to report."""
        began = since = time.monotonic()
        while time.monotonic() < since + LASTS_S:
            time.sleep(POLL_S)
            if (now := self._run(command)) != said:
                said, since = now, time.monotonic()
                assert since < began + PATIENCE_S, f"$ {command} says another thing each time:\n{said}"
        return said

    def _as_shown(self, command: str, said: str, shown: str) -> str:
        told = [said]

        def is_shown() -> bool:
            if told[-1] != shown:
                time.sleep(POLL_S)
                told.append(self._run(command))
            return told[-1] == shown

        try:
            eventually(is_shown, patience_s=PATIENCE_S)
        except AssertionError:
            raise AssertionError(_differs(command, told[-1], shown)) from None
        return told[-1]


def _rewrites() -> bool:
    return bool(os.environ.get("REWRITE"))


def _differs(command: str, said: str, shown: str) -> str:
    return f"$ {command}\n{said}\n--- the page has (REWRITE=1 writes it anew):\n{shown}"


#: What is never twice the same, and what stands for it on the page.
_VARYING = [
    # How far it has come is said as often as that changes: the last one counts.
    (r"(?m)^\d+ of \d+ nodes reported at \S+\n(?=\d+ of \d+ nodes reported at )", ""),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", "2026-11-30 02:41:07.512"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?!\.)", "2026-11-30 02:41:07"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "2026-11-30T02:41:07Z"),
    (r"\b\d{8}T\d{6}Z", "20261130T024107Z"),
    (r"\blease \d+ ms", "lease 2410 ms"),
    (r"\blease_ms=\d+", "lease_ms=2410"),
    (r'"lease_ms":\d+', '"lease_ms":2410'),
    (r"lease of (\w+) runs for [\d.]+ s", r"lease of \1 runs for 2.4 s"),
    (r"its lease runs for [\d.]+ s", "its lease runs for 2.4 s"),
    (r"not reported for [\d.]+ s", "not reported for 21 s"),
    (r"\bage_ms=\d+", "age_ms=21304"),
    (r"\b([Rr])eported [\d.]+ s ago", r"\1eported 0.4 s ago"),
    (r"\((\d+ changes?; )?\d+ ms\)", r"(\g<1>31 ms)"),
    (r"at most \d+ ms", "at most 31 ms"),
    (r"\d+(\.\d+)? k?B in Redis", "5.2 kB in Redis"),
    (r"\b(snapshot|since|in the log) [1-9]\d* B", r"\1 298 B"),
    (r"refuses: .*?OOM command .*?(?= \(its)", "refuses: OOM command not allowed when used memory > 'maxmemory'."),
    (r"\b(changes since|in the log) [\d.]+ kB", r"\1 31.9 kB"),
    (r"asked by (?!an )\w+", "asked by ann"),
    (r"blocked it for [\d.]+ s", "blocked it for 3 s"),
    (r"stamped \d{1,3}\.\d s ahead", "stamped 288.2 s ahead"),
    (r"stamped \d{4}\.\d s ahead", "stamped 3588.2 s ahead"),
    (r"\b1[789]\d{11}-\d+", "1796006467512-0"),
    (r"paused_at=\d+", "paused_at=1796006467512"),
    (r"lasted [\d.]+ s|(?<=after )[\d.]+ s(?= )", "42 min"),
    (r"reported \d+ ms ago: waiting for [\d.]+ s", "reported 412 ms ago: waiting for 2.6 s"),
    (r"process \d+ is using", "process 4711 is using"),
    (r'"stale_ms":\d+', '"stale_ms":412'),
]

#: Ids and hashes, the first of an output, the next one that is another, and so on.
_HASHES = [digits * 4 for digits in ("5c7f0d1e", "8a42b396", "1f2e3c4b", "d05a6978")]

_HEADINGS = re.compile(r"[A-Z_]+( \(UTC\))?( {2,}[A-Z_]+)+")


@dataclass
class Shown:
    """What a command says, as the page shows it. `names`: of a real thing (a URL, a path), what it is on the page."""

    names: dict[str, str] = field(default_factory=dict)

    def of(self, said: str) -> str:
        for real, name in sorted(self.names.items(), key=lambda pair: -len(pair[0])):
            said = said.replace(real, name)
        for pattern, instead in _VARYING:
            said = re.sub(pattern, instead, said)
        for number, found in enumerate(dict.fromkeys(re.findall(r"\b[0-9a-f]{32}\b", said))):
            said = said.replace(found, _HASHES[number % len(_HASHES)])
        return "\n".join(_tables_laid_out(said.rstrip().splitlines())).rstrip()

    def real(self, command: str) -> str:
        """The same command, with the real things."""
        for real, name in sorted(self.names.items(), key=lambda pair: -len(pair[1])):
            command = command.replace(name, real)
        return command


def _tables_laid_out(lines: list[str]) -> Iterator[str]:
    """The same lines, with the columns of tables as wide as they are once the cells are those of the page."""
    table: list[list[str]] = []
    for line in [*lines, ""]:
        if table and line:
            table.append(_cells(line, table[0]))
        elif table:
            yield from _laid_out(table)
            table = []
            yield line
        elif _HEADINGS.fullmatch(line):
            table = [re.split(" {2,}", line)]
        else:
            yield line


def _cells(line: str, headings: list[str]) -> list[str]:
    cells = re.split(" {2,}", line)
    if "REPORTED" in headings and len(cells) == len(headings):
        dead = cells[headings.index("ALIVE")] == "no"
        cells[headings.index("REPORTED")] = "21.3 s ago" if dead else "0.4 s ago"
    if "AGO" in headings:
        cells[headings.index("AGO")] = "3 min"
    if "SIZE" in headings and cells[headings.index("SIZE")] != "not known":
        cells[headings.index("SIZE")] = "5.2 kB"
    return cells


def _laid_out(table: list[list[str]]) -> Iterator[str]:
    count = max(map(len, table))
    widths = [max(len(row[i]) for row in table if i < len(row)) for i in range(count)]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
