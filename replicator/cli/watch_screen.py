"""`status --watch` on a terminal, with rich (`replicator[watch]`): what `watching.py` knows, in 80 columns.

Pure: a `Watch` and the time in, something that rich renders out. Nothing here looks at the group.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from replicator.ops import NodeStatus
from replicator.runtime.checks import plain
from replicator.runtime.counted import counted

from .context import size_text
from .watching import LAGS_KEPT, Health, Watch, clock

__all__ = ["EVENTS_SHOWN", "WIDTH", "screen", "sparkline"]

#: The screen fits a terminal of so many columns.
WIDTH = 80

EVENTS_SHOWN = 6

#: Problems and warnings take so many lines each at most; `replicator status` shows them whole.
LINES_OF_A_PROBLEM_MAX = 4

_BARS = "▁▂▃▄▅▆▇█"
_BARS_ASCII = "_.-:=+*#"


def screen(watch: Watch, now: float, *, ascii_only: bool = False) -> RenderableType:
    """All of it, as of `now` (unix seconds)."""
    parts: list[RenderableType] = [_heading(watch, now), _facts(watch, now), Text()]
    parts.append(_asked_nodes(watch) if watch.away else _nodes(watch, ascii_only=ascii_only))
    parts += [Text(), *_troubles(watch, now), *_events(watch), Text("Ctrl-C ends this", style="dim")]
    return Group(*parts)


def _heading(watch: Watch, now: float) -> RenderableType:
    status = watch.status
    leader = next((node.node for node in status.nodes if node.leads), None)
    term = f"{status.term} (era {status.era})" if status.era > 1 else f"{status.term}"
    line = Table.grid(expand=False, padding=0)
    line.width = WIDTH
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    line.add_column(justify="right", no_wrap=True)
    if watch.away:
        who = Text("Redis is away", style="bold red")
    elif leader is None:
        who = Text(f"no node leads, term {term}", style="bold red")
    else:
        who = Text(f"{leader} leads in term {term}", style="bold green")
        if status.since_at is not None:
            who.append(f", for {_span(now - status.since_at / 1000)}", style="default")
    line.add_row(Text.assemble((f"{status.group}  ", "bold"), who), Text(f"{clock(now)} UTC", style="bold"))
    return line


def _facts(watch: Watch, now: float) -> Text:
    status = watch.status
    if watch.away:
        ago = _span(now - watch.seen_at)
        return Text(f"last looked {ago} ago: term {status.term}, holder {status.holder or 'nobody'}, head "
                    f"{status.last_id or '-'}", style="dim")  # fmt: skip
    lease = "none" if status.lease_ms is None else f"{status.lease_ms / 1000:.1f} s"
    records = counted(status.record_count, "record")
    facts = [f"lease {lease}", f"head {status.last_id or '-'}", f"{records}, {size_text(status.log_bytes)}"]
    if status.version is not None:
        facts.append(f"version {status.version}")
    line = Text("   ".join(facts), no_wrap=True, overflow="ellipsis")
    line.truncate(WIDTH, overflow="ellipsis")
    return line


def _table(*headings: tuple[str, int]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", collapse_padding=True)
    table.width = WIDTH
    for heading, width in headings:
        table.add_column(heading, width=width or None, ratio=None if width else 1, no_wrap=True, overflow="ellipsis")
    return table


def _nodes(watch: Watch, *, ascii_only: bool) -> RenderableType:
    if not watch.status.nodes:
        return Text("no node has reported yet", style="yellow")
    table = _table(
        ("NODE", 12), ("ROLE", 7), ("STATE", 13), ("LAG", 9), (f"LAG, {LAGS_KEPT} S", LAGS_KEPT), ("SEEN", 0)
    )
    for node in watch.status.nodes:
        lags = sparkline(watch.lags.get(node.node, ()), ascii_only=ascii_only)
        state, style = _state(node)
        role = Text(node.role if node.alive else "-", style="bold green" if node.leads else "")
        table.add_row(
            plain(node.node), role, Text(state, style=style), _lag(node), Text(lags, style="cyan"), _age(node)
        )
    return table


def _state(node: NodeStatus) -> tuple[str, str]:
    if not node.alive:
        return (node.codes or ["not_reporting"])[0], "bold red"
    if node.leads:
        return "leads", "bold green"
    if node.codes:
        return node.codes[0], "bold yellow"
    return ("candidate", "green") if node.candidate else ("follows", "green")


def _lag(node: NodeStatus) -> str:
    if node.lag_records is None:
        return "-"
    # As `status` tells it: for how long it has been behind, not how old its newest record is.
    age = f" {node.behind_ms / 1000:.1f}s" if node.lag_records and node.behind_ms else ""
    return f"{node.lag_records}{age}"


def _age(node: NodeStatus) -> Text:
    return Text(f"{_span(node.age_ms / 1000)}", style="" if node.alive else "bold red")


def _asked_nodes(watch: Watch) -> RenderableType:
    """What the nodes say themselves, while Redis is away."""
    table = _table(("NODE", 12), ("ROLE", 7), ("STATE", 10), ("TERM", 9), ("POSITION", 14), ("SAYS", 0))
    for node in watch.status.nodes:
        health = watch.healths.get(node.node)
        state, style = _health_state(health)
        known = health if health is not None and health.answers else None
        says = "" if health is None else _says(health)
        role = (known.role if known else None) or "-"
        term = "-" if known is None or known.term is None else str(known.term)
        position = (known.position if known else None) or node.position
        table.add_row(plain(node.node), role, Text(state, style=style), term, position, says)
    return table


def _says(health: Health) -> str:
    if health.answers and (health.problem or "").startswith("Redis at "):
        return "away for it, too"  # its URL takes all the room there is
    return plain(health.problem or "")


def _health_state(health: Health | None) -> tuple[str, str]:
    if health is None or not health.answers:
        return "no answer", "bold red"
    if health.leads:
        return "leads", "bold green"
    return ("ready", "green") if health.ready else ("not ready", "bold yellow")


def _troubles(watch: Watch, now: float) -> Iterable[RenderableType]:
    found: list[tuple[str, str, str]] = []
    if watch.away:
        found.append(("REDIS", f"away for {_span(now - watch.away_since)}: {watch.away}", "bold red"))
    else:
        style = "bold yellow" if watch.status.codes == ["paused"] else "bold red"
        found += [("PROBLEM", each, style) for each in watch.status.problems]
        found += [("WARNING", each, "yellow") for each in watch.status.warnings]
    if not found:
        return
    table = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    table.width = WIDTH
    table.add_column(width=8, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=1, overflow="fold")
    for name, what, style in found[:6]:
        table.add_row(Text(plain(name), style=style), Text(_cut(plain(what))))
    yield table
    yield Text()


def _cut(text: str) -> str:
    most = LINES_OF_A_PROBLEM_MAX * (WIDTH - 10)
    return text if len(text) <= most else text[: most - 4] + " ..."


def _events(watch: Watch) -> Iterable[RenderableType]:
    yield Text("EVENTS", style="bold")
    for event in list(watch.events)[-EVENTS_SHOWN:]:
        line = Text.assemble((clock(event.at), "dim"), f"  {event.text}", no_wrap=True, overflow="ellipsis")
        line.truncate(WIDTH, overflow="ellipsis")
        yield line
    yield Text()


def sparkline(lags: Iterable[int | None], *, ascii_only: bool = False) -> str:
    """One character for each lag, the highest bar for the greatest; a dot where it is not known."""
    known = list(lags)
    bars, greatest = (_BARS_ASCII if ascii_only else _BARS), max((lag or 0 for lag in known), default=0)
    return "".join(
        ("?" if ascii_only else "·") if lag is None else bars[0 if not greatest else round(lag / greatest * 7)]
        for lag in known
    )


def _span(seconds: float) -> str:
    """A time that passed, in one unit."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86400:.0f} d"
