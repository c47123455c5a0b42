"""Draws charts into PNG and SVG files, 900 pixels wide. matplotlib is imported only when something is drawn.

Colours are those of Okabe and Ito, which people with any kind of colour vision can tell apart, in an order in which
neighbours differ in brightness, too; lines have markers of their own besides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.charts import Bars, Chart, Lines

__all__ = ["can_draw", "draw"]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = ("o", "s", "^", "D", "v", "P")

#: 9 inches at 100 dots an inch are 900 pixels.
WIDTH_IN, DPI = 9.0, 100

STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#d8d8d8",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    # Texts stay texts, and the same figures give the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "replicator",
}


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def draw(chart: Chart, directory: Path) -> list[Path]:
    """Write `<name>.png` and `<name>.svg` into the directory."""
    import matplotlib

    # Without a window. It has to be said before pyplot is imported.
    matplotlib.use("agg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(WIDTH_IN, _height_in(chart)), layout="constrained")
        try:
            axes.set_title(chart.title, loc="left", fontsize=12, fontweight="bold")
            if isinstance(chart, Bars):
                _bars(axes, chart)
            else:
                _lines(axes, chart)
            paths = [directory / f"{chart.name}.{kind}" for kind in ("png", "svg")]
            for path in paths:
                # A date would make each run's file another one.
                metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
                figure.savefig(path, dpi=DPI, metadata=metadata)
        finally:
            pyplot.close(figure)
    return paths


def _height_in(chart: Chart) -> float:
    if isinstance(chart, Lines):
        return 4.6
    return 1.6 + len(_labels(chart)) * (0.14 + 0.24 * len(chart.series))


def _labels(chart: Bars) -> list[str]:
    return list(dict.fromkeys(label for values in chart.series.values() for label in values))


def _bars(axes: Any, chart: Bars) -> None:
    labels = _labels(chart)
    thick = 0.82 / len(chart.series)
    for number, (name, values) in enumerate(chart.series.items()):
        places = [labels.index(label) + (number - (len(chart.series) - 1) / 2) * thick for label in values]
        bars = axes.barh(places, list(values.values()), thick * 0.94, label=name, color=COLOURS[number])
        axes.bar_label(bars, [shown(value) for value in values.values()], padding=3, fontsize=9)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(chart.value_label)
    axes.grid(axis="x")
    all_values = [value for each in chart.series.values() for value in each.values()]
    # Room for the texts at the ends.
    if chart.log:
        axes.set_xscale("log")
        axes.set_xlim(10 ** math.floor(math.log10(min(all_values) * 0.99)), max(all_values) * 4)
    else:
        axes.set_xlim(0, max(all_values) * 1.12)
    _ticks(axes.xaxis, log=chart.log, between=())
    _legend(axes, chart.series)


def _lines(axes: Any, chart: Lines) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    values = [value for points in chart.series.values() for _, value in points]
    for number, (name, points) in enumerate(chart.series.items()):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, label=name, color=COLOURS[number], marker=MARKERS[number], linewidth=1.8, markersize=7)
    if chart.log_y:
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 2, max(values) * 2)
    else:
        axes.set_ylim(0, max(values) * 1.18)
    for points in chart.series.values():
        for place, value in points:
            above = -16 if _is_close_below(axes, chart, place, value) else 8
            axes.annotate(shown(value), (place, value), (0, above), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted({x for points in chart.series.values() for x, _ in points})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,.0f}"))
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.grid(axis="y")
    _ticks(axes.yaxis, log=chart.log_y, between=(2, 5))
    _legend(axes, chart.series)


def _is_close_below(axes: Any, chart: Lines, place: float, value: float) -> bool:
    """Whether a point of another line is so close above that a text between them would touch it."""
    heights = axes.transData.transform([(1, value), *((1, y) for points in chart.series.values()
                                                      for x, y in points if x == place)])[:, 1]  # fmt: skip
    # Of the axes before they are laid out, which is near enough: a text with its distance is 25 points high.
    return any(0 < other - heights[0] < 35 for other in heights[1:])


def _ticks(axis: Any, *, log: bool, between: Sequence[int]) -> None:
    """Figures as they are spoken. A logarithmic axis has powers of ten, and `between` them these."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if log:
        axis.set_major_locator(LogLocator(subs=(1, *between)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))


def _legend(axes: Any, series: Mapping[str, Any]) -> None:
    if len(series) > 1:
        axes.figure.legend(loc="outside lower center", ncols=min(len(series), 4))


def shown(value: float) -> str:
    """A figure with as many digits as matter."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
