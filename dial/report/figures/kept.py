"""Which tokens of a text are dropped where."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dial.report.figures import style
from dial.tiers.kept_tokens import KeptTokens

INCHES = 0.42  # of a cell


def kept_figure(found: KeptTokens) -> Figure:
    """Layers by tokens: dark where a token is kept, light where it is dropped, empty where it is gone."""
    layers, tokens = found.kept.shape
    figure, (axis,) = style.new_figure(1, size=(1.2 + INCHES * tokens, 1.4 + INCHES * layers))
    before = np.vstack([np.ones(tokens, dtype=bool), found.kept[:-1]])
    shade = np.where(found.kept, 1.0, np.where(before, 0.35, np.nan))
    axis.imshow(shade, cmap="Blues", vmin=0, vmax=1.3, aspect="equal")
    axis.set_xticks(range(tokens), found.tokens, rotation=60, ha="right", fontsize=style.SMALL)
    axis.set_yticks(range(layers), [str(layer + 1) for layer in range(layers)])
    axis.set_ylabel("layer")
    return figure
