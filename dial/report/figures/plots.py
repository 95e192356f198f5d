"""Figures of a sweep: trade-off curves (TangoBERT, Fig. 2), score densities (E-LANG, Fig. 3), shares of the stages."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from dial.report.figures.errors import errors_figure
from dial.report.figures.line_labels import label_lines
from dial.report.text import amount, unit_of
from dial.tradeoff.curve import Curve, thin
from dial.tradeoff.density import Densities

if TYPE_CHECKING:
    from dial.report.report import Report

# Okabe and Ito's colours, told apart with any colour vision; random and oracle get greys.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
RANDOM, ORACLE, INK = "#8A8A8A", "#222222", "#222222"
LEVELS = ((0.99, (0, (6, 3))), (0.98, (0, (1, 2))))
DRAWN_POINTS = 1000
TICKS = 9  # points


def figures(report: "Report") -> dict[str, Figure]:
    """All figures by file name; none for a single stage."""
    from dial.report.figures.exits import exits_figure  # it draws as this module does

    if not report.curves:
        return {}
    made = {"curve.png": curve_figure(report), "shares.png": shares_figure(report)}
    if report.densities:
        made["scores.png"] = density_figure(report)
    if (exits := exits_figure(report)) is not None:
        made["exits.png"] = exits
    if report.errors:
        first = report.errors[0].score
        made["errors.png"] = errors_figure([each for each in report.errors if each.score == first])
    for figure in made.values():
        if report.partial:
            figure.text(0.5, 0.5, "partial", fontsize=60, color="#00000022", ha="center", va="center", rotation=20)
    return made


def new_figure(panels: int, columns: int = 3, size: tuple[float, float] = (5.6, 4.2)) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of axes, drawn by Agg whatever the environment says."""
    columns = min(panels, columns)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=TICKS)
    return figure, axes


def curve_figure(report: "Report") -> Figure:
    """Quality over mean cost for every score, with random routing, the oracle, the first and the last stage alone."""
    splits = list(report.summary["splits"])
    figure, axes = new_figure(len(splits), columns=2, size=(7.2, 4.8))
    for axis, split in zip(axes, splits, strict=True):
        _curve_panel(axis, report, split)
    return figure


def _curve_panel(axis: Axes, report: "Report", split: str) -> None:
    result, metric = report.summary["splits"][split], report.summary["metrics"][0]
    reference, last = result["reference_macs"], result["stages"][-1]
    lines = list(_lines(report, split))
    for label, curve, style in lines:
        small = thin(curve, DRAWN_POINTS)
        known = np.isfinite(small.quality[metric])
        axis.plot(100 * small.macs[known] / reference, 100 * small.quality[metric][known], label=label, **style)
    best = last["quality"][metric]
    for share, dashes in LEVELS:
        axis.axhline(100 * share * best, color=INK, linewidth=0.8, linestyle=dashes, alpha=0.7)
        axis.annotate(
            f"{100 * share:g} %",
            (1, 100 * share * best),
            xycoords=("axes fraction", "data"),
            annotation_clip=True,  # a level far below all lines would push the layout out of the picture
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    for stage, offset in ((result["stages"][0], (7, -11)), (last, (7, -3))):
        axis.plot(
            100 * stage["macs"] / reference, 100 * stage["quality"][metric], "o", color=INK, markersize=6, zorder=5
        )
        axis.annotate(
            stage["name"],
            (100 * stage["macs"] / reference, 100 * stage["quality"][metric]),
            xytext=offset,
            textcoords="offset points",
            fontsize=9,
            color=INK,
            weight="bold",
        )
    measured = not report.summary["table"].get("reference_without_exits")  # else nobody knows the reference's quality
    if measured:
        axis.plot(100, 100 * best, "D", color=INK, markerfacecolor="white", markersize=6, zorder=5)
        axis.annotate(
            f"{last['name']} alone",
            (100, 100 * best),
            xytext=(4, -34),
            textcoords="offset points",
            fontsize=8,
            ha="left",
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.6, "shrinkB": 4},
        )
    alone = "the reference alone" if measured else "the encoder unpruned, without exits"
    axis.set_xlabel(f"mean cost per row, % of {alone}")
    axis.set_ylabel(f"{metric}, %")
    axis.set_title(f"{split} ({result['rows']:,} rows)", fontsize=10, loc="left")
    _limit(axis, lines, reference, metric, 0.05 + 0.013 * len(last["name"]), measured)
    label_lines(axis, [label for label, _, _ in lines], avoid=axis.texts)
    _speedup_axis(axis)


def _lines(report: "Report", split: str) -> Any:
    """Label, curve and style of each line; scores that route identically share one."""
    entries = {f"{e['rule']}/{e['score']}": e for e in report.summary["splits"][split]["scores"]}
    seen: set[str] = set()
    colours = iter(COLOURS * 3)
    for curve in (c for c in report.curves if c.split == split):
        key = f"{curve.rule}/{curve.score}"
        if curve.score == "oracle":
            yield "oracle", curve, {"color": ORACLE, "linewidth": 1.2, "linestyle": "-."}
        elif curve.score == "random":
            yield "random", curve, {"color": RANDOM, "linewidth": 1.4, "linestyle": "--"}
        elif key not in seen:
            same = entries[key]["same_as"]
            seen.update(same)
            names = [curve.score, *(other.split("/")[1] for other in same)]
            yield " = ".join(names), curve, {"color": next(colours), "linewidth": 1.8}


