"""The table of all metrics: their names are Prometheus', and the page that shows it is this one."""

from __future__ import annotations

import re
from pathlib import Path

from replicator.metrics.catalogue import METRICS, as_markdown

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_names_follow_the_conventions() -> None:
    for metric in METRICS.values():
        assert re.fullmatch(r"replicator_[a-z_]+", metric.name)
        assert metric.kind in ("gauge", "counter", "histogram")
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert not re.search(r"_(ms|milliseconds|kb|mb|percent)(_|$)", metric.name), "base units"
        assert metric.help.endswith(".")
        assert metric.section


def test_none_is_there_twice() -> None:
    names = re.findall(r"^\| `(replicator_\w+)`", as_markdown(), re.M)
    assert names == list(METRICS)


def test_the_page_has_the_table_as_it_is() -> None:
    assert as_markdown().strip() in PAGE.read_text(), "put `as_markdown()` between the marks in docs/metrics.md"
