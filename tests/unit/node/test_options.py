"""node/options.py: the options of a node are spelt once."""

from __future__ import annotations

from dataclasses import fields

import pytest

from replicator.cli.node import node as command
from replicator.errors import ConfigError
from replicator.node.options import NodeKeywords, NodeOptions


def test_the_keywords_are_the_fields() -> None:
    assert list(NodeKeywords.__annotations__) == [field.name for field in fields(NodeOptions)]
    options = NodeOptions(ack="applied:1", lease_s=2.0)
    assert NodeOptions(**options.keywords) == options


def test_the_command_line_has_all_but_two_with_the_same_defaults() -> None:
    given = {option.name: option.default for option in command.params}
    defaults = dict(NodeOptions().keywords)
    assert defaults.pop("beat_every_s", ...) is None
    assert defaults.pop("watchdog_s", ...) is None  # a node of the command line serves no event loop of anybody
    assert {name: given.get(name) for name in defaults} == defaults


def test_a_beat_is_a_third_of_the_lease_or_a_second() -> None:
    assert NodeOptions(lease_s=30.0).policy.beat_every_s == 1.0
    assert NodeOptions(lease_s=0.3).policy.beat_every_s == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="beat_every_s"):
        NodeOptions(lease_s=1.0, beat_every_s=0.5)
