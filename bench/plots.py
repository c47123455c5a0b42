"""Draws charts into PNG and SVG files, 900 pixels wide. matplotlib is imported only when something is drawn.

Colours are those of Okabe and Ito, which people with any kind of colour vision can tell apart, in an order in which
neighbours differ in brightness, too; lines have markers of their own besides.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(chart.value_label)
    axes.grid(axis="x")
    _scale(axes, "x", [value for values in chart.series.values() for value in values.values()], log=chart.log)
    if len(chart.series) > 1:
        _legend(axes, len(chart.series))


def _lines(axes: Any, chart: Lines) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    for number, (name, points) in enumerate(chart.series.items()):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, label=name, color=COLOURS[number], marker=MARKERS[number], linewidth=1.8, markersize=7)
        for place, value in points:
            axes.annotate(shown(value), (place, value), (0, 8), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xscale("log")
    places = sorted({place for points in chart.series.values() for place, _ in points})
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,.0f}"))
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.grid(axis="y")
    _scale(axes, "y", [value for points in chart.series.values() for _, value in points], log=chart.log_y)
    if len(chart.series) > 1:
        _legend(axes, len(chart.series))


def _scale(axes: Any, axis: str, values: Iterable[float], *, log: bool) -> None:
    """Room for the texts at the ends; a linear axis begins at 0."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    values = list(values)
    limit = axes.set_xlim if axis == "x" else axes.set_ylim
    if log:
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
        limit(min(values) / 2, max(values) * (4 if axis == "x" else 2))
        (axes.xaxis if axis == "x" else axes.yaxis).set_minor_locator(NullLocator())
    else:
        limit(0, max(values) * 1.18)
    (axes.xaxis if axis == "x" else axes.yaxis).set_major_formatter(FuncFormatter(lambda value, _: shown(value)))


def _legend(axes: Any, columns: int) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=min(columns, 4))


def shown(value: float) -> str:
    """A figure with as many digits as matter."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
