"""The stories in this directory, told over the log in memory and over every Redis at hand: each proves the other.

A story is a text file: what it is about, then blocks of commands, `----`, and the transcript that they must give.
`REWRITE=1 pytest tests/scenarios` writes down what happens now; read the difference before you keep it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replicator.format.records import Record
from replicator.protocol import fold
from replicator.protocol.fold import Row, View
from tests.support.driver import Driver
from tests.support.worlds import MemoryWorld, World

STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_the_story_goes_as_it_is_written(story: Path, world: World) -> None:
    written = story.read_text()
    told = tell(written, world)
    if os.environ.get("REWRITE") and isinstance(world, MemoryWorld):
        story.write_text(told)
    else:
        assert told == written


def test_every_story_says_what_it_is_about() -> None:
    assert STORIES
    assert all(story.read_text().startswith("# ") for story in STORIES)


def test_every_row_of_the_fold_is_in_a_story(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()

    def noted(row: Row) -> Row:
        def become(view: View, record: Record) -> View:
            seen.add(row.number)
            return row.become(view, record)

        return row._replace(become=become)

    monkeypatch.setattr(fold, "TABLE", tuple(map(noted, fold.TABLE)))
    monkeypatch.setattr(fold, "_after_next_change", lambda view, record: None)  # without the shortcut
    for story in STORIES:
        tell(story.read_text(), MemoryWorld())
    assert seen == {row.number for row in fold.TABLE}


def tell(text: str, world: World) -> str:
    """The story with the transcript that it gives now."""
    driver = Driver(world)
    return "\n\n".join(_block(block, driver) for block in text.rstrip("\n").split("\n\n")) + "\n"


def _block(block: str, driver: Driver) -> str:
    lines = block.splitlines()
    commands = lines[: lines.index("----")] if "----" in lines else lines
    said = [line for command in commands if not command.startswith("#") for line in driver.do(command)]
    asked = any(not command.startswith("#") for command in commands)
    return "\n".join([*commands, "----", *said] if asked else commands)
