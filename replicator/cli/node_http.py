"""How commands ask nodes over HTTP: with a token, if there is one, and to whom it is shown."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from replicator.errors import ConfigError
from replicator.runtime.direct_http import ask
from replicator.web.guard.token_bearer import TokenBearer, bearer_of, trusting, withheld_from

__all__ = ["ANYBODY", "NodeHttp", "to_option", "token_options", "token_to_option"]

_FILE = click.Path(dir_okay=False, path_type=Path)


class NodeHttp:
    """`named`: URLs of nodes that get the token in `token_file`. `ca_file`: of the nodes' own certificates, and the
    token is for all that have one. Raises `ConfigError`.
    """

    def __init__(self, token_file: Path | None = None, named: Sequence[str] = (), ca_file: Path | None = None) -> None:
        self._bearer: TokenBearer | None = bearer_of(None, token_file, named, has_ca=ca_file is not None)
        self.context: ssl.SSLContext | None = None if ca_file is None else trusting(ca_file)

    def check(self, url: str, *, how: str) -> None:
        """Raises `ConfigError` if there is a token and it is not for the node at that URL; `how`: what names it."""
        if self._bearer is not None and not self._bearer.is_for(url):
            raise withheld_from(url, how=how)

    def open(self, request: urllib.request.Request, timeout_s: float, *, how: str) -> Any:
        """The answer, as of `urlopen`. Raises what `check` does."""
        self.check(request.full_url, how=how)
        if self._bearer is not None:
            # Of the other headers a redirect takes all along, to whatever host.
            request.add_unredirected_header("Authorization", self._bearer.header)
        return ask(request, timeout_s=timeout_s, context=self.context, follow=True)


#: Without a token.
ANYBODY = NodeHttp()


def token_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--token-file`, `--ca-file`."""
    token_file = click.option(
        "--token-file", type=_FILE, envvar="REPLICATOR_TOKEN_FILE", help="A file with the token for the nodes' HTTP."
    )
    ca_file = click.option(
        "--ca-file",
        type=_FILE,
        envvar="REPLICATOR_CA_FILE",
        help="The CA of the nodes' own certificates (PEM). The token is sent to all that have one of it.",
    )
    return token_file(ca_file(command))


def _url(_: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    from replicator.runtime import checks

    try:
        return None if given is None else checks.public_url(str(parameter.name), given).rstrip("/") or None
    except ConfigError as error:
        raise click.BadParameter(error.fields["problem"]) from None


to_option = click.option(
    "--to",
    metavar="URL",
    default=None,
    callback=_url,
    help="The primary's URL, instead of the one that Redis names: it is asked for no proof, and a token is sent to it.",
)

token_to_option = click.option(
    "--token-to",
    metavar="URL",
    multiple=True,
    envvar="REPLICATOR_TOKEN_TO",
    help="A node to which the token is sent, by its URL; may be repeated.",
)
