"""The faults of a drill. Each is a context: what it gives says what has begun, and its end ends it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from replicator import ops
from replicator.sandbox.stack import NODES

from .stack import Scene

__all__ = ["CRASH", "FAULTS", "Fault", "Say"]

Say = Callable[[str], None]

#: Three terms within a minute are too many (protocol/election.py); the oldest of them is that old by then.
SUCCESSOR_WITHIN_S = 70.0

#: How much longer each save of a slow disk takes.
SLOW_SAVE_S = 0.2


@contextmanager
def _kill(scene: Scene, primary: str) -> Iterator[str]:
    scene.kill(f"node-{primary}")
    yield f"kill -9 of {primary}; supervisord brings it back"


@contextmanager
def _crash(scene: Scene, primary: str) -> Iterator[str]:
    program = f"node-{primary}"
    try:
        scene.stack.kill_program(program)
        yield f"kill -9 of {primary}; it stays away"
    finally:
        scene.stack.start_program(program)


@contextmanager
def _pause(scene: Scene, primary: str) -> Iterator[str]:
    try:
        scene.stack.signal(f"node-{primary}", signal.SIGSTOP)
        yield f"{primary} is paused (SIGSTOP)"
    finally:
        scene.stack.signal(f"node-{primary}", signal.SIGCONT)


@contextmanager
def _cut(scene: Scene, primary: str) -> Iterator[str]:
    proxy = scene.proxy(primary)
    try:
        proxy.refuse()
        proxy.cut()
        yield f"{primary} is cut off from Redis"
    finally:
        proxy.accept()


@contextmanager
def _half_cut(scene: Scene, primary: str) -> Iterator[str]:
    proxy = scene.proxy(primary)
    try:
        proxy.stall("replies")
        yield f"what {primary} sends arrives at Redis, no answer comes back"
    finally:
        proxy.go()


@contextmanager
def _redis_restart(scene: Scene, primary: str) -> Iterator[str]:
    scene.kill(scene.master)
    yield "kill -9 of Redis; supervisord brings it back"


@contextmanager
def _redis_failover(scene: Scene, primary: str) -> Iterator[str]:
    scene.fail_over()
    yield "Redis is gone for good; its address leads to the replica now"


@contextmanager
def _slow_disk(scene: Scene, primary: str) -> Iterator[str]:
    control = scene.slow_file(primary)
    try:
        control.write_text(str(SLOW_SAVE_S))
        yield f"each save of {primary} takes {SLOW_SAVE_S * 1000:.0f} ms longer"
    finally:
        control.unlink(missing_ok=True)


def _follow_master(scene: Scene, say: Say) -> None:
    scene.follow_master()
    say("a replica follows Redis")


def _wait_for_a_successor(scene: Scene, say: Say) -> None:
    """Nodes that took the term by themselves often lately are refused for a while."""
    deadline = time.monotonic() + SUCCESSOR_WITHIN_S
    told = False
    while _successor(scene) is None and time.monotonic() < deadline:
        if not told:
            say("every standby took the term too often lately; waiting until one may have it again")
            told = True
        scene.tick()


def _successor(scene: Scene) -> str | None:
    head = scene.led()
    others = [name for name in NODES if head is not None and name != head.node]
    return next((name for name in others if ops.preview(scene.log, name).refusal is None), None)


@contextmanager
def _switchover(scene: Scene, primary: str) -> Iterator[str]:
    target = _successor(scene) or next(name for name in NODES if name != primary)
    done = ops.switchover(scene.log, target, by="replicator drill", reason="drill", lease_ms=int(scene.lease_s * 1000))
    yield f"replicator switchover --to {target}: nobody could write for at most {done.gap_ms:.0f} ms"


class Fault(NamedTuple):
    """Something to play, given the name of the primary.

    `over`: what its end is, if it lasts. `prepare` comes before, outside of what is measured.
    """

    about: str
    begin: Callable[[Scene, str], AbstractContextManager[str]]
    over: str = ""
    prepare: Callable[[Scene, Say], None] = lambda scene, say: None


#: The menu, in the order in which it is played.
FAULTS = {
    "switchover": Fault("another node is made the primary, as planned", _switchover, prepare=_wait_for_a_successor),
    "kill": Fault("kill -9 of the primary, which comes back", _kill),
    "pause": Fault("the primary is stopped for longer than its lease", _pause, "{primary} goes on (SIGCONT)"),
    "cut": Fault("the primary is cut off from Redis for longer than that", _cut, "{primary} reaches Redis again"),
    "half-cut": Fault("the same, but its requests arrive", _half_cut, "{primary} hears Redis again"),
    "redis-restart": Fault("kill -9 of Redis, which comes back", _redis_restart),
    "redis-failover": Fault("Redis moves to its replica", _redis_failover, prepare=_follow_master),
    "slow-disk": Fault("each save of the primary takes longer", _slow_disk, "the disk of {primary} is fast again"),
}

#: Not on the menu of `replicator drill`. A node that is killed there may be back before its lease has run out, and lead
#: again itself; after this one another node leads for certain.
CRASH = {
    "crash": Fault("the primary is killed, and away for longer than its lease", _crash, "{primary} is started again"),
}
