"""A command for changes of the role that writes down what it is told."""

from __future__ import annotations

import sys
from pathlib import Path

from .kv import Group

#: Appends what it is told to the file that it is given.
TELL = """
import os, sys
with open(sys.argv[1], "a") as file:
    print(*(os.environ[f"REPLICATOR_{name}"] for name in ("ROLE", "TERM", "NODE", "GROUP")), file=file)
"""


def telling(told: Path) -> str:
    script = told.with_name("tell.py")
    script.write_text(TELL)
    return f"'{sys.executable}' '{script}' '{told}'"


def lines(told: Path) -> list[str]:
    return told.read_text().splitlines()


def hands_over(group: Group, primary: str, *, to: str) -> bool:
    """Whether a switchover would have the program of the primary stopped first: both nodes have reported, and it so."""
    heartbeats = group.log().look().heartbeats
    return to in heartbeats and primary in heartbeats and heartbeats[primary].prepares
