"""Names written beside lines where there is room, so that a plot needs no legend."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text

SIZE = 8.5  # points
WIDTH, HEIGHT, PAD = 0.62, 1.25, 3.0  # of a letter and a line in units of the size; points between a line and its name
GRID = 240


def label_lines(axis: Axes, labels: Sequence[str], avoid: Sequence[Text] = ()) -> None:
    """Write the name of each line below it, or above it, at a place where no other line or name is.

    Names without such a place are listed in the lower right corner, each with a stroke of its line.

    Args:
        axis: with its limits set and the lines drawn, each with its label.
        labels: in order of importance.
        avoid: texts that are there already, placed by data coordinates plus an offset in points.
    """
    lines = {str(line.get_label()): line for line in axis.lines}
    left, right = axis.get_xlim()
    bottom, top = axis.get_ylim()
    box = axis.get_position()
    figure = axis.get_figure(root=True)
    assert figure is not None
    width_inches, height_inches = figure.get_size_inches()
    # Axes take less than their cell once ticks and titles are laid out; a tenth less room is on the safe side.
    points = 72 * 0.9 * np.array([box.width * width_inches, box.height * height_inches])
    unit = (right - left) / points[0], (top - bottom) / points[1]
    xs = np.linspace(left, right, GRID)
    heights = {label: _height(lines[label], xs) for label in labels}
    taken = [_extent(text, unit) for text in avoid if isinstance(text, Annotation)]
    without = []
    for label in labels:
        extent = WIDTH * SIZE * len(label) * unit[0], HEIGHT * SIZE * unit[1]
        place = _place(label, heights, xs, extent, PAD * unit[1], (bottom, top), taken)
        if place is None:
            without.append(label)
            continue
        taken.append((place[0], place[0] + extent[0], place[1], place[1] + extent[1]))
        text = axis.text(*place, label, fontsize=SIZE, color=lines[label].get_color(), va="bottom", ha="left", zorder=6)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    if without:
        handles = [lines[label] for label in without]
        axis.legend(handles, without, loc="lower right", fontsize=SIZE, frameon=False, labelcolor="linecolor")


def _height(line: Line2D, xs: np.ndarray) -> np.ndarray:
    """The line at the places ``xs``, not a number where it does not reach; ``(GRID,)``."""
    x, y = np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)
    order = np.argsort(x, kind="stable")
    return np.interp(xs, x[order], y[order], left=np.nan, right=np.nan)


def _extent(text: Annotation, unit: tuple[float, float]) -> tuple[float, float, float, float]:
    """About the rectangle of an annotation in data units: left, right, lower, upper."""
    (x, y), (right, up) = text.xy, text.get_position()
    size = float(text.get_fontsize())
    low = (
        x
        + right * unit[0]
        - (0.5 * WIDTH * size * len(text.get_text()) * unit[0] if text.get_horizontalalignment() == "center" else 0)
    )
    width = WIDTH * size * len(text.get_text()) * unit[0]
    return low, low + width, y + up * unit[1], y + (up + HEIGHT * size) * unit[1]


def _place(
    label: str,
    heights: dict[str, np.ndarray],
    xs: np.ndarray,
    extent: tuple[float, float],
    pad: float,
    limits: tuple[float, float],
    taken: list[tuple[float, float, float, float]],
) -> tuple[float, float] | None:
    """Lower left corner of the name's place with the most room to spare, or None."""
    own = heights[label]
    others = [values for name, values in heights.items() if name != label]
    best, most = None, 0.0
    for start in range(GRID):
        inside = (xs >= xs[start]) & (xs <= xs[start] + extent[0])
        if xs[start] + extent[0] > xs[-1] or not np.isfinite(own[inside]).all():
            continue
        for corner in (own[inside].min() - pad - extent[1], own[inside].max() + pad):
            room = _room(corner, extent, xs[start], [values[inside] for values in others], limits, taken)
            # Far from the line a name belongs to nobody: its nearest point must be close on average too.
            distance = float(np.abs(own[inside] - (corner + extent[1] / 2)).mean())
            centred = 0.5 - abs((xs[start] + extent[0] / 2 - xs[0]) / (xs[-1] - xs[0]) - 0.5)
            if distance < 2.2 * extent[1] and room > 0 and room + centred > most:
                best, most = (float(xs[start]), float(corner)), room + centred
    return best


def _room(
    corner: float,
    extent: tuple[float, float],
    x: float,
    others: list[np.ndarray],
    limits: tuple[float, float],
    taken: list[tuple[float, float, float, float]],
) -> float:
    """Free space around a name in units of its height, at most 2; zero or less where something is in the way."""
    low, high = corner, corner + extent[1]
    if low < limits[0] or high > limits[1]:
        return -1.0
    if any(x < right and x + extent[0] > left and low < upper and high > lower for left, right, lower, upper in taken):
        return -1.0
    gaps = [2.0 * extent[1]]
    for values in others:
        known = values[np.isfinite(values)]
        if not len(known):
            continue
        if ((known > low) & (known < high)).any() or (known.min() < low and known.max() > high):
            return -1.0
        gaps.append(float(min(np.abs(known - low).min(), np.abs(known - high).min())))
    return min(gaps) / extent[1]
