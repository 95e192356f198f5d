"""E-LANG's Fig. 2, 3 and 8 drawn from the stored tables of text-to-text cascades."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dial.report.figures import style
from dial.stages.table import StageTable
from dial.tradeoff.calibration import Chooser
from dial.tradeoff.curve import Curve
from dial.tradeoff.rules import Oracle, Threshold, curve
from dial.tradeoff.taken import quality_at
from dial.tradeoff.thinning import thin
from scripts.e_lang_printed import printed_tables
from scripts.text_collect import cells, reported_rows, tested

PANEL = (4.4, 3.7)  # inches
DRAWN_POINTS = 500
NAMES = {"layers2": "2 layers", "layers4": "4 layers", "three": "2, then 4 layers", "encoder2": "2 layers of MiniLM"}
SIZES = ("layers2", "layers4", "three", "encoder2", "tiny", "small")
DISTILLED = ("layers2", "layers2-distilled", "layers4", "layers4-distilled")
PUBLISHED = {
    "text_sst2": "sst2", "text_cola": "cola", "text_mrpc": "mrpc", "text_rte": "rte", "text_cb": "cb",
    "text_copa": "copa", "text_wic": "wic", "text_wsc": "wsc", "text_multirc": "multirc", "wmt16_en_ro": "wmt16_en_ro",
}  # fmt: skip
"""Our name of a task, and its name among the printed numbers."""
Tables = Mapping[str, Mapping[str, StageTable]]


@dataclass(frozen=True)
class Look:
    """How curves are drawn.

    Attributes:
        score: that decides.
        names: of the cascades in the legend.
        size: of a panel, in inches.
        lowest: quality at the foot of a panel where curves go below it, as a share of the Super's.
        alone: cascades whose first tiers are one model that drops more or fewer tokens; a line joins these alone.
    """

    score: str = "energy"
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)
    size: tuple[float, float] = PANEL
    lowest: float = -math.inf
    alone: Sequence[str] = ()


def draw(results: Path) -> list[Path]:
    """Write the figures of all tables that are stored beside them, and give their paths.

    Args:
        results: folder of the stored tables.
    """
    tables = {cell.task: {n: reported_rows(path) for n, path in tested(results, cell).items()} for cell in cells()}
    drawn = {
        "text_curves.png": curves_figure(tables, SIZES),
        "text_scores.png": densities_figure(tables),
        "text_distilled.png": curves_figure(_with_distilled(tables), DISTILLED),
    }
    paths = {results / name: figure for name, figure in drawn.items() if figure is not None}
    for path, figure in paths.items():
        style.save(figure, path)
    return list(paths)


def _with_distilled(tables: Tables) -> Tables:
    """Tasks of which a distilled Swift was tested."""
    return {task: runs for task, runs in tables.items() if any(name.endswith("distilled") for name in runs)}


def curves_figure(
    tables: Tables,
    wanted: Sequence[str],
    printed: Mapping[str, tuple[float, float]] | None = None,
    look: Look | None = None,
) -> Figure | None:
    """Quality over cost for several Swifts of each task (E-LANG, Fig. 2 and 8; TangoBERT, Fig. 2); None without any.

    Args:
        tables: test rows by task and cascade.
        wanted: cascades to draw, in this order.
        printed: cost and quality that E-LANG prints, by task, as shares of its own Super's; default those of
            its Table 1.
        look: score, names and sizes.
    """
    look = look or Look()
    if printed is None:
        printed = {task: point for task in tables if (point := printed_point(task)) is not None}
    chosen = {task: {name: runs[name] for name in wanted if name in runs} for task, runs in tables.items()}
    chosen = {task: runs for task, runs in chosen.items() if runs}
    if not chosen:
        return None
    names = [name for name in wanted if any(name in runs for runs in chosen.values())]
    colours = dict(zip(names, style.colours(len(names)), strict=True))  # alike in all panels
    figure, axes = style.new_figure(len(chosen), columns=3, size=look.size)
    for axis, (task, runs) in zip(axes, chosen.items(), strict=True):
        _curves_panel(axis, task, runs, printed.get(task), look, colours)
    return figure


def _curves_panel(
    axis: Axes,
    task: str,
    runs: Mapping[str, StageTable],
    printed: tuple[float, float] | None,
    look: Look,
    colours: Mapping[str, str],
) -> None:
    """Trade-off curves of one task beside random routing, the oracle and the printed point."""
    first = next(iter(runs.values()))
    metric = first.metrics[0]
    joined: list[tuple[float, float]] = []
    for name, table in runs.items():
        colour = colours[name]
        _line(axis, curve(table, look.score), color=colour, linewidth=1.8, label=_label(name, look.names))
        share = float(table.macs[:, 0].mean() / table.macs_reference.mean())
        place = 100 * share, 100 * quality_at(table, metric, _all(table, 0))
        axis.plot(*place, "o", color=colour, markersize=5, zorder=5)
        joined += [place] if name in look.alone else []
    if len(joined) > 1:
        axis.plot(
            *zip(*sorted(joined), strict=True), ":", color=style.INK, linewidth=1.4, label="tokens dropped, alone"
        )
    _line(axis, curve(first, "random"), color=style.RANDOM, linewidth=1.2, linestyle="--", label="random")
    _line(axis, Oracle().curve(first), color=style.ORACLE, linewidth=1.0, linestyle="-.", label="oracle")
    best = 100 * quality_at(first, metric, _all(first, len(first.stages) - 1))
    axis.plot(100, best, "D", color=style.INK, markerfacecolor="white", markersize=6, zorder=5, label="the Super alone")
    if printed is not None:
        place = 100 * printed[0], best * printed[1]
        axis.plot(*place, "x", color=style.INK, markersize=7, zorder=5, label="E-LANG, printed")
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=max(axis.get_ylim()[0], look.lowest * best))
    axis.set_xlabel("mean cost per row, % of the Super alone")
    axis.set_ylabel(f"{metric}, %")
    axis.set_title(style.title_of(task, "test", len(first)), fontsize=10, loc="left")
    style.legend(axis, look.size[0])


def printed_point(task: str) -> tuple[float, float] | None:
    """Cost and accuracy of E-LANG's Table 1 as shares of its own Super's; None for a task that it does not have.

    Its FLOPs are on an axis of their own, so that nothing but the shares can stand beside ours.
    """
    if task not in PUBLISHED:
        return None
    paper = printed_tables()
    position, table = paper["tasks"].index(PUBLISHED[task]), paper["table1"]
    quality = table["accuracy"][position] / table["super_accuracy"][position]
    return table["flops"][position] / paper["super_flops"], quality


def _all(table: StageTable, stage: int) -> np.ndarray:
    return np.full(len(table), stage)


def _label(name: str, names: Mapping[str, str] = NAMES) -> str:
    """What a cascade is called in a legend.

    >>> _label("layers2-distilled"), _label("tiny"), _label("exits-ta", {"exits-ta": "exits"})
    ('2 layers, distilled', 'tiny', 'exits')
    """
    first, _, rest = name.partition("-")
    return names.get(name) or (f"{names.get(first, first)}, {rest}" if rest else first)


def _line(axis: Axes, whole: Curve, **look: object) -> None:
    """One curve, on axes in percent."""
    few, reference = thin(whole, DRAWN_POINTS), float(whole.table.macs_reference.mean())
    quality = few.quality[whole.table.metrics[0]]
    known = np.isfinite(quality)
    axis.plot(100 * few.macs[known] / reference, 100 * quality[known], **look)  # type: ignore[arg-type]


def densities_figure(tables: Tables, name: str = "layers2") -> Figure | None:
    """Densities of the energy on rows that the Swift gets right and wrong (E-LANG, Fig. 3); None without any.

    Args:
        tables: test rows by task and cascade.
        name: of the cascade.
    """
    chosen = {task: runs[name] for task, runs in tables.items() if name in runs}
    found = {task: Chooser(table, Threshold("energy")).crossings[0] for task, table in chosen.items()}
    found = {task: each for task, each in found.items() if len(each.grid)}
    if not found:
        return None
    figure, axes = style.new_figure(len(found), columns=4, size=(3.4, 2.7))
    for axis, (task, each) in zip(axes, found.items(), strict=True):
        for values, colour, label in ((each.right, "#0072B2", "right"), (each.wrong, "#D55E00", "wrong")):
            axis.plot(each.grid, values, color=colour, linewidth=1.6, label=label)
            axis.fill_between(each.grid, values, color=colour, alpha=0.15)
        for place in each.crossings:
            axis.axvline(place, color="#009E73", linewidth=1.2, linestyle="--")
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("energy of the Swift's head")
        axis.set_title(task, fontsize=10, loc="left")
    axes[0].legend(fontsize=style.SMALL, frameon=False)
    return figure
