"""Gives a group an earlier state: a primary publishes it, at one record, so that all of its nodes have it.

The registry takes it over HTTP, from the node that leads. Of any other application a node is put into the group, for
as long as it takes: it follows, is made the primary, replaces the state, and hands over to the node that led before.
That node needs the application's class, because nothing may be a primary that could not send a snapshot.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .. import ops
from ..errors import ConfigError, NotPrimary, Outdated, ReplicatorError, StateError
from ..format.file_changes import FileChange
from ..format.ids import RecordId
from ..format.manifest import BadManifest, Content, contents_in, is_directory, read_manifest
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..log.redis_log import RedisLog
from ..node.node import Node
from ..protocol import versions
from ..protocol.group import GroupView
from ..state import ReplicatedState, State
from ..state.files import Files
from ..state.sqlite_pages import SQLitePages
from ..storage.keyring import sealing_of
from ..storage.published_files import Cut

__all__ = ["check_app", "check_version", "publish_by_node"]

_POLL_S = 0.05

Progress = Callable[[str], None]


def check_app(look: GroupView, app: str, group: str) -> None:
    """Raises `ConfigError` if the group is of another application."""
    head = look.head
    if head is not None and app and head.app not in ("", app):
        raise ConfigError(setting="app", problem=f"this is a state of `{app}`, and group {group} is of `{head.app}`")


def check_version(look: GroupView, version: int, group: str) -> None:
    """Raises `ConfigError` if the group is at another version: every node would take the state for one of that."""
    current = versions.version_of(look)
    if current is not None and current != version:
        problem = f"this is a state of version {version}, and group {group} is at version {current}: each reads its own"
        raise ConfigError(setting="version", problem=problem)


class _Held:
    """A state without `apply`, which is what it is to be once its node leads.

    Until then it is nothing: at a marker, the node would be found to differ from the primary.
    """

    def __init__(self, pieces: Callable[[], Iterable[Any]]) -> None:
        self._pieces = pieces
        self.is_given = False

    def snapshot(self) -> Iterator[Any]:
        if not self.is_given:
            raise StateError(path="what is to be loaded", problem="its node does not lead yet")
        yield from self._pieces()

    def restore(self, pieces: Iterable[Any]) -> None:
        for _ in pieces:
            pass


class _HeldFiles(_Held):
    """The same of a directory: it is published by file, and what the group publishes is followed."""

    @contextmanager
    def cut(self) -> Iterator[Cut]:
        try:
            yield _HeldCut(self.snapshot())
        except BadManifest as bad:
            raise StateError(path="what is to be loaded", problem=str(bad)) from None

    def restore_files(
        self, files: Files, end: Iterable[Any], *, change: FileChange | None = None, insisting: bool = False
    ) -> None:
        self.restore(end)


class _HeldCut:
    """The pieces of a directory."""

    def __init__(self, pieces: Iterator[Any]) -> None:
        self._pieces = pieces
        self.entries = read_manifest(pieces)

    def contents(self, wanted: Sequence[Content]) -> Iterator[tuple[Content, Iterator[bytes]]]:
        those = {*wanted}
        for content, pieces in contents_in(self._pieces, self.entries):
            if content in those:
                yield content, pieces


def _without_apply(app: str | None, pieces: Callable[[], Iterable[Any]], directory: Path) -> _Held | SQLitePages:
    """One whose publications the nodes of the group understand: by pages, they take no patch of another form."""
    if app == SQLitePages.__name__:
        return SQLitePages(directory / "database")
    return _HeldFiles(pieces) if is_directory(next(iter(pieces()), None)) else _Held(pieces)


def publish_by_node(
    redis: str,
    group: str,
    pieces: Callable[[], Iterable[Any]],
    *,
    make_state: Callable[[], ReplicatedState] | None,
    version: int,
    by: str,
    reason: str,
    expect: RecordId | None = None,
    timeout_s: float = 120.0,
    snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
    progress: Progress = lambda _: None,
    key_file: Path | None = None,
) -> str:
    """Make `pieces` the state of the group, and give the lease back to whoever led. The position that has it.

    `make_state`: None: of a state without `apply`. Raises `NotPrimary` (nobody leads), `Outdated`, `TimeoutError`, and
    what a node raises.
    """
    deadline = time.monotonic() + timeout_s
    log = RedisLog(redis, group, sealing=sealing_of(key_file, group))
    name = f"import-{secrets.token_hex(3)}"
    try:
        led = _leader(log)
        head = log.look().head
        app, rejects = (head.app if head is not None else "") or None, _rejects_errors(log, led)
        with TemporaryDirectory(prefix="replicator-") as directory:
            state: Any = make_state() if make_state is not None else None
            if not isinstance(state, State):
                state = _without_apply(app, pieces, Path(directory))
            node: Node[Any] = Node(
                state, group=group, name=name, redis=redis, data_dir=directory, app=app, version=version,
                on_apply_error="reject" if rejects else "stall", verify_every_s=0,
                snapshot_bytes_max=snapshot_bytes_max, key_file=key_file,
            )  # fmt: skip
            with node:
                position = _published(node, state, log, led, pieces, expect, by, reason, deadline, progress)
        return position
    finally:
        with suppress(ReplicatorError):
            ops.forget(log, name, by=by)
        log.close()


def _leader(log: RedisLog) -> str:
    leads = next((node.node for node in ops.status(log).nodes if node.role == "primary" and node.alive), None)
    if leads is None:
        raise NotPrimary("no node leads, so nobody can be given the state: `replicator promote NODE`")
    return leads


def _rejects_errors(log: RedisLog, node: str) -> bool:
    heartbeat = log.look().heartbeats.get(node)
    return heartbeat is not None and heartbeat.rejects_errors


def _published(
    node: Node[Any],
    state: Any,
    log: RedisLog,
    led: str,
    pieces: Callable[[], Iterable[Any]],
    expect: RecordId | None,
    by: str,
    reason: str,
    deadline: float,
    progress: Progress,
) -> str:
    progress(f"{node.name} follows the group")
    _wait(lambda: node.in_sync and _reports(log, node.name), deadline, f"{node.name} did not catch up with the log")
    _check_unchanged(log, expect)
    try:
        ops.switchover(log, node.name, by=by, reason=reason, timeout_s=_left(deadline))
        _wait(lambda: node.leads, deadline, f"{node.name} does not lead")
        _check_unchanged(log, expect)
        if isinstance(state, State):
            node.replace(pieces(), timeout_s=_left(deadline), expect=str(expect) if expect is not None else None)
        else:
            if isinstance(state, SQLitePages):
                state.restore(pieces())
            else:
                state.is_given = True
            node.publish(timeout_s=_left(deadline))
        position = str(node.position.id)
        progress(f"the log has the state at {position}")
    finally:
        _give_back(log, node.name, led, by, reason, deadline)
    return position


def _give_back(log: RedisLog, name: str, led: str, by: str, reason: str, deadline: float) -> None:
    """Have the node lead again that led. Raises `NotPrimary` if it does not: then nobody does."""
    head = log.look().head
    if head is None or head.node != name:
        return
    try:
        ops.switchover(log, led, by=by, reason=f"{reason}: done", timeout_s=max(10.0, _left(deadline)))
    except (ReplicatorError, TimeoutError) as error:
        hint = "nobody leads now, until you `replicator promote NODE`, or a standby with --auto-promote takes over"
        raise NotPrimary(f"{led}, which led before, did not take the lead back ({error}): {hint}") from error


def _reports(log: RedisLog, node: str) -> bool:
    """Whether others see it: it is in step before its first heartbeat is there, and nobody promotes a stranger."""
    heartbeat = log.look().heartbeats.get(node)
    return heartbeat is not None and heartbeat.alive and heartbeat.in_sync


def _check_unchanged(log: RedisLog, expect: RecordId | None) -> None:
    head = log.look().head
    if expect is not None and head is not None and head.changed > expect:
        raise Outdated(expect=expect, position=head.position.id)


def _left(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())


def _wait(done: Callable[[], bool], deadline: float, problem: str) -> None:
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(problem)
        time.sleep(_POLL_S)
