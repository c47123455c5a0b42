"""Fixtures of several test files, over real servers."""

from __future__ import annotations

import pytest

from replicator.log.interface import Log
from tests.support.worlds import World


@pytest.fixture
def log(world: World) -> Log:
    return world.log()
