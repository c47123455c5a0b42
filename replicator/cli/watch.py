"""`status --watch`: looks at the group until Ctrl-C, and goes on while Redis is away.

- On a terminal, with rich: a screen that is kept up to date (`watch_screen.py`).
- On a terminal without rich: the table of `status`, anew every half second.
- Without a terminal: the table once, then one line for each event, for a file or a pipe.
- As JSON: one value after the other.

The first look has to succeed: an address with a slip in it should not look like a Redis that is away.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import click

from replicator import ops
from replicator.errors import LogUnavailable
from replicator.log.interface import Log
from replicator.runtime.checks import plain

from .context import show_json
from .node_http import NodeHttp
from .watching import Event, Health, Watch, asked_over_http, clock

__all__ = ["away_as_json", "watched"]

WATCH_EVERY_S = 0.5

#: A Redis that hangs is away after so long; the screen goes on meanwhile.
LOOK_WITHIN_S = 2.0

#: How often the screen is drawn: its clock and its ages go on while Redis hangs.
DRAWN_PER_S = 4

Show = Callable[[ops.Status], str]


def watched(log: Log, output: str, show: Show, asks: NodeHttp) -> None:
    """Show the group until interrupted. `show`: a status as text. `asks`: how nodes are asked.

    Raises `LogUnavailable` if the first look fails."""
    status = ops.status(log)
    ops.check_is_known(log, ops.looked(log))
    watch = Watch.begun(status, time.time())
    if output == "json":
        _as_json(log, watch, asks)
    elif not sys.stdout.isatty():
        _as_lines(log, watch, show, asks)
    elif _has_rich():
        _as_screen(log, watch, asks)
    else:
        _as_tables(log, watch, show, asks)


def _looks(log: Log, watch: Watch, asks: NodeHttp) -> Iterator[list[Event]]:
    """Look again and again; what happened since the look before."""
    sizes = ops.RecentSize()
    while True:
        time.sleep(WATCH_EVERY_S)
        try:
            hurried = log.within(time.monotonic() + LOOK_WITHIN_S)
            look = ops.looked(hurried)
            status = ops.status_of(log.group, look, sizes.of(hurried, look))
        except LogUnavailable as unavailable:
            yield watch.missed(str(unavailable), asked_over_http(watch.status, asks=asks), time.time())
        else:
            yield watch.saw(status, time.time())


def _as_json(log: Log, watch: Watch, asks: NodeHttp) -> None:
    show_json(watch.status.to_dict())
    for _ in _looks(log, watch, asks):
        show_json(away_as_json(watch) if watch.away else watch.status.to_dict())


def away_as_json(watch: Watch) -> dict[str, Any]:
    """What is known while Redis is away. Its names are a contract."""
    nodes = [asdict(health) for _, health in sorted(watch.healths.items())]
    return {"group": watch.status.group, "error": "log_unavailable", "message": watch.away, "nodes": nodes}


def _as_lines(log: Log, watch: Watch, show: Show, asks: NodeHttp) -> None:
    click.echo(show(watch.status))
    for event in watch.events:
        click.echo(f"{clock(event.at)}  {event.text}")
    for news in _looks(log, watch, asks):
        for event in news:
            click.echo(f"{clock(event.at)}  {event.text}")


def _as_tables(log: Log, watch: Watch, show: Show, asks: NodeHttp) -> None:
    def text() -> str:
        if not watch.away:
            return show(watch.status)
        told = [_health_line(health) for _, health in sorted(watch.healths.items())]
        return "\n".join([f"{clock(time.time())} UTC  Redis is away: {plain(watch.away)}", *told])

    click.echo(show(watch.status))
    for _ in _looks(log, watch, asks):
        click.clear()
        click.echo(text())
        click.echo("\nclock, lags and events: pip install 'replicator[watch]'")


def _health_line(health: Health) -> str:
    if not health.answers:
        return f"{health.node}  {plain(health.problem or 'no answer')}"
    what = "leads" if health.leads else "ready" if health.ready else "not ready"
    return f"{health.node}  {health.role}  {what}  term {health.term}  {health.position}  {plain(health.problem or '')}"


def _has_rich() -> bool:
    try:
        import rich  # noqa: F401
    except ImportError:
        return False
    return True


def _as_screen(log: Log, watch: Watch, asks: NodeHttp) -> None:
    from rich.console import Console
    from rich.live import Live

    from .watch_screen import screen

    console = Console()
    ascii_only = not (console.encoding or "").lower().startswith("utf")

    def drawn() -> Any:
        return screen(watch, time.time(), ascii_only=ascii_only)

    with Live(console=console, screen=True, get_renderable=drawn, refresh_per_second=DRAWN_PER_S):
        for _ in _looks(log, watch, asks):
            pass
