"""`replicator load`: make a document (the registry's store file) the state of the group, through the primary's HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import click
import orjson

from replicator import admin
from replicator.errors import LogUnavailable, NotPrimary, ReplicatorError

from .context import Settings

__all__ = ["load"]

#: Reading, checking and sending 80 MB takes seconds.
TIMEOUT_S = 600


class LoadRefused(ReplicatorError):
    """{url} refused {file}: {problem}"""

    exit_code = 3


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--any-term", is_flag=True, help="Load it whatever term it carries: the term of another group means nothing here."
)
@click.pass_obj
def load(settings: Settings, file: Path, any_term: bool) -> None:
    """Make FILE, a registry document (registry.json), the whole state. A file without a term is of term 0."""
    with settings.log() as log:
        now = admin.status(log)
    primary = next((node for node in now.nodes if node.role == "primary" and node.alive), None)
    if primary is None or primary.http is None:
        raise NotPrimary("no node leads and serves HTTP, so nobody can take the file: `replicator promote NODE`")
    answer = _put(f"{primary.http}/v1/state" + ("?any_term=1" if any_term else ""), file)
    if answer.get("applied") is False:
        problem = f"its term is over (the term is {answer.get('term')}); --any-term loads it all the same"
        raise LoadRefused(url=primary.http, file=file, problem=problem)
    click.echo(f"{primary.name} loaded {file} ({file.stat().st_size} bytes)")


def _put(url: str, file: Path) -> dict[str, object]:
    with file.open("rb") as body:
        length = str(file.stat().st_size)
        headers = {"Content-Type": "application/json", "Content-Length": length}
        request = urllib.request.Request(url, data=body, method="PUT", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return dict(orjson.loads(answer.read()))
        except urllib.error.HTTPError as error:
            raise LoadRefused(url=url, file=file, problem=_message(error.read())) from None
        except OSError as error:
            raise LogUnavailable(url=url, problem=str(error)) from None


def _message(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
