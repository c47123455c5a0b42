"""Metrics as Prometheus reads them, by prometheus-client, which nothing else here imports.

A `NodeCollector` asks a node, or a host, when it is scraped. It keeps no values of its own and is in no write's way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError
from .catalogue import METRICS, Metric
from .histogram import Histogram
from .node_metrics import NodeMetrics, Value

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

__all__ = ["CONTENT_TYPE", "HasMetrics", "NodeCollector", "exposed"]

#: The text format, which every Prometheus reads.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MISSING = "prometheus-client is not installed: pip install 'replicator[metrics]'"

#: Of every sample.
_OF_ALL = ("group", "node")


class HasMetrics(Protocol):
    """A `Node` (with those of its host), or a `Host`."""

    def metrics(self) -> Sequence[NodeMetrics]: ...


class NodeCollector:
    """A collector for a registry of prometheus-client: `REGISTRY.register(NodeCollector(node))`.

    `source`: a `Node`, or a `Host`, of which every group is one scrape's. Raises `ConfigError` if prometheus-client is
    not installed.
    """

    def __init__(self, source: HasMetrics) -> None:
        try:
            import prometheus_client.core as core
        except ImportError:
            raise ConfigError(setting="metrics", problem=MISSING) from None
        self._core = core
        self._source = source

    def describe(self) -> Iterable[Family]:
        """Nothing: so no registry asks for values before it is scraped."""
        return []

    def collect(self) -> Iterator[Family]:
        """What the node knows now. Raises `WrongProcess` in a forked child."""
        found = self._source.metrics()
        for metric in METRICS.values():
            family = self._family(metric)
            for each in found:
                value = each.values.get(metric.name)
                if value is not None:
                    _add(family, metric, (each.group, each.node), value)
            if family.samples:
                yield family

    def _family(self, metric: Metric) -> Any:
        labels = [*_OF_ALL, metric.label] if metric.label else list(_OF_ALL)
        kinds = {
            "gauge": self._core.GaugeMetricFamily,
            "counter": self._core.CounterMetricFamily,
            "histogram": self._core.HistogramMetricFamily,
        }
        return kinds[metric.kind](metric.name, metric.help, labels=labels)


def _add(family: Any, metric: Metric, labels: tuple[str, str], value: Value) -> None:
    by_label = value if isinstance(value, Mapping) else {"": value}
    for text, one in by_label.items():
        full = [*labels, text] if metric.label else list(labels)
        if isinstance(one, Histogram):
            bounds = [*map(_bound, one.bounds), "+Inf"]
            family.add_metric(full, list(zip(bounds, one.cumulative, strict=True)), one.sum)
        else:
            family.add_metric(full, one)


def _bound(bound: float) -> str:
    return repr(float(bound))


def exposed(source: HasMetrics) -> tuple[str, bytes]:
    """The answer to a scrape: its media type, and its body.

    Raises `ConfigError` if prometheus-client is not installed, and `WrongProcess`.
    """
    collector = NodeCollector(source)
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return CONTENT_TYPE, generate_latest(registry)
