"""The states of the examples, tried as docs/testing-your-service.md says."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from examples.flags.state import Flag, FlagState
from examples.scheduler.state import Jobs
from replicator import ChangeRejected
from replicator.testing import Cluster, check_state, strategies


@pytest.mark.parametrize("state", [FlagState, Jobs])
def test_it_can_be_replicated(state: type[FlagState] | type[Jobs]) -> None:
    check_state(state, strategies.commands(state, name=st.sampled_from(["a", "b"])), examples=30)


def test_a_flag_survives_a_failover() -> None:
    with Cluster(3, FlagState) as cluster:
        assert cluster.submit(FlagState.set_flag("dark-mode", on=True)) == Flag(True)
        cluster.kill("a")
        primary = cluster.settle()
        with primary.reading() as state:
            assert state.flags == {"dark-mode": Flag(True)}


def test_a_flag_that_is_not_there_cannot_be_removed() -> None:
    with Cluster(1, FlagState) as cluster, pytest.raises(ChangeRejected, match="there is no flag beta"):
        cluster.submit(FlagState.remove_flag("beta"))


def test_a_run_that_was_noted_is_not_due_again_on_the_next_primary() -> None:
    with Cluster(3, Jobs) as cluster:
        # given
        cluster.submit(Jobs.add("hello", every_s=10.0, now=1000.0))
        cluster.submit(Jobs.add("bye", every_s=10.0, now=1000.0))
        cluster.submit(Jobs.ran("hello", now=1000.0))
        # when
        cluster.kill("a")
        primary = cluster.settle()
        # then
        with primary.reading() as state:
            assert state.due(1000.0) == ["bye"]
            assert state.due(1010.0) == ["hello", "bye"]
