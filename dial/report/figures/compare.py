"""The figure of a comparison of runs: quality over cost, with the hull of all."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dial.costs.published import Published
from dial.report.figures import style
from dial.report.runs import Run
from dial.report.tables import amount

MARKERS = "osD^vP*X"
LOG_FROM = 20.0  # costs that span more than this factor are shown on a log scale


def compare_figure(runs: Sequence[Run], points: Sequence[Published], hull: tuple[np.ndarray, np.ndarray]) -> Figure:
    """Quality over FLOPs per row: a line for each run, a marker for each published point, and the hull of all.

    Args:
        runs: of one metric.
        points: of papers.
        hull: FLOPs and quality of all points on it.
    """
    figure, (axis,) = style.new_figure(1, size=(7.6, 5.4))
    width: dict[str, Any] = {"linewidth": 5, "solid_capstyle": "round", "zorder": 1}
    axis.plot(hull[0], 100 * hull[1], color="#BBBBBB", label="_hull", **width)
    diamond: dict[str, Any] = {"markerfacecolor": "white", "markersize": 6, "zorder": 4}
    for colour, run in zip(style.colours(len(runs)), runs, strict=True):
        marker = "o" if len(run.flops) == 1 else None
        axis.plot(run.flops, 100 * run.quality, color=colour, linewidth=1.7, marker=marker, label=run.name)
        axis.plot(run.alone, 100 * run.best, "D", color=colour, **diamond)
    for marker, point in zip(itertools.cycle(MARKERS), points, strict=False):
        place = point.flops, 100 * point.quality
        axis.plot(*place, marker, color=style.INK, markersize=6, zorder=4, label="_point")
        style.name_point(axis, point.name, place, (6, -9))
    flops = np.concatenate([*(run.flops for run in runs), [point.flops for point in points]])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    if flops.max() > LOG_FROM * flops.min() > 0:
        style.log_ticks(axis.xaxis, axis.set_xscale, amount)
    axis.margins(x=0.08)
    axis.set_xlabel("mean FLOPs per row (2 × MAC)")
    axis.set_ylabel(f"{runs[0].metric}, %")
    what = "Grey: Pareto hull of all. Diamonds: each Super, or last exit, alone."
    axis.set_title(
        f"{style.title_of(runs[0].results.task, runs[0].split)}. {what}", fontsize=9, loc="left", color=style.FAINT
    )
    style.legend(axis, 7.6)
    return figure
