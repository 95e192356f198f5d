"""How all figures look: colours, axes, legends, lines at shares of the Super's quality, logarithmic ticks."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dial.files import atomic_write

# Okabe and Ito's colours, told apart with any colour vision; random and oracle get greys.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
RANDOM, ORACLE, INK, FAINT = "#8A8A8A", "#222222", "#222222", "#555555"
LEVELS = ((0.99, (0, (6, 3))), (0.98, (0, (1, 2))))
TICKS, SMALL = 9, 8  # points
LETTERS, HANDLE = 16, 6  # letters of the small size in an inch, and what a legend's handle takes


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


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})


def mark_partial(figure: Figure) -> None:
    """Say across the figure that it is of a trial run."""
    figure.text(0.5, 0.5, "partial", fontsize=60, color="#00000022", ha="center", va="center", rotation=20)


def colours(count: int) -> list[str]:
    """A colour for each of so many lines, no two alike.

    Example:
        >>> colours(2), len(set(colours(9)))
        (['#0072B2', '#D55E00'], 9)
    """
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [mpl.colors.to_hex(colour) for colour in mpl.colormaps["turbo"](np.linspace(0.04, 0.96, count))]


def legend(axis: Axes, width: float) -> None:
    """A legend of everything that has a label, below the axes, where it covers nothing.

    Args:
        axis: with everything drawn.
        width: of the panel in inches; there are as many columns as go into it.
    """
    _, names = axis.get_legend_handles_labels()
    columns = max(int(width * LETTERS) // (max(map(len, names)) + HANDLE), 1)
    columns = math.ceil(len(names) / math.ceil(len(names) / columns))  # rows of one length
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
    axis.legend(**below, ncols=columns, fontsize=SMALL, frameon=False)


def name_point(axis: Axes, name: str, point: tuple[float, float], offset: tuple[float, float], **more: Any) -> None:
    """Write a name beside a point, ``offset`` in points away from it, legible on lines."""
    halo = [withStroke(linewidth=2.5, foreground="white")]
    style: dict[str, Any] = {"color": INK, "fontsize": SMALL, "path_effects": halo, **more}
    axis.annotate(name, point, xytext=offset, textcoords="offset points", **style)


def draw_levels(axis: Axes, best: float, whose: str) -> None:
    """Horizontal lines at 99 and 98 % of the quality ``best``, a fraction."""
    for share, dashes in LEVELS:
        name = f"{100 * share:g} % of {whose}"
        axis.axhline(100 * share * best, color=INK, linewidth=0.8, linestyle=dashes, alpha=0.7, label=name)


def log_ticks(axis: Axis, scale: Callable[[str], None], text: Callable[[float], str] = "{:g}".format) -> None:
    """A logarithmic axis with labels at 1, 2 and 5 of each decade."""
    scale("log")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_formatter(NullFormatter())


def title_of(task: str | None, split: str, rows: int | None = None) -> str:
    """The data set and split, and their rows, for a panel's title.

    Example:
        >>> title_of("mrpc", "test", 408), title_of(None, "test")
        ('mrpc, test (408 rows)', 'test')
    """
    return ", ".join(filter(None, [task, split])) + ("" if rows is None else f" ({rows:,} rows)")


def whole(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """The lowest and highest number of some arrays."""
    every = np.concatenate(values)
    return float(np.nanmin(every)), float(np.nanmax(every))
