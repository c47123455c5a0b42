"""What a plot shows, as a value: drawn by `bench.plots`, written down and read again by `bench.results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Bars", "Chart", "Lines"]


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A group of horizontal bars for each label, one bar for each series."""

    #: Of the file.
    name: str
    title: str
    #: Of the axis of values, with its unit.
    value_label: str
    #: By name of the series: by label, the value. A label that a series has not, has no bar there.
    series: Mapping[str, Mapping[str, float]]
    #: Whether the axis of values is logarithmic.
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A line for each series, over a logarithmic x axis whose ticks are the measured places."""

    name: str
    title: str
    x_label: str
    y_label: str
    #: By name of the series: its points.
    series: Mapping[str, Sequence[tuple[float, float]]]
    #: Whether y is logarithmic. If not, it begins at 0.
    log_y: bool = False


Chart = Bars | Lines
