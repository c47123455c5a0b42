"""Making a state that of a running group: `restore --load` and `import`."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from replicator import ops
from replicator.archive.loading import check_app, check_version, publish_by_node
from replicator.errors import ConfigError, NotPrimary
from replicator.format.ids import ZERO_ID, RecordId
from replicator.ops import risks
from replicator.registry.document import document_of
from replicator.runtime.signals import ending
from replicator.state.class_name import WHOLE
from replicator.state.named_class import REGISTRY, state_class

from .confirm import confirm, yes_option
from .context import Seconds, Settings
from .load import proven_url, put_document
from .node_http import NodeHttp, token_options, token_to_option

__all__ = ["give_to_group", "load_options"]


def load_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `load` has, too."""
    expect = click.option(
        "--expect", metavar="POSITION", default=None, help="Only if the state of the group has not changed since."
    )
    force = click.option("--force", is_flag=True, help="Whatever the state of the group is; what that has is lost.")
    timeout = click.option("--timeout", type=Seconds(), default=120.0, show_default=True, help="Seconds to wait.")
    return expect(force(token_to_option(token_options(yes_option(timeout(command))))))


def give_to_group(
    settings: Settings,
    pieces: Callable[[], Iterable[Any]],
    *,
    kind: str,
    app: str,
    version: int,
    expect: str | None,
    force: bool,
    yes: bool,
    timeout_s: float,
    reason: str,
    by: str,
    snapshot_bytes_max: int,
    asks: NodeHttp,
) -> None:
    """`asks`: how the primary is asked.

    Raises `ConfigError` (another application or version, an unknown class, nothing said of what may be lost),
    `NotPrimary`, and what `confirm` raises.
    """
    seen = RecordId.parse(expect) if expect is not None else None
    with settings.log() as log:
        look = log.look()
        check_app(look, app, settings.group)
        check_version(look, version, settings.group)
        now = ops.status(log)
        if force and seen is None:
            confirm("replace it all the same?", risks.of_load(log), yes=yes)
        primary = next((node for node in now.nodes if node.role == "primary" and node.alive), None)
        url = proven_url(log, primary.node, asks) if kind == REGISTRY and primary is not None and primary.http else ""
    changed = look.head.changed if look.head is not None else ZERO_ID
    if seen is None and not force:
        if changed > ZERO_ID:
            hint = f"--expect {changed} replaces it if it does not change meanwhile, --force in any case"
            raise ConfigError(setting="expect", problem=f"the group has a state: {hint}")
        seen = ZERO_ID  # there was none, and there must be none when it is replaced
    if primary is None:
        raise NotPrimary("no node leads, so nobody can take the state: `replicator promote NODE`")
    if url:
        with tempfile.TemporaryDirectory(prefix="replicator-") as directory:
            file = Path(directory) / "state.json"
            with file.open("wb") as out:
                out.writelines(document_of(pieces(), 0))
            put_document(url, file, expect, any_term=True, force=force, asks=asks)
        return
    if not kind:
        hint = "give --state MODULE:CLASS, or --state whole for a file, a database, or another state without apply()"
        raise ConfigError(setting="state", problem=f"which class the state is of is not known: {hint}")
    with _ended_in_order():
        publish_by_node(
            settings.redis, settings.group, pieces,
            make_state=None if kind == WHOLE else state_class(kind), version=version,
            by=by, reason=reason, expect=seen, timeout_s=timeout_s, snapshot_bytes_max=snapshot_bytes_max,
            progress=lambda text: click.echo(text, err=True), key_file=settings.key_file,
        )  # fmt: skip


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Whoever ends the process (SIGTERM, a terminal that closes) ends it as Ctrl-C does: the lease is given back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in ending()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
