"""The times of jobs are those of cron, or `off`."""

from __future__ import annotations

import pytest

from replicator.errors import ConfigError
from replicator.jobs.schedule import check_times


@pytest.mark.parametrize("text", ["off", "30 2 * * *", "*/5 * * * *", "0 4 * * 0", "0 4 1 1 mon"])
def test_what_cron_takes_is_taken(text: str) -> None:
    assert check_times("--verify", text) == text


@pytest.mark.parametrize("text", ["", "61 * * * *", "* * * *", "* * * * * *", "@daily", "never"])
def test_what_it_does_not_take_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--verify: .* is neither five fields of cron"):
        check_times("--verify", text)


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 4,6 *"])
def test_a_day_that_never_comes_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--verify: .* is a day that never comes"):
        check_times("--verify", text)
