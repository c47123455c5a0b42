"""docs/fold.md is made from the table in replicator/protocol/fold.py. After a change of the table:

python -m tests.unit.protocol.test_fold_docs --write
"""

from __future__ import annotations

import argparse
from pathlib import Path

from replicator.protocol.fold import TABLE, Row, Verdict

PAGE = Path(__file__).parents[3] / "docs" / "fold.md"

HEAD = """\
# The fold

What a node does with the next record of the log: `step(view, record, me) -> (verdict, view)` in
`replicator/protocol/fold.py`. The first row that matches wins. "Follows" means: the record's `prev` is the chain of the
node's position.

<!-- Made from the table in replicator/protocol/fold.py by `python -m tests.unit.protocol.test_fold_docs --write`. -->
"""

#: What a verdict does to a node, by the state that it is in: from -> to.
MOVES: dict[Verdict, tuple[tuple[str, str], ...]] = {
    Verdict.REJECT_STALE: (),
    Verdict.CONFLICT: (("in_sync", "out_of_sync"), ("primary", "out_of_sync")),
    Verdict.LEAD: (("in_sync", "primary"), ("rebasing", "primary")),
    Verdict.LEAD_AFTER_REBASE: (("in_sync", "rebasing"), ("out_of_sync", "rebasing")),
    Verdict.STEP_DOWN: (("primary", "in_sync"), ("primary", "out_of_sync"), ("rebasing", "out_of_sync")),
    Verdict.FOLLOW: (("in_sync", "in_sync"), ("in_sync", "out_of_sync"), ("out_of_sync", "out_of_sync")),
    Verdict.APPLY: (("in_sync", "in_sync"), ("primary", "primary")),
    Verdict.SKIP: (("in_sync", "in_sync"), ("primary", "primary"), ("rebasing", "rebasing")),
    Verdict.RESTORE: (("out_of_sync", "in_sync"), ("in_sync", "in_sync"), ("primary", "primary")),
    Verdict.NEED_SNAPSHOT: (("in_sync", "out_of_sync"), ("out_of_sync", "out_of_sync")),
}

STATES = {
    "in_sync": "standby in sync",
    "out_of_sync": "standby out of sync",
    "rebasing": "rebasing: holds the term, its snapshot goes first",
    "primary": "primary",
}


def page() -> str:
    """The whole of docs/fold.md."""
    return "\n".join([HEAD, *_table(), "", *_verdicts(), "", "## The states of a node", "", *_diagram(), ""])


def _table() -> list[str]:
    lines = ["| # | record | when | verdict | view afterwards |", "|---|---|---|---|---|"]
    return lines + [
        f"| {row.number} | {_kinds(row)} | {row.when} | {_name(row.verdict)} | {row.after} |" for row in TABLE
    ]


def _kinds(row: Row) -> str:
    kinds = [kind.kind for kind in row.kinds]
    return "any" if len(kinds) == 3 else ", ".join(kinds)


def _name(verdict: Verdict) -> str:
    return verdict.name.title().replace("_", "")


def _verdicts() -> list[str]:
    return ["| verdict | means |", "|---|---|", *(f"| {_name(verdict)} | {verdict.value} |" for verdict in Verdict)]


def _diagram() -> list[str]:
    lines = ["```mermaid", "stateDiagram-v2", *(f"    {state} : {text}" for state, text in STATES.items())]
    lines.append("    [*] --> in_sync")
    return [*lines, *(f"    {start} --> {end} : {label}" for (start, end), label in _edges().items()), "```"]


def _edges() -> dict[tuple[str, str], str]:
    """From and to, with the verdicts and their rows. A verdict that leaves a node where it is makes no arrow."""
    edges: dict[tuple[str, str], list[str]] = {}
    for verdict in dict.fromkeys(row.verdict for row in TABLE):
        rows = ", ".join(str(row.number) for row in TABLE if row.verdict is verdict)
        for move in MOVES[verdict]:
            if move[0] != move[1]:
                edges.setdefault(move, []).append(f"{_name(verdict)} ({rows})")
    return {move: " / ".join(labels) for move, labels in edges.items()}


def test_the_page_on_the_fold_is_what_the_table_gives() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.unit.protocol.test_fold_docs --write`"


def test_every_verdict_has_its_place_in_the_diagram() -> None:
    assert set(MOVES) == set(Verdict)
    assert {state for moves in MOVES.values() for move in moves for state in move} == set(STATES)


def test_every_verdict_is_given_by_some_row() -> None:
    assert {row.verdict for row in TABLE} == set(Verdict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/fold.md instead of printing it")
    if parser.parse_args().write:
        PAGE.write_text(page())
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()
