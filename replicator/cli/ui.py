"""`replicator ui`: the page of a group, on the operator's own machine."""

from __future__ import annotations

import html
import os
import secrets
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from replicator.errors import ConfigError
from replicator.runtime.signals import on_end, wait_until

from .context import Settings, operator

__all__ = ["ui"]


@click.command()
@click.option(
    "--http",
    default="127.0.0.1:0",
    show_default=True,
    envvar="REPLICATOR_UI_HTTP",
    help="HOST:PORT to serve, on loopback.",
)
@click.option("--open/--no-open", "opens", default=True, help="Open it in the browser, where there is one.")
@click.option("--read-only", is_flag=True, help="Without the actions: promote, switchover, pause and resume.")
@click.pass_obj
def ui(settings: Settings, http: str, opens: bool, read_only: bool) -> None:
    """The group on a page, live, with promote, switchover and pause. Until Ctrl-C."""
    ended = threading.Event()
    on_end(lambda *_: ended.set())
    try:
        from ..ui.serve import serving
    except ImportError as missing:
        problem = f'{missing.name} is not installed: pip install "replicator[web]"'
        raise ConfigError(setting="ui", problem=problem) from None
    token = secrets.token_urlsafe(24)
    with serving(
        settings.redis,
        settings.group,
        http=http,
        by=operator(),
        token=token,
        may_act=not read_only,
        key_file=settings.key_file,
    ) as url:
        whole = f"{url}/ui#token={token}"
        click.echo(whole)
        with page_that_leads_to(whole) as page:
            if opens and _has_browser():
                webbrowser.open(page.as_uri())
            wait_until(ended)


@contextmanager
def page_that_leads_to(url: str) -> Iterator[Path]:
    """A file that only this user can read, for a browser: what that is started with, everybody here sees (ps)."""
    with TemporaryDirectory(prefix="replicator-ui-") as directory:  # nobody else's
        page = Path(directory) / "open.html"
        page.write_text(f'<meta http-equiv="refresh" content="0; url={html.escape(url)}">')
        yield page


def _has_browser() -> bool:
    """Whether one can be opened beside this terminal: not one that would take the terminal."""
    shows = sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return shows and sys.stdout.isatty()
