"""A program that runs where the node leads, and nowhere else: `replicator node --run CMD`.

program.py      starts it, looks after it, and has it ended: what the node's side does
keeper.py       the small process between the two, which ends it when the node cannot
checking.py     whether it answers
"""

from .program import RunOptions, RunProgram

__all__ = ["RunOptions", "RunProgram"]
