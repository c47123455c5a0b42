"""How a world ends if nothing more goes wrong: the fair completion that the explorer runs from every world.

What is on its way arrives, or is lost, all of it. Who is down restarts. Everybody notices the run, settles its write,
learns of a lost term, reads all there is, sends the snapshots that it owes. When nothing moves and nobody leads, a node
promotes itself, or else the tool promotes the most advanced one that it does not refuse; a log that is broken it
recovers first, and it does not wait for a node that sends its state to such a log again and again. In the end there has
to be one primary, a write to it has to succeed, and all nodes and a newcomer have to have what it has.
"""

from __future__ import annotations

from typing import NamedTuple

from replicator.format.ids import ZERO_ID

from .parts import Breach, Budget, World
from .world import Machine

__all__ = ["Ending"]

#: The change that is written last.
PROBE = "!"


class Step(NamedTuple):
    text: str
    world: World


class Ending:
    """Completes worlds, and remembers which ones end well."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._quiet = machine.budgets(Budget(0, 0, 0, 0, 0, 0))
        self._good: set[bytes] = set()

    def check(self, world: World) -> None:
        """Raises `Breach`, with the steps to a bad end."""
        start = self._machine.tidied(world._replace(budget=self._quiet))
        self._follow(start)
        if start.bag:
            self._follow(self._machine.tidied(start._replace(bag=())))

    def _follow(self, world: World) -> None:
        seen: dict[World, None] = {}
        texts: list[str] = []
        while world.packed() not in self._good:
            try:
                step = self._recovery(world) if world in seen else self._next(world)
                if world in seen and (step is None or step.world in seen):
                    raise Breach("it goes round in circles")
                seen[world] = None
                if step is None:
                    self._check_end(world)
                    break
                texts.append(step.text)
                world = step.world
                self._machine.check(world.ghost, world.nodes)
            except Breach as breach:
                raise Breach(str(breach), *texts, *breach.steps) from None
        self._good.update(one.packed() for one in seen)

    def _next(self, world: World) -> Step | None:
        if world.bag:
            return Step(*self._machine.delivery(world, world.bag[0]))
        return (
            self._next_of_a_node(world)
            or self._next_promotion(world)
            or self._next_skip(world)
            or self._next_reinit(world)
            or self._probe(world)
        )

    def _next_of_a_node(self, world: World) -> Step | None:
        machine = self._machine
        for i, node in enumerate(world.nodes):
            options = machine.own_options(node, world.server, world.budget)
            options = options or machine.group_options(i, world.nodes, world.server, world.budget)
            if options:
                return Step(options[0].text, machine.taken(world, i, options[0]))
            if machine.nodes[node].write is not None:
                again = machine.sent_again(node, world.server)
                return Step(again.text, machine.taken(world, i, again))
        return None

    def _next_promotion(self, world: World) -> Step | None:
        machine = self._machine
        nodes = [machine.nodes[node] for node in world.nodes]
        if (recovery := self._recovery(world)) is not None:
            return recovery
        if self._somebody_leads(world):
            return None
        look = machine.look(world.server, world.nodes)
        promotions = [machine.own_promotion(node.live, look) for node in nodes if node.stalled_at == ZERO_ID]
        for heartbeat in sorted(look.heartbeats.values(), key=lambda heartbeat: heartbeat.changed, reverse=True):
            promotions.append(machine.tool_promotion(look, heartbeat.node))
        promote = next((promote for promote in promotions if promote), None)
        if promote is None:
            return None
        request = machine.requests(promote)
        return Step(f"promote {promote.writer} is sent", world._replace(bag=(request,)))

    def _somebody_leads(self, world: World) -> bool:
        """Or is to, once its state is in the log."""
        nodes = (self._machine.nodes[node] for node in world.nodes)
        return any((node.live.is_primary or node.live.must_rebase) and node.stalled_at == ZERO_ID for node in nodes)

    def _next_skip(self, world: World) -> Step | None:
        """Every node that could lead stalls at the last change."""
        machine = self._machine
        if self._somebody_leads(world):
            return None
        skips = (machine.tool_skip(world.server, world.nodes, name) for name in machine.bounds.names)
        promote = next((each for each in skips if each), None)
        if promote is None:
            return None
        return Step(f"skip with {promote.writer} is sent", world._replace(bag=(machine.requests(promote),)))

    def _next_reinit(self, world: World) -> Step | None:
        """Snapshots after the change at which a node stalled help that node, once they are all that the log has."""
        machine = self._machine
        for i, number in enumerate(world.nodes):
            node = machine.nodes[number]
            if node.stalled_at == ZERO_ID:
                continue
            if node.unfit or machine.entry(world.server, node.stalled_at) is None:
                started = machine.nodes(machine.restarted(node))
                return Step(f"{node.name} is started again", machine.tidied(world.with_node(i, started)))
            for j, other in enumerate(world.nodes):
                if machine.nodes[other].live.is_primary and machine.nodes[other].stalled_at == ZERO_ID:
                    begun = machine.nodes(machine.begun(other))
                    return Step("somebody asks for a snapshot", machine.tidied(world.with_node(j, begun)))
        return None

    def _recovery(self, world: World) -> Step | None:
        machine = self._machine
        recovery = machine.recovery(machine.look(world.server, world.nodes))
        if recovery is None:
            return None
        return Step("the tool sends a recovery", world._replace(bag=(machine.requests(recovery),)))

    def _probe(self, world: World) -> Step | None:
        """The primary can write."""
        machine = self._machine
        for i, node in enumerate(world.nodes):
            value = machine.nodes[node]
            if value.live.is_primary and value.stalled_at == ZERO_ID and PROBE not in value.state:
                option = machine.submitted(node, world.server, PROBE)
                return Step(option.text, machine.taken(world, i, option))
        return None

    def _check_end(self, world: World) -> None:
        machine = self._machine
        nodes = [machine.nodes[node] for node in world.nodes]
        head = machine.servers[world.server].head
        fail_at = {node.fails_at for node in nodes if node.fails_at not in nodes[0].state}  # else only a snapshot helps
        newcomers = [machine.newcomer(world.server, fails_at) for fails_at in sorted({"", *fail_at})]
        assert head is not None
        leaders = [node.name for node in nodes if node.live.is_primary and node.stalled_at == ZERO_ID]
        if len(leaders) != 1:
            raise Breach(f"at rest, {' and '.join(leaders) or 'nobody'} leads")
        for node in (*nodes, *newcomers):
            view = node.live.view
            if not view.in_sync or view.position.chain != head.position.chain:
                raise Breach(f"at rest, {node.name} is at {view.position.id}, the log at {head.position.id}")
            if node.state != nodes[0].state:
                raise Breach(f"at rest, {node.name} has {node.state!r}, a has {nodes[0].state!r}")
