"""Figures of a sweep: trade-off curves (TangoBERT, Fig. 2), score densities (E-LANG, Fig. 3), shares of the stages."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from datamodules.labels import is_free_text
from dial.report.errors import StageErrors
from dial.report.figures import style
from dial.report.figures.errors import errors_figure
from dial.report.figures.exits import exits_figure
from dial.report.results import SplitResult, SweepResults
from dial.report.tables import amount
from dial.tradeoff.curve import Curve
from dial.tradeoff.density import Densities
from dial.tradeoff.thinning import thin

DRAWN_POINTS = 1000
PANEL = (7.2, 5.0)  # inches
Drawn = tuple[str, Curve, dict[str, Any]]


def figures(
    results: SweepResults,
    curves: Sequence[Curve],
    densities: Mapping[str, Sequence[Densities]],
    errors: Sequence[StageErrors],
) -> dict[str, Figure]:
    """All figures by file name; none for a single stage.

    Args:
        results: of the sweep.
        curves: of all reported splits.
        densities: by score, of each stage but the last.
        errors: of all reported splits and scores.
    """
    if not curves:
        return {}
    drawn = {"curve.png": curve_figure(results, curves), "shares.png": shares_figure(results, curves)}
    if densities:
        drawn["scores.png"] = density_figure(results, densities)
    if (exits := exits_figure(results)) is not None:
        drawn["exits.png"] = exits
    if errors:
        first = [each for each in errors if each.score == errors[0].score]
        drawn["errors.png"] = errors_figure(first, results.task)
    for figure in drawn.values() if results.partial else ():
        style.mark_partial(figure)
    return drawn


def curve_figure(results: SweepResults, curves: Sequence[Curve]) -> Figure:
    """Quality over mean cost for every score, with random routing, the oracle, the first and the last stage alone."""
    figure, axes = style.new_figure(len(results.splits), columns=2, size=PANEL)
    for axis, (split, result) in zip(axes, results.splits.items(), strict=True):
        _curve_panel(axis, results, result, list(_lines(result, [each for each in curves if each.split == split])))
        axis.set_title(style.title_of(results.task, split, result.rows), fontsize=10, loc="left")
    return figure


def _curve_panel(axis: Axes, results: SweepResults, result: SplitResult, lines: Sequence[Drawn]) -> None:
    """Trade-off curves with the stages alone, and the levels that targets mean."""
    metric, reference = results.metric, result.reference_macs
    first, last = result.stages[0], result.stages[-1]
    best = float(last.quality[metric] or 0)
    for label, curve, look in lines:
        small = thin(curve, DRAWN_POINTS)
        known = np.isfinite(small.quality[metric])
        axis.plot(100 * small.macs[known] / reference, 100 * small.quality[metric][known], label=label, **look)
    style.draw_levels(
        axis, best, "the last exit" if results.stages[-1].tier in results.multi_exit_tiers else "the Super"
    )
    for stage, offset in ((first, (7, -11)), (last, (7, -3))):
        place = 100 * stage.macs / reference, 100 * float(stage.quality[metric] or 0)
        axis.plot(*place, "o", color=style.INK, markersize=6, zorder=5)
        style.name_point(axis, stage.name, place, offset, fontsize=9, weight="bold")
    measured = not results.table.get("reference_without_exits")  # else nobody knows the reference's quality
    if measured:
        axis.plot(100, 100 * best, "D", color=style.INK, markerfacecolor="white", markersize=6, zorder=5)
        arrow = {"arrowstyle": "-", "color": style.INK, "linewidth": 0.6, "shrinkB": 4}
        style.name_point(axis, f"{last.name} alone", (100, 100 * best), (6, 28), arrowprops=arrow)
    low, high = style.whole([100 * curve.quality[metric] for _, curve, _ in lines])
    margin = 0.06 * (high - low) or 1.0
    axis.set_ylim(low - margin, high + 1.5 * margin)
    dearest = max(100 * curve.macs.max() / reference for _, curve, _ in lines)
    room = 0.05 + 0.013 * len(last.name)  # for the last stage's name
    axis.set_xlim(0, max(dearest, 100 if measured else 0) * (1 + room))
    alone = "the reference alone" if measured else "the encoder unpruned, without exits"
    axis.set_xlabel(f"mean cost per row, % of {alone}")
    axis.set_ylabel(f"{metric}, %")
    style.legend(axis, PANEL[0])
    _speedup_axis(axis)


def _lines(result: SplitResult, curves: Sequence[Curve]) -> Iterator[Drawn]:
    """Label, curve and style of each line; scores that route identically share one."""
    entries = {f"{entry.rule}/{entry.score}": entry for entry in result.scores}
    seen: set[str] = set()
    own = iter(style.colours(len(entries)))
    for curve in curves:
        key = f"{curve.rule}/{curve.score}"
        if curve.score == "oracle":
            yield "oracle", curve, {"color": style.ORACLE, "linewidth": 1.2, "linestyle": "-."}
        elif curve.score == "random":
            yield "random", curve, {"color": style.RANDOM, "linewidth": 1.4, "linestyle": "--"}
        elif key not in seen:
            same = entries[key].same_as
            seen.update(same)
            names = [curve.score, *(other.split("/")[1] for other in same)]
            yield " = ".join(names), curve, {"color": next(own), "linewidth": 1.8}


def _speedup_axis(axis: Axes) -> None:
    """The same cost as a speed-up, along the top."""
    above = axis.secondary_xaxis("top", functions=(lambda x: x, lambda x: x))
    low, high = axis.get_xlim()
    ticks = [s for s in (1, 1.25, 1.5, 2, 3, 4, 6, 10, 20, 50, 100) if low < 100 / s <= high]
    kept: list[float] = []
    for tick in ticks:
        if not kept or (100 / kept[-1] - 100 / tick) > 0.05 * (high - low):
            kept.append(tick)
    above.set_xticks([100 / s for s in kept], [f"{s:g}×" for s in kept])
    above.tick_params(labelsize=8, length=3, colors=style.FAINT)
    above.spines["top"].set_visible(False)
    above.set_xlabel("speed-up", fontsize=8, color=style.FAINT)


def density_figure(results: SweepResults, densities: Mapping[str, Sequence[Densities]]) -> Figure:
    """Densities of each score on calibration rows that the stage gets right and wrong, with their crossing."""
    names = results.stage_names
    scores = list(densities) if len(names) == 2 else list(densities)[:1]
    panels = [(score, name, found) for score in scores for name, found in zip(names, densities[score], strict=False)]
    figure, axes = style.new_figure(len(panels), size=(4.6, 3.2))
    for axis, (score, stage, found) in zip(axes, panels, strict=True):
        axis.set_title(f"{score} of {stage}", fontsize=10, loc="left")
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        if len(found.grid):
            _density_panel(axis, found, range_of(score, len(results.label_names)))
        else:
            axis.text(0.5, 0.5, found.status, transform=axis.transAxes, ha="center", fontsize=9)
    rows = "calibration rows" if results.calibration["method"] == "split" else "reported rows"
    what = "gets right and wrong"
    if is_free_text(results.label_names):
        what = "writes as well as the last one (right) and less well (wrong)"
    figure.suptitle(f"{style.title_of(results.task, rows)} that a stage {what}", fontsize=10, color=style.FAINT)
    return figure


def range_of(score: str, classes: int) -> tuple[float, float]:
    """The lowest and the highest value that a score of so many classes can take; fewer than two: any number of pieces.

    Example:
        >>> range_of("softmax", 4), range_of("energy", 4)
        ((0.25, 1.0), (-inf, inf))
    """
    if classes < 2:
        return {"softmax": (0.0, 1.0), "entropy": (-math.inf, 0.0)}.get(score, (-math.inf, math.inf))
    lowest = 1 / classes
    ranges = {
        "softmax": (lowest, 1.0),
        "margin": (0.0, 1.0),
        "entropy": (math.log(lowest), 0.0),
        "energy_released": (lowest - math.log(lowest), math.log(math.e + classes - 1)),
    }
    return ranges.get(score, (-math.inf, math.inf))


def _density_panel(axis: Axes, found: Densities, limits: tuple[float, float]) -> None:
    """Both densities, as far as the score reaches: a kernel spills over a wall, where there are no rows."""
    inside = (found.grid >= limits[0]) & (found.grid <= limits[1])
    grid = found.grid[inside]
    for values, colour, name in ((found.right, style.COLOURS[0], "right"), (found.wrong, style.COLOURS[1], "wrong")):
        shown = values[inside]
        axis.fill_between(grid, shown, color=colour, alpha=0.25, linewidth=0)
        axis.plot(grid, shown, color=colour, linewidth=1.6)
        mode = int(shown.argmax())
        axis.vlines(grid[mode], 0, shown[mode], color=colour, linewidth=1, linestyle=":")
        place = float(grid[mode]), float(shown[mode])
        style.name_point(axis, name, place, (0, 3), color=colour, fontsize=9, weight="bold", ha="center")
    for crossing in found.crossings:
        axis.axvline(crossing, color=style.INK, linewidth=1, linestyle=(0, (4, 3)))
    where = ", ".join(f"{crossing:.3g}" for crossing in found.crossings)
    said = {"none": "no crossing", "one": f"crossing at {where}", "several": f"crossings at {where}"}
    axis.set_title(f"{said[found.status]} between the modes", fontsize=8, loc="right")
    axis.set_ylim(0, max(found.right.max(), found.wrong.max()) * 1.16)
    axis.set_xlabel("score (higher = surer; dotted: the modes)", fontsize=9)


def shares_figure(results: SweepResults, curves: Sequence[Curve]) -> Figure:
    """Share of rows that each stage answers, as the first score's dial is turned."""
    score = results.settings.scores[0]
    figure, axes = style.new_figure(len(results.splits), columns=2)
    for axis, split in zip(axes, results.splits, strict=True):
        curve = next(c for c in curves if (c.split, c.score, c.rule) == (split, score, "threshold"))
        _shares_panel(axis, thin(curve, DRAWN_POINTS), results.unit)
        title = f"{style.title_of(results.task, split)}: rows answered by each stage, {score}"
        axis.set_title(title, fontsize=10, loc="left")
    return figure


def _shares_panel(axis: Axes, curve: Curve, unit: str) -> None:
    """Shares of rows that each stage answers, over the mean cost."""
    count = curve.shares.shape[1]
    shades = mpl.colormaps["Blues"](np.linspace(0.2, 0.9, count))
    axis.stackplot(
        curve.macs, 100 * curve.shares.T, colors=shades, labels=curve.stages, edgecolor="white", linewidth=0.5
    )
    low, high = float(curve.macs.min()), float(curve.macs.max())
    axis.set(xlim=(low, high), ylim=(0, 100), ylabel="rows, %", xlabel=f"mean cost, {unit} per row")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    style.legend(axis, 5.6)
