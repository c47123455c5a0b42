"""What `status` says of a group."""

from __future__ import annotations

from dataclasses import replace

from replicator.cli.inspect import _status_text
from tests.support.statuses import WELL, A, B


def test_who_takes_writes_is_a_url_only_where_the_node_itself_takes_them() -> None:
    assert _status_text(WELL).splitlines()[1] == "a takes writes, at http://a"
    beside = replace(WELL, nodes=[replace(A, has_program=True), B])
    assert _status_text(beside).splitlines()[1] == "a leads, and only the program beside it may write"


def test_what_was_kept_aside_is_told_with_the_command_that_lists_it() -> None:
    assert "kept aside" not in _status_text(WELL)
    kept = replace(WELL, nodes=[replace(A, kept_count=1), replace(B, fork_count=2)])
    told = "kept aside: b 2 forks (there: `replicator forks list`); a 1 file (there: `replicator forks files`)"
    assert told in _status_text(kept).splitlines()
