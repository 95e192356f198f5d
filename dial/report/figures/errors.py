"""Heat map of the rows that the last stage corrects and breaks, by quantile of the score (TangoBERT, Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from dial.report.errors import StageErrors
from dial.report.figures.style import INK, new_figure, title_of

ROWS = (("corrected", "F→T", "#0B5C94"), ("broken", "T→F", "#B84A00"))
"""What is counted, its name in the paper, and the colour of its largest share."""
CELL = (0.62, 0.36)  # inches
GAP = 0.5  # between what is corrected and what is broken, in cells


def errors_figure(errors: Sequence[StageErrors], task: str | None = None) -> Figure:
    """One panel for each split; above what the last stage corrects, below what it breaks, one line for each stage.

    Cells are shares of all rows of the split, so that a line adds up to the number before it.

    Args:
        errors: of one score; at least one.
        task: the data set.
    """
    splits = list(dict.fromkeys(each.split for each in errors))
    deepest = max(sum(each.split == split for each in errors) for split in splits)
    quantiles = len(errors[0].rows)
    width, height = CELL[0] * quantiles + 2.4, CELL[1] * (2 * deepest + GAP) + 1.3
    figure, axes = new_figure(len(splits), columns=1, size=(width, height))
    top = max(float(each.share(name).max()) for each in errors for name, _, _ in ROWS) or 1.0
    for axis, split in zip(axes, splits, strict=True):
        _panel(axis, [each for each in errors if each.split == split], title_of(task, split), top)
    return figure


def _panel(axis: Axes, errors: Sequence[StageErrors], data: str, top: float) -> None:
    """Heat map of the corrected and of the broken rows, a line a stage, a cell a quantile."""
    first, quantiles = errors[0], len(errors[0].rows)
    places, names = [], []
    for block, (name, letters, colour) in enumerate(ROWS):
        start = block * (len(errors) + GAP)
        shares = np.array([each.share(name) for each in errors])
        shades = LinearSegmentedColormap.from_list(name, ["#FFFFFF", colour])
        extent = (0.0, float(quantiles), start + len(errors), start)
        axis.imshow(shares, cmap=shades, vmin=0, vmax=top, extent=extent, aspect="auto", interpolation="nearest")
        for line, each in enumerate(errors):
            _cells(axis, shares[line], start + line + 0.5, top)
            places.append(start + line + 0.5)
            stage = f"{each.stage} " if len(errors) > 1 else ""
            names.append(f"{stage}{letters} ({100 * shares[line].sum():.1f} %)")
    bottom = 2 * len(errors) + GAP
    axis.set(xlim=(0, quantiles), ylim=(bottom, 0))
    axis.set_yticks(places, names, fontsize=9)
    axis.set_xticks(np.arange(quantiles) + 0.5, [str(i + 1) for i in range(quantiles)], fontsize=8.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    what = first.stage if len(errors) == 1 else "the stage"
    axis.set_xlabel(f"quantile of `{first.score}` of {what}: 1 = least sure", fontsize=9)
    rows = int(first.rows.sum())
    title = f"{data}: rows that {first.last} corrects (F→T) and breaks (T→F), % of {rows:,}"
    axis.set_title(title, fontsize=10, loc="left")


def _cells(axis: Axes, shares: np.ndarray, height: float, top: float) -> None:
    """A thin frame around each cell, and its percentage; nothing where there are no rows."""
    for column, share in enumerate(shares):
        axis.plot([column, column], [height - 0.5, height + 0.5], color="#DDDDDD", linewidth=0.6)
        if share:
            colour = "white" if share > 0.65 * top else INK
            text = f"{100 * share:.1f}" if share >= 0.0005 else "<0.1"
            axis.text(column + 0.5, height, text, ha="center", va="center", fontsize=8, color=colour)
    corners = (
        [0, len(shares), len(shares), 0, 0],
        [height - 0.5, height - 0.5, height + 0.5, height + 0.5, height - 0.5],
    )
    axis.plot(*corners, color="#DDDDDD", linewidth=0.8, clip_on=False)