def _limit(
    axis: Axes,
    lines: Sequence[tuple[str, Curve, dict[str, Any]]],
    reference: float,
    metric: str,
    room: float,
    whole: bool,
) -> None:
    """Show every line as a whole, with room for the last stage's name on the right; the reference's cost if wanted."""
    shown = np.concatenate([100 * curve.quality[metric] for label, curve, _ in lines])
    low, high = np.nanmin(shown), np.nanmax(shown)
    margin = 0.06 * (high - low) or 1.0
    axis.set_ylim(low - margin, high + 1.5 * margin)
    costs = 100 * np.concatenate([curve.macs for _, curve, _ in lines]) / reference
    axis.set_xlim(0, max(costs.max(), 100 if whole else 0) * (1 + room))


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
    above.tick_params(labelsize=8, length=3, colors="#555555")
    above.spines["top"].set_visible(False)
    above.set_xlabel("speed-up", fontsize=8, color="#555555")


def density_figure(report: "Report") -> Figure:
    """Densities of each score on calibration rows that the stage gets right and wrong, with their crossing."""
    names = [stage["name"] for stage in report.summary["stages"]]
    scores = list(report.densities)
    chosen = scores if len(names) == 2 else scores[:1]
    panels = [(score, names[s], found) for score in chosen for s, found in enumerate(report.densities[score])]
    figure, axes = new_figure(len(panels), size=(4.6, 3.2))
    for axis, (score, stage, found) in zip(axes, panels, strict=True):
        _density_panel(axis, f"{score} of {stage}", found)
    return figure


def _density_panel(axis: Axes, title: str, found: Densities) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    if not len(found.grid):
        axis.text(0.5, 0.5, found.status, transform=axis.transAxes, ha="center", fontsize=9)
        return
    top = max(found.right.max(), found.wrong.max())
    for values, colour, name in ((found.right, COLOURS[0], "right"), (found.wrong, COLOURS[1], "wrong")):
        axis.fill_between(found.grid, values, color=colour, alpha=0.25, linewidth=0)
        axis.plot(found.grid, values, color=colour, linewidth=1.6)
        mode = int(values.argmax())
        axis.annotate(
            name,
            (found.grid[mode], values[mode]),
            xytext=(0, 3),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            weight="bold",
            ha="center",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
    for crossing in found.crossings:
        axis.axvline(crossing, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    where = ", ".join(f"{crossing:.3g}" for crossing in found.crossings)
    said = {"none": "no crossing", "one": f"crossing at {where}", "several": f"crossings at {where}"}
    axis.set_title(said[found.status], fontsize=8, loc="right")
    axis.set_ylim(0, top * 1.16)
    axis.set_xlabel("score (higher = surer)", fontsize=9)


def shares_figure(report: "Report") -> Figure:
    """Share of rows that each stage answers, as the first score's dial is turned."""
    splits, score = list(report.summary["splits"]), report.summary["settings"]["scores"][0]
    figure, axes = new_figure(len(splits), columns=2)
    for axis, split in zip(axes, splits, strict=True):
        curve = next(c for c in report.curves if c.split == split and c.score == score and c.rule == "threshold")
        _shares_panel(axis, thin(curve, DRAWN_POINTS), unit_of(report.summary))
        axis.set_title(f"{split}: rows answered by each stage, {score}", fontsize=10, loc="left")
    return figure


def _shares_panel(axis: Axes, curve: Curve, unit: str) -> None:
    stages = curve.shares.shape[1]
    shades = [_mix("#D6E6F2", "#08437A", s / max(stages - 1, 1)) for s in range(stages)]
    upper = np.cumsum(100 * curve.shares, axis=1)
    lower = upper - 100 * curve.shares
    for s in range(stages):
        axis.fill_between(curve.macs, lower[:, s], upper[:, s], color=shades[s], edgecolor="white", linewidth=0.5)
        widest = int((curve.shares[:, s] * (1 + 1e-6 * np.arange(len(curve)))).argmax())
        if curve.shares[widest, s] > 0.06:
            x = np.clip(curve.macs[widest], *_inner(curve.macs))
            near = int(np.abs(curve.macs - x).argmin())
            middle = (lower[near, s] + upper[near, s]) / 2
            axis.text(
                x,
                middle,
                curve.stages[s],
                ha="center",
                va="center",
                fontsize=8.5,
                color="white" if s / stages >= 0.45 else INK,
            )
    axis.set(
        xlim=(curve.macs.min(), curve.macs.max()), ylim=(0, 100), ylabel="rows, %", xlabel=f"mean cost, {unit} per row"
    )
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))


def _inner(macs: np.ndarray) -> tuple[float, float]:
    low, high = float(macs.min()), float(macs.max())
    return low + 0.12 * (high - low), high - 0.12 * (high - low)


def _mix(first: str, second: str, share: float) -> tuple[float, float, float]:
    one, two = (np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for colour in (first, second))
    red, green, blue = one + share * (two - one)
    return float(red), float(green), float(blue)
