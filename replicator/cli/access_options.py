"""Options of `replicator node` that say who may reach it over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from replicator.service.access import Access

__all__ = ["access_of", "access_options"]

_FILE = click.Path(dir_okay=False, path_type=Path)


def access_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def access_of(given: dict[str, Any]) -> Access:
    """What they say."""
    return Access(
        tokens=given["http_tokens"],
        insecure=given["insecure"],
        hosts=tuple(given["http_hosts"]),
        cert=given["http_cert"],
        key=given["http_key"],
    )


_OPTIONS = [
    click.option(
        "--http-tokens",
        type=_FILE,
        envvar="REPLICATOR_HTTP_TOKENS",
        help="A file of tokens, a line each: a right (read, write, admin) and a token. Without, everybody may do all.",
    ),
    click.option(
        "--insecure/--no-insecure",
        default=False,
        envvar="REPLICATOR_INSECURE",
        help="Serve beyond loopback without tokens: whoever reaches the port may read and write everything.",
    ),
    click.option(
        "--http-host",
        "http_hosts",
        multiple=True,
        metavar="NAME",
        envvar="REPLICATOR_HTTP_HOST",
        help="A name under which it is asked, besides those of --http and --advertise; may be repeated.",
    ),
    click.option(
        "--http-cert",
        type=_FILE,
        envvar="REPLICATOR_HTTP_CERT",
        help="Serve HTTPS with this certificate (PEM, with those between it and the CA). Read again when it changes.",
    ),
    click.option("--http-key", type=_FILE, envvar="REPLICATOR_HTTP_KEY", help="The key of the certificate."),
]
