"""Fixtures of several test files, over real servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from replicator.log.interface import Log
from tests.support.worlds import World


@pytest.fixture
def log(world: World) -> Log:
    return world.log()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is kept until the end of the test."""
    with ExitStack() as stack:
        yield stack
