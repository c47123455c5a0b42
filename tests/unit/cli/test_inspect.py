"""What `status` says of a group."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner

from replicator.cli import cli
from replicator.cli.context import Settings
from replicator.cli.inspect import _status_text
from replicator.errors import LogUnavailable
from replicator.ops.redis_away import WHAT_HELPS
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


def test_of_a_node_that_does_not_report_nothing_is_told_as_if_it_were_now() -> None:
    silent = replace(A, alive=False, leads=False, codes=["not_reporting"], age_ms=12_300, lag_records=None)
    row = _status_text(replace(WELL, nodes=[silent, B])).splitlines()[-2].split()
    assert row[:4] == ["a", "-", "no", "-"]


def test_while_redis_is_away_it_is_said_what_helps() -> None:
    told = CliRunner().invoke(cli, ["--redis", "redis://127.0.0.1:1", "status"])
    assert (told.exit_code, told.stdout) == (6, "")
    error, *helps = told.stderr.splitlines()
    assert "127.0.0.1:1 is not available" in error
    assert helps == list(WHAT_HELPS)
    for command in (("list",), ("cancel", "x"), ("run", "verify"), ("run", "verify", "--here")):
        told = CliRunner().invoke(cli, ["--redis", "redis://127.0.0.1:1", "jobs", *command])
        assert (told.exit_code, told.stderr.splitlines()[-len(WHAT_HELPS) :]) == (6, helps), command
    # but not to a program, and not where Redis answers and refuses
    told = CliRunner().invoke(cli, ["--redis", "redis://127.0.0.1:1", "status", "--json"])
    assert len(told.stderr.splitlines()) == 1
    with pytest.raises(LogUnavailable) as refused, Settings("redis://127.0.0.1:1", "g").log():
        raise LogUnavailable.refuses("redis://127.0.0.1:1", "OOM")
    assert not hasattr(refused.value, "__notes__")
