"""The figure of a comparison of runs."""

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from dial.report.figures.line_labels import label_lines
from dial.report.figures.plots import COLOURS, INK, new_figure
from dial.report.text import amount

if TYPE_CHECKING:
    from dial.report.compare import Comparison

MARKERS = "osD^vP*X"
LOG_FROM = 20.0  # costs that span more than this factor are shown on a log scale


def compare_figure(comparison: "Comparison") -> Figure:
    """Quality over FLOPs per row: a line for each run, a marker for each published point, and the hull of all."""
    figure, (axis,) = new_figure(1, size=(7.6, 5.0))
    hull = comparison.hull
    axis.plot(
        comparison.flops[hull],
        100 * comparison.quality[hull],
        color="#BBBBBB",
        linewidth=5,
        solid_capstyle="round",
        label="_hull",
        zorder=1,
    )
    for index, run in enumerate(comparison.runs):
        colour = COLOURS[index % len(COLOURS)]
        style = "-" if index < len(COLOURS) else "--"
        marker = "o" if len(run.flops) == 1 else None
        settings: dict[str, Any] = {"color": colour, "linewidth": 1.7, "linestyle": style, "marker": marker}
        axis.plot(run.flops, 100 * run.quality, label=run.name, **settings)
        axis.plot(run.alone, 100 * run.best, "D", color=colour, markerfacecolor="white", markersize=6, zorder=4)
    for index, point in enumerate(comparison.points):
        axis.plot(
            point.flops,
            100 * point.quality,
            MARKERS[index % len(MARKERS)],
            color=INK,
            markersize=6,
            zorder=4,
            label="_point",
        )
        axis.annotate(
            point.name,
            (point.flops, 100 * point.quality),
            xytext=(6, -9),
            textcoords="offset points",
            fontsize=8.5,
            color=INK,
        )
    if comparison.flops.max() > LOG_FROM * comparison.flops.min() > 0:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
    low, high = 100 * comparison.quality.min(), 100 * comparison.quality.max()
    axis.set_ylim(low - 0.06 * (high - low + 1), high + 0.1 * (high - low + 1))
    axis.margins(x=0.08)
    axis.set_xlabel("mean FLOPs per row (2 × MAC)")
    axis.set_ylabel(f"{comparison.metric}, %")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    axis.set_title(
        "Grey: Pareto hull of all. Diamonds: each Super, or last exit, alone.", fontsize=9, loc="left", color="#555555"
    )
    axis.set_xlim(axis.get_xlim())
    label_lines(axis, [run.name for run in comparison.runs], avoid=axis.texts)
    return figure
