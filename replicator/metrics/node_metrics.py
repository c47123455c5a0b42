"""The metrics of one node at one moment: values by name, as `catalogue.py` has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from .histogram import Histogram

__all__ = ["NodeMetrics", "Value"]

#: A number; or one for each label, where the metric has a further one.
Value: TypeAlias = float | Histogram | Mapping[str, float] | Mapping[str, Histogram]


class NodeMetrics(NamedTuple):
    """Of the node `node` of `group`. What is not known is not in `values`: a lag that nobody knows is no lag of 0."""

    group: str
    node: str
    values: Mapping[str, Value]
