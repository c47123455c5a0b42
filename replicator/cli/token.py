"""`replicator token`: makes a token."""

from __future__ import annotations

import click

from replicator.web.guard.token_file import new_token

__all__ = ["token"]


@click.command()
def token() -> None:
    """Print a new token: 256 bits of chance, as `openssl rand -hex 32` does.

    A node has it in its file of tokens, with a right before it; a client has it alone in a file of its own.
    """
    click.echo(new_token())
