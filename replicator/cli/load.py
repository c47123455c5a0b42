"""`replicator load`: makes a document (the registry's store file) the state of the group, over the primary's HTTP."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import click
import orjson

from replicator import ops
from replicator.errors import NotPrimary, ReplicatorError
from replicator.format.ids import RecordId
from replicator.log.interface import Log
from replicator.node.url_proof import PROOF_WITHIN_S, prove
from replicator.ops import risks
from replicator.web.error_codes import OF_THE_TOKEN

from .confirm import confirm, yes_option
from .context import Settings, output_option, show_json, show_line
from .node_http import ANYBODY, NodeHttp, to_option, token_options
from .progress import Counted, progress_of

__all__ = ["load", "proven_url", "put_document"]

#: Reading, checking and sending 80 MB takes seconds.
TIMEOUT_S = 600


class LoadRefused(ReplicatorError):
    """{url} refused {file}: {problem}"""

    exit_code = 3


class _Unreachable(ReplicatorError):
    """{url} is not available: {problem}. Nothing was loaded."""

    exit_code = 6


class _NoAnswer(ReplicatorError):
    """{file} was sent to {url}, but the outcome is not known ({problem}): look at the state before you repeat it."""

    exit_code = 4


HOW_TO_NAME = "give its URL (`load --to URL`, or --token-to URL), or the CA of the nodes (--ca-file)"

#: The `error` codes with which the primary says that it does not know the outcome either.
UNKNOWN = ("outcome_unknown", "not_acknowledged")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--any-term", is_flag=True, help="Load it whatever its term is: the term of another group means nothing here."
)
@click.option(
    "--expect",
    metavar="POSITION",
    default=None,
    help="Load it if the state has not changed since: the ETag, or Replicator-Position, that came with FILE.",
)
@click.option("--force", is_flag=True, help="Load it whatever the state is; what that has is lost.")
@to_option
@token_options
@yes_option
@output_option
@click.pass_obj
def load(
    settings: Settings,
    file: Path,
    any_term: bool,
    expect: str | None,
    force: bool,
    to: str | None,
    token_file: Path | None,
    ca_file: Path | None,
    yes: bool,
    output: str,
) -> None:
    """Make FILE, a registry document (registry.json), the whole state. A file without a term is of term 0.

    If the state is not empty, say which one FILE replaces (--expect), or that it does not matter (--force).

    It goes to the URL in the primary's heartbeat, once the server there has proved that it is that node; or to --to.
    """
    if expect is not None:
        RecordId.parse(expect)
    asks = NodeHttp(token_file, [to] if to else [], ca_file)
    with settings.log() as log:
        now = ops.status(log)
        if force:
            confirm(f"load {file} all the same?", risks.of_load(log), yes=yes)
        primary = next((node for node in now.nodes if node.role == "primary" and node.alive), None)
        if primary is None or (primary.http is None and not to):
            raise NotPrimary("no node leads and serves HTTP, so nobody can take the file: `replicator promote NODE`")
        url = to or proven_url(log, primary.node, asks)
    answer = put_document(url, file, expect, any_term=any_term, force=force, asks=asks)
    if output == "json":
        show_json({"primary": primary.node, "document_bytes": file.stat().st_size, "term": answer.get("term")})
        return
    show_line(f"{primary.node} loaded {file} ({file.stat().st_size} bytes)")


def proven_url(log: Log, node: str, asks: NodeHttp) -> str:
    """The URL of the node that leads, which has proved that it is there; no token is sent for that.

    Raises `NotPrimary`, `Unproven`; `ConfigError` if there is a token that is not for that node.
    """
    look = log.look()
    heartbeat = look.heartbeats.get(node)
    if look.head is None or heartbeat is None or look.head.writer != (node, heartbeat.boot) or not heartbeat.http:
        raise NotPrimary("{node} leads no more, or serves no HTTP; nothing was sent: try again", node=node)
    asks.check(heartbeat.http, how=HOW_TO_NAME)
    prove(log.look, node, heartbeat.boot, heartbeat.http, within_s=PROOF_WITHIN_S, context=asks.context)
    return heartbeat.http.rstrip("/")


def put_document(
    http: str, file: Path, expect: str | None, *, any_term: bool, force: bool, asks: NodeHttp = ANYBODY
) -> dict[str, object]:
    """Give the document to the primary that serves there; its answer. Raises `LoadRefused`, or what says that it is not
    known; `ConfigError` if there is a token that is not for that node.
    """
    query = urlencode({name: 1 for name, asked in (("any_term", any_term), ("force", force)) if asked})
    answer = _put(f"{http}/v1/state" + (f"?{query}" if query else ""), file, expect, asks)
    if answer.get("applied") is False:
        problem = f"its term is over (the term is {answer.get('term')}); --any-term loads it all the same"
        raise LoadRefused(url=http, file=file, problem=problem)
    return answer


def _put(url: str, file: Path, expect: str | None, asks: NodeHttp) -> dict[str, object]:
    """Send the file. Once it may have arrived, an error leaves the outcome unknown, unless the primary tells it."""
    size = file.stat().st_size
    with file.open("rb") as opened, progress_of("load", lines=False) as tell:
        headers = {"Content-Type": "application/json", "Content-Length": str(size)}
        headers |= {"If-Match": f'"{expect}"'} if expect is not None else {}
        request = urllib.request.Request(url, data=Counted(opened, size, tell), method="PUT", headers=headers)
        try:
            with asks.open(request, TIMEOUT_S, how=HOW_TO_NAME) as answer:
                return dict(orjson.loads(answer.read()))
        except urllib.error.HTTPError as error:
            code, message, position = _told(error.read())
            if code == "position_required":
                message = (
                    f"the state is not empty: --expect {position} replaces it if it does not change meanwhile, --force "
                    "replaces it in any case"
                )
            if code in OF_THE_TOKEN:
                message = f"{message} (--token-file)"
            kind = _NoAnswer if code in UNKNOWN else LoadRefused
            raise kind(url=url, file=file, problem=message) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                raise _Unreachable(url=url, problem=error.reason.strerror) from None
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise _Unreachable(url=url, problem=error.reason.verify_message) from None
            raise _NoAnswer(url=url, file=file, problem=error.reason) from None
        except (OSError, http.client.HTTPException) as error:
            raise _NoAnswer(url=url, file=file, problem=error) from None


def _told(body: bytes) -> tuple[str, str, str]:
    """The code and the message of an error, and the position that comes with it."""
    try:
        answer = orjson.loads(body)
        message = answer["message"] if "message" in answer else answer["detail"]
        return str(answer["error"]), str(message), str(answer.get("position", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", body[:200].decode("utf-8", "replace"), ""
