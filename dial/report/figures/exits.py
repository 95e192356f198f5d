"""Quality of each exit of multi-exit models (COST-EFF, Fig. 5): of one sweep, and of several runs."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dial.report.exits import several_exits
from dial.report.figures.line_labels import label_lines
from dial.report.figures.plots import COLOURS, INK, new_figure

if TYPE_CHECKING:
    from dial.report.compare import Comparison
    from dial.report.report import Report

ROOM = 0.3  # of a layer, beside the first and the last


def layer_of(stage: dict[str, Any]) -> int:
    """Layer of an exit, counted from 1: the number that its name ends with, else its place among the exits.

    Example:
        >>> layer_of({"name": "model.layer6", "index": 2}), layer_of({"name": "swift", "index": 0})
        (6, 1)
    """
    found = re.search(r"layer(\d+)$", stage["name"])
    return int(found[1]) if found else stage["index"] + 1


def exits_of(summary: dict[str, Any], split: str, tier: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Layers ``(E,)`` of a tier's exits, their quality and its 95 % intervals ``(E, 2)`` in %, and their stages."""
    metric, stages = summary["metrics"][0], summary["stages"]
    chosen = [s for s, stage in enumerate(stages) if stage["tier"] == tier]
    results = [summary["splits"][split]["stages"][s] for s in chosen]
    quality = np.array([100 * result["quality"][metric] for result in results])
    ends = [result.get("quality_interval") or [result["quality"][metric]] * 2 for result in results]
    return np.array([layer_of(stages[s]) for s in chosen]), quality, 100 * np.array(ends), chosen


def exits_figure(report: "Report") -> Figure | None:
    """Quality of every exit when it answers all rows, or all simple ones; None without multi-exit models."""
    if not several_exits(report.summary):
        return None
    splits = list(report.summary["splits"])
    figure, axes = new_figure(len(splits), columns=2)
    for axis, split in zip(axes, splits, strict=True):
        _exits_panel(axis, report.summary, split)
        rows = report.summary["splits"][split]["rows"]
        axis.set_title(f"{split} ({rows:,} rows): each exit alone", fontsize=10, loc="left")
    return figure


def _exits_panel(axis: Axes, summary: dict[str, Any], split: str) -> None:
    tiers, metric = several_exits(summary), summary["metrics"][0]
    result = summary["splits"][split]
    alone = [s for s, stage in enumerate(summary["stages"]) if stage["tier"] not in tiers]
    simple = result.get("simple", {}).get("stages")
    for colour, tier in zip(COLOURS * len(tiers), tiers, strict=False):
        layers, quality, ends, chosen = exits_of(summary, split, tier)
        name = "all rows" if len(tiers) == 1 and not alone else tier
        axis.fill_between(layers, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)
        axis.plot(layers, quality, "o-", color=colour, linewidth=1.8, markersize=4, label=name)
        if simple:
            shorter = [100 * simple[s]["quality"] for s in chosen]
            name = "shorter than the median" if name == "all rows" else f"{tier}, shorter than the median"
            axis.plot(layers, shorter, "o--", color=colour, linewidth=1.2, markersize=3, alpha=0.7, label=name)
    flat = [(result["stages"][s]["name"], 100 * result["stages"][s]["quality"][metric], INK) for s in alone]
    _finish(axis, metric, flat)


def compare_exits_figure(comparison: "Comparison") -> Figure | None:
    """Quality of every exit of several runs; a horizontal line for a run without exits; None if no run has any."""
    if not any(several_exits(run.summary) for run in comparison.runs):
        return None
    figure, (axis,) = new_figure(1, size=(7.2, 4.6))
    flat = []
    for index, run in enumerate(comparison.runs):
        colour, tiers = COLOURS[index % len(COLOURS)], several_exits(run.summary)
        style = "-" if index < len(COLOURS) else "--"
        for tier in tiers:
            layers, quality, _, _ = exits_of(run.summary, run.split, tier)
            name = run.name if len(tiers) == 1 else f"{run.name} {tier}"
            axis.plot(layers, quality, f"o{style}", color=colour, markersize=4, linewidth=1.7, label=name)
        if not tiers:
            flat.append((run.name, 100 * run.best, colour))
    said = "Each exit alone." + (" Dotted: the last stage of a run without exits." if flat else "")
    axis.set_title(said, fontsize=9, loc="left", color="#555555")
    _finish(axis, comparison.metric, flat)
    return figure


def _finish(axis: Axes, metric: str, flat: Sequence[tuple[str, float, str]]) -> None:
    """Horizontal lines ``(name, quality, colour)``, limits, ticks at layers, and the lines' names."""
    layers = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in axis.lines])
    ends = [layers.min() - ROOM, layers.max() + ROOM]
    for name, quality, colour in flat:
        axis.plot(ends, [quality, quality], ":", color=colour, linewidth=1.3, label=name)
    axis.set_xlim(*ends)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.12 * (high - low))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("exit after layer")
    axis.set_ylabel(f"{metric}, %")
    label_lines(axis, [str(line.get_label()) for line in axis.lines])
