"""What a node knows and counts, for Prometheus: `/metrics`, a collector for registries of an application, rules, a
dashboard.

    from prometheus_client import REGISTRY
    from replicator.metrics import NodeCollector

    REGISTRY.register(NodeCollector(node))      # or a Host: all of its groups

- A node counts by itself (`counters.py`): whole numbers that it adds to under locks which it has anyway. It takes times
  only once somebody has scraped it, so who wants no metrics pays for none.
- `catalogue.py` names every metric. `Node.metrics()` gives their values at one moment (`NodeMetrics`); it asks neither
  Redis nor the disk, so a scrape is answered while they hang.
- `exposition.py` alone needs prometheus-client (`pip install 'replicator[metrics]'`), and imports it when it is used.
- `rules.yml` has alerts, `dashboard.json` a dashboard for Grafana: `replicator metrics rules`, `... dashboard`.
"""

from __future__ import annotations

from .exposition import NodeCollector, exposed
from .node_metrics import NodeMetrics

__all__ = ["NodeCollector", "NodeMetrics", "exposed"]
