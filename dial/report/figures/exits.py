"""Quality of each exit of multi-exit models (COST-EFF, Fig. 5): of one sweep, and of several runs."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dial.report.figures import style
from dial.report.results import SplitResult, StageEntry, SweepResults
from dial.report.runs import Run

ROOM = 0.3  # of a layer, beside the first and the last


def layer_of(stage: StageEntry) -> int:
    """Layer of an exit, counted from 1: the number that its name ends with, else its place among the exits.

    Example:
        >>> layer_of(StageEntry("model.layer6", "model", 2)), layer_of(StageEntry("swift", "swift", 0))
        (6, 1)
    """
    number = re.search(r"layer(\d+)$", stage.name)
    return int(number[1]) if number else stage.index + 1


def exits_of(results: SweepResults, split: str, tier: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Layers ``(E,)`` of a tier's exits, their quality and its 95 % intervals ``(E, 2)`` in %, and their stages."""
    chosen = [s for s, stage in enumerate(results.stages) if stage.tier == tier]
    stages = [results.splits[split].stages[s] for s in chosen]
    quality = np.array([stage.quality[results.metric] for stage in stages], dtype=float)
    ends = [stage.quality_interval or [q, q] for stage, q in zip(stages, quality, strict=True)]
    return np.array([layer_of(results.stages[s]) for s in chosen]), 100 * quality, 100 * np.array(ends), chosen


def exits_figure(results: SweepResults) -> Figure | None:
    """Quality of every exit when it answers all rows, or all simple ones; None without multi-exit models."""
    if not results.multi_exit_tiers:
        return None
    figure, axes = style.new_figure(len(results.splits), columns=2)
    for axis, (split, result) in zip(axes, results.splits.items(), strict=True):
        _exits_panel(axis, results, split, result)
        title = f"{style.title_of(results.task, split, result.rows)}: each exit alone"
        axis.set_title(title, fontsize=10, loc="left")
    return figure


def _exits_panel(axis: Axes, results: SweepResults, split: str, result: SplitResult) -> None:
    """Quality at every exit with its interval, of all rows and of the shorter half."""
    tiers, metric = results.multi_exit_tiers, results.metric
    alone = [s for s, stage in enumerate(results.stages) if stage.tier not in tiers]
    for colour, tier in zip(style.colours(len(tiers)), tiers, strict=True):
        layers, quality, ends, chosen = exits_of(results, split, tier)
        name = "all rows" if len(tiers) == 1 and not alone else tier
        axis.fill_between(layers, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)
        axis.plot(layers, quality, "o-", color=colour, linewidth=1.8, markersize=4, label=name)
        if result.simple and result.simple.stages:
            shorter = [100 * (result.simple.stages[s].quality or 0) for s in chosen]
            name = "shorter than the median" if name == "all rows" else f"{tier}, shorter than the median"
            axis.plot(layers, shorter, "o--", color=colour, linewidth=1.2, markersize=3, alpha=0.7, label=name)
    flat = [(result.stages[s].name, 100 * (result.stages[s].quality[metric] or 0), style.INK) for s in alone]
    _finish(axis, metric, flat)


def compare_exits_figure(runs: Sequence[Run]) -> Figure | None:
    """Quality of every exit of several runs; a horizontal line for a run without exits; None if no run has any."""
    if not any(run.results.multi_exit_tiers for run in runs):
        return None
    figure, (axis,) = style.new_figure(1, size=(7.2, 4.6))
    flat: list[tuple[str, float, Any]] = []
    for colour, run in zip(style.colours(len(runs)), runs, strict=True):
        tiers = run.results.multi_exit_tiers
        for tier in tiers:
            layers, quality, _, _ = exits_of(run.results, run.split, tier)
            name = run.name if len(tiers) == 1 else f"{run.name} {tier}"
            axis.plot(layers, quality, "o-", color=colour, markersize=4, linewidth=1.7, label=name)
        if not tiers:
            flat.append((run.name, 100 * run.best, colour))
    data = style.title_of(runs[0].results.task, runs[0].split)
    what = f"{data}: each exit alone." + (" Dotted: the last stage of a run without exits." if flat else "")
    axis.set_title(what, fontsize=9, loc="left", color=style.FAINT)
    _finish(axis, runs[0].metric, flat)
    return figure


def _finish(axis: Axes, metric: str, flat: Sequence[tuple[str, float, Any]]) -> None:
    """Horizontal lines ``(name, quality, colour)``, limits, ticks at layers, and the legend."""
    layers = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in axis.lines])
    ends = [layers.min() - ROOM, layers.max() + ROOM]
    for name, quality, colour in flat:
        axis.plot(ends, [quality, quality], ":", color=colour, linewidth=1.3, label=name)
    axis.set_xlim(*ends)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("exit after layer")
    axis.set_ylabel(f"{metric}, %")
    style.legend(axis, 5.6)
