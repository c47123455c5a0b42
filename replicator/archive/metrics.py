"""`/metrics` of an archiver: how far the archive is behind the log, for Prometheus.

Nodes know of no archiver, so it says so itself, in the same form as they do; the label `node` is its host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import ConfigError
from ..format.ids import RecordId
from ..metrics.exposition import NodeCollector
from ..metrics.node_metrics import NodeMetrics, Value
from ..node.environment import address_of
from .status import Status

__all__ = ["ArchiverMetrics", "serving"]


class ArchiverMetrics:
    """Those of one archiver, by what it says in `status`: a source for `NodeCollector`."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def metrics(self) -> Sequence[NodeMetrics]:
        """What it knows now. That it has never had all of the log is no `behind` of 0: that one is missing then."""
        status = self._status
        values: dict[str, Value] = {
            "replicator_archive_up": float(not status.ended),
            "replicator_archive_problem": float(bool(status.problem)),
            "replicator_archive_segments": status.segment_count,
            "replicator_archive_timeline": status.timeline,
            "replicator_archive_archived_n": RecordId.parse(status.position).n,
            "replicator_archive_lag_records": status.lag_records,
        }
        lag_ms = status.lag_ms()
        if lag_ms is not None:
            values["replicator_archive_behind_seconds"] = lag_ms / 1000
        return [NodeMetrics(status.group, status.host, values)]


@contextmanager
def serving(status: Status, at: str) -> Iterator[str]:
    """Serve them at `at`, HOST:PORT, and give the URL.

    Raises `ConfigError`: that is no address, or somebody else listens there, or prometheus-client is not installed.
    """
    host, port = address_of(at, setting="metrics")
    collector = NodeCollector(ArchiverMetrics(status))
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(setting="metrics", problem=f"cannot listen at {at}: {error.strerror or error}") from None
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
