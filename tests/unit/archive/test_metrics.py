"""What an archiver tells Prometheus."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

import httpx
import pytest

from replicator import ConfigError
from replicator.archive.metrics import ArchiverMetrics, serving
from replicator.archive.status import Status
from replicator.metrics.catalogue import METRICS
from tests.support import plain_http
from tests.support.kv import PATIENCE_S

STATUS = Status(
    group="g", host="db1", position="3-17", lag_records=2, segment_count=4, timeline=1, complete_at=1, problem="no room"
)


def test_every_metric_of_an_archive_that_the_list_has_is_told() -> None:
    (found,) = ArchiverMetrics(STATUS).metrics()
    assert (found.group, found.node) == ("g", "db1")
    assert set(found.values) == {name for name in METRICS if name.startswith("replicator_archive_")}


def test_before_it_has_had_all_of_the_log_nobody_knows_how_far_it_is_behind() -> None:
    (found,) = ArchiverMetrics(replace(STATUS, complete_at=0)).metrics()
    assert "replicator_archive_behind_seconds" not in found.values


def test_they_are_served_as_they_are_now() -> None:
    status = replace(STATUS, complete_at=int(time.time() * 1000) - 90_000)
    with serving(status, "127.0.0.1:0") as url:
        told = plain_http.get(url, timeout=PATIENCE_S).text.splitlines()
        assert 'replicator_archive_archived_n{group="g",node="db1"} 17.0' in told
        assert 'replicator_archive_problem{group="g",node="db1"} 1.0' in told
        (behind,) = (line.split()[-1] for line in told if line.startswith("replicator_archive_behind_seconds{"))
        assert float(behind) >= 90
        status.problem, status.ended = "", True
        told = plain_http.get(url, timeout=PATIENCE_S).text.splitlines()
        assert 'replicator_archive_problem{group="g",node="db1"} 0.0' in told
        assert 'replicator_archive_up{group="g",node="db1"} 0.0' in told
    with pytest.raises(httpx.ConnectError):
        plain_http.get(url)


def test_an_address_that_cannot_be_had_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"metrics.*cannot listen at {at}"), serving(STATUS, at):
            pass
    with pytest.raises(ConfigError, match="is not HOST:PORT"), serving(STATUS, "9108"):
        pass
