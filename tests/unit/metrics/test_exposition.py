"""Metrics as Prometheus reads them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from replicator.errors import ConfigError
from replicator.metrics import NodeCollector, NodeMetrics, exposed
from replicator.metrics.histogram import Histogram


class Source:
    def __init__(self, *found: NodeMetrics) -> None:
        self.found = found
        self.asked = 0

    def metrics(self) -> Sequence[NodeMetrics]:
        self.asked += 1
        return self.found


def samples(source: Source) -> dict[tuple[str, str], float]:
    """By name and labels, as a parser reads them."""
    media_type, body = exposed(source)
    assert media_type.startswith("text/plain; version=0.0.4")
    return {
        (each.name, ",".join(f"{name}={value}" for name, value in sorted(each.labels.items()))): each.value
        for family in text_string_to_metric_families(body.decode())
        for each in family.samples
    }


def test_each_node_of_a_host_has_samples_of_its_own() -> None:
    source = Source(NodeMetrics("g", "a", {"replicator_term": 3}), NodeMetrics("h", "a", {"replicator_term": 4}))
    assert samples(source) == {("replicator_term", "group=g,node=a"): 3, ("replicator_term", "group=h,node=a"): 4}


def test_what_is_not_known_is_not_there() -> None:
    assert samples(Source(NodeMetrics("g", "a", {"replicator_lag_records": 0}))) == {
        ("replicator_lag_records", "group=g,node=a"): 0
    }


def test_a_further_label_has_a_sample_for_each_value() -> None:
    values = {"replicator_fenced_total": {"append": 2.0, "renew": 0.0}}
    assert samples(Source(NodeMetrics("g", "a", values))) == {
        ("replicator_fenced_total", "group=g,node=a,place=append"): 2,
        ("replicator_fenced_total", "group=g,node=a,place=renew"): 0,
    }


def test_a_histogram_is_cumulative_and_ends_with_all() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.5, 99.0):
        histogram.add(value)
    found = samples(Source(NodeMetrics("g", "a", {"replicator_batch_changes": histogram})))
    assert found == {
        ("replicator_batch_changes_bucket", "group=g,le=1.0,node=a"): 1,
        ("replicator_batch_changes_bucket", "group=g,le=2.0,node=a"): 2,
        ("replicator_batch_changes_bucket", "group=g,le=+Inf,node=a"): 3,
        ("replicator_batch_changes_count", "group=g,node=a"): 3,
        ("replicator_batch_changes_sum", "group=g,node=a"): 101,
    }


def test_a_registry_of_the_application_takes_the_collector_and_asks_when_it_is_scraped() -> None:
    source, registry = Source(NodeMetrics("g", "a", {"replicator_term": 3})), CollectorRegistry(auto_describe=True)
    registry.register(NodeCollector(source))
    assert source.asked == 0
    assert registry.get_sample_value("replicator_term", {"group": "g", "node": "a"}) == 3


def test_names_of_users_are_escaped() -> None:
    odd = 'a"b\\c\nd'
    assert samples(Source(NodeMetrics(odd, "a", {"replicator_term": 3}))) == {
        ("replicator_term", f"group={odd},node=a"): 3
    }


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(ConfigError, match=r"pip install 'replicator\[metrics\]'"):
        exposed(Source())


def test_nothing_of_prometheus_is_imported_before_a_scrape() -> None:
    program = (
        "import sys, replicator.metrics, replicator.web.asgi, replicator.web.wsgi, replicator.registry.api\n"
        "from replicator import Node, Host\n"
        "assert not [name for name in sys.modules if name.startswith('prometheus')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
