"""`replicator why NODE`: why a node does not lead, does not follow, would not be promoted, or is not ready."""

from __future__ import annotations

import textwrap

import click

from replicator import ops
from replicator.protocol.reasons import ReasonCode
from replicator.runtime.checks import plain

from .context import NAME, Settings, output_option, show_json, show_line

__all__ = ["why"]

#: What is asked of a node, as people read it.
ASKED = {"leads": "leads", "follows": "follows", "promotable": "may be promoted", "ready": "is ready"}

#: As wide as a terminal is at least.
WIDTH = 80


@click.command()
@click.argument("node", type=NAME)
@output_option
@click.pass_obj
def why(settings: Settings, node: str, output: str) -> None:
    """Why NODE does not lead, does not follow, would not be promoted, or is not ready."""
    with settings.log() as log:
        told = ops.why(log, node)
    if output == "json":
        show_json(told.to_dict())
        return
    age = f"{told.age_ms / 1000:.1f} s ago" if told.age_ms < 100_000 else f"{told.age_ms / 60_000:.0f} min ago"
    role = "not alive" if _is_absent(told) else told.role
    show_line(f"{told.node}  {role}, at {told.position} in term {told.term}, reported {age}")
    for question, words in ASKED.items():
        click.echo(f"\n{words.ljust(16)}{'yes' if getattr(told, question) else 'no'}")
        for each in told.reasons:
            if each.question == question:
                click.echo(_reason_text(each))


def _is_absent(told: ops.Why) -> bool:
    """Whether it has no role, as it does not report."""
    return any(each.question == "ready" and each.code in _ABSENT for each in told.reasons)


_ABSENT = (ReasonCode.NOT_REPORTING, ReasonCode.STOPPED)


def _reason_text(each: ops.Answer) -> str:
    facts = "  ".join(f"{name}={_fact(fact)}" for name, fact in each.facts.items())
    lines = [f"  {each.code.value}{'  ' + plain(facts) if facts else ''}"]
    lines += textwrap.wrap(
        plain(each.message), WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )
    return "\n".join(lines)


def _fact(fact: object) -> str:
    if isinstance(fact, tuple):
        return ",".join(map(str, fact)) or "-"
    return "-" if fact is None else str(fact)
