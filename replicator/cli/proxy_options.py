"""Options of `replicator node` for a proxy before the program beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .context import Seconds

if TYPE_CHECKING:
    from replicator.service.proxy import ProxyOptions

__all__ = ["proxy_of", "proxy_options"]


def proxy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def proxy_of(given: dict[str, Any]) -> ProxyOptions | None:
    """What they say. Raises `ConfigError`."""
    from replicator.errors import ConfigError
    from replicator.service.proxy import ProxyOptions

    if bool(given["proxy"]) != bool(given["target"]):
        missing = "target" if given["proxy"] else "proxy"
        problem = "where the proxy listens (--proxy) and where the program does (--target) are given together"
        raise ConfigError(setting=missing, problem=problem)
    if not given["proxy"]:
        return None
    return ProxyOptions(
        listen=given["proxy"],
        target=given["target"],
        advertise=given["proxy_advertise"],
        wait_s=given["proxy_wait_s"],
        timeout_s=given["proxy_timeout_s"],
        reads=given["proxy_reads"],
        publish=given["proxy_publish"],
        settle_s=given["proxy_settle_s"],
        to=tuple(given["proxy_to"]),
        trust=tuple(given["proxy_trust"]),
    )


_OPTIONS = [
    click.option(
        "--proxy",
        default="",
        envvar="REPLICATOR_PROXY",
        help="HOST:PORT of a proxy: requests go to the program of the primary, from whichever node they come to.",
    ),
    click.option(
        "--target", default="", envvar="REPLICATOR_TARGET", help="HOST:PORT at which the program beside this node is."
    ),
    click.option(
        "--proxy-advertise",
        metavar="URL",
        default="",
        envvar="REPLICATOR_PROXY_ADVERTISE",
        help="URL at which the other nodes reach the proxy, where that is not what it listens at.",
    ),
    click.option(
        "--proxy-wait-s",
        type=Seconds(),
        default=20.0,
        show_default=True,
        envvar="REPLICATOR_PROXY_WAIT_S",
        help="How long a request waits for a program that can take it, through a failover for example.",
    ),
    click.option(
        "--proxy-timeout-s",
        type=Seconds(0.1),
        default=60.0,
        show_default=True,
        envvar="REPLICATOR_PROXY_TIMEOUT_S",
        help="How long the program may take to begin its answer.",
    ),
    click.option(
        "--proxy-reads",
        type=click.Choice(("primary", "local")),
        default="primary",
        show_default=True,
        envvar="REPLICATOR_PROXY_READS",
        help="Whose program answers GET and HEAD: the primary's, or that beside this node, also on standbys.",
    ),
    click.option(
        "--proxy-publish/--no-proxy-publish",
        default=True,
        show_default=True,
        envvar="REPLICATOR_PROXY_PUBLISH",
        help="Whether a write is answered only once what the program wrote is in the log.",
    ),
    click.option(
        "--proxy-settle-s",
        type=Seconds(),
        default=0.0,
        show_default=True,
        envvar="REPLICATOR_PROXY_SETTLE_S",
        help="How long after the program's answer its file is published: for one that answers before it writes.",
    ),
    click.option(
        "--proxy-to",
        metavar="URL",
        multiple=True,
        envvar="REPLICATOR_PROXY_TO",
        help="A proxy that requests are passed to, also those with a token, and no other one; may be repeated.",
    ),
    click.option(
        "--proxy-trust",
        metavar="ADDRESS",
        multiple=True,
        envvar="REPLICATOR_PROXY_TRUST",
        help="An address or a network (10.0.0.0/24) whose X-Forwarded-* are believed; may be repeated.",
    ),
]
