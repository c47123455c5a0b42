"""What happens in each round of a soak: all that an operator, a failure and the product itself do to a group.

An event returns when it is over, and the groups that it touched are in step again. Node `a` and host `a` are never
ended: what leaks in them has all the time of the soak for it. `b` is stopped and started, `c` is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.soak.scene import Scene
from replicator import ops
from replicator.ops.doctor import doctor

__all__ = ["EVENTS", "Event", "StatesDiffer"]

Event = Callable[[Scene], None]


class StatesDiffer(Exception):
    """Two nodes at one position have not the same state. No event that a busy machine could not play."""


BY = "soak"

#: So many of the small groups are led elsewhere, sent a snapshot of, and verified in a round: one after the other, so
#: that the term of each changes in other rounds.
SOME = 5


def _switch(scene: Scene, node: str, group: str | None = None) -> None:
    log = scene.registry if group is None else scene.log(group)
    if log.look().heartbeats[node].role != "primary":
        ops.switchover(log, node, by=BY, timeout_s=30.0)


def status(scene: Scene) -> None:
    """`status` and `doctor` of the registry; `status` of all small groups."""
    doctor(scene.registry)
    for group in scene.small:
        ops.status(scene.log(group))
    ops.status(scene.registry)


def snapshot(scene: Scene) -> None:
    """A snapshot that somebody asks for."""
    ops.snapshot(scene.registry, by=BY)
    for group in scene.small[:SOME]:
        ops.snapshot(scene.log(group), by=BY)


def verify(scene: Scene) -> None:
    """All nodes compare their states."""
    for log in (scene.registry, *map(scene.log, scene.small[:SOME])):
        report = ops.verify(log, by=BY)
        if report.differ:
            raise StatesDiffer(f"the states of {log.group} differ: {report.digests}")


def switchover(scene: Scene) -> None:
    """To each node once, and some small groups there and back."""
    for node in ("b", "c", "a"):
        _switch(scene, node)
    for group in scene.small[:SOME]:
        _switch(scene, "b", group)
        _switch(scene, "a", group)
    scene.settle()


def promotion(scene: Scene) -> None:
    """The primary hands over to nobody, and another node is promoted."""
    ops.demote(scene.registry, by=BY)
    ops.promote(scene.registry, "b", by=BY, timeout_s=30.0)
    _switch(scene, "a")
    scene.settle()


def pause(scene: Scene) -> None:
    """Automatic failover off and on again."""
    ops.pause(scene.registry, by=BY, reason="soak")
    ops.resume(scene.registry)


def kill(scene: Scene) -> None:
    """kill -9 of the primary of the registry, which comes back as a standby or takes the term again."""
    _switch(scene, "c")
    scene.kill("node-c")
    scene.settle()
    _switch(scene, "a")


def stop(scene: Scene) -> None:
    """A clean stop, and a start."""
    scene.stack.stop_program("node-b")
    scene.stack.start_program("node-b")
    scene.settle()


def host_kill(scene: Scene) -> None:
    """kill -9 of a host that leads some groups: the other host takes them over."""
    for group in scene.small[:SOME]:
        _switch(scene, "b", group)
    scene.end_host("b", kill=True)
    scene.start_host("b")
    scene.settle()
    for group in scene.small[:SOME]:
        _switch(scene, "a", group)


def host_stop(scene: Scene) -> None:
    """A clean stop of a host, and a start."""
    scene.end_host("b", kill=False)
    scene.start_host("b")
    scene.settle()


def redis_restart(scene: Scene) -> None:
    """kill -9 of Redis, which comes back with what is in its AOF."""
    scene.kill("redis")
    scene.settle()


def log_lost(scene: Scene) -> None:
    """Somebody deletes the log of the registry and of a small group: the nodes found it anew from what they have."""
    for group in (scene.stack.group, scene.small[-1]):
        scene.client.delete(f"replicator:{{{group}}}:log", f"replicator:{{{group}}}:head")
    scene.settle()
    _switch(scene, "a")
    _switch(scene, "a", scene.small[-1])


def forks(scene: Scene) -> None:
    """A node never deletes a fork: an operator does, who has seen what is in it."""
    for path in scene.forks():
        path.unlink()


EVENTS: Mapping[str, Event] = {
    each.__name__.replace("_", " "): each
    for each in (
        *(status, snapshot, switchover, pause, kill, stop, host_kill, host_stop, promotion, redis_restart),
        *(log_lost, verify, forks),
    )
}
