"""Points from papers, each counted in the convention of its paper, converted to one."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONVENTIONS = ("mac", "flop", "flop_without_attention", "flop_without_attention_with_norm")
"""How papers count: multiply-adds; two for each; the latter without attention products; the same with fvcore's layer
norms (five operations an element, doubled like all others), which is what fvcore says of a model with fused attention.
"""
T5_AS_PRINTED = {"t5-11b": 87e11, "t5-large": 4.25e11, "t5-base": 1.24e11, "t5-small": 0.33e11}
"""FLOPs of T5 in E-LANG (section 4.1), of one row. No one convention gives them: whatever the lengths, with or without
the decoder, attention, head to the vocabulary, a FLOP one or two per multiply-add, T5-11B has at most 16 times the
products of T5-large (equal depth and width, 16 times the feed-forward and attention widths), and 20.5 are printed.
1.24 and 4.25 are what Fedus et al. (2022, Switch Transformers, Table 9) print per sequence of T5-Base (124B) and
T5-Large (425B), whose T5-XXL has 6.3T. So they may be overlaid on E-LANG's own axis only, and are not converted.
"""
BERT_BASE = {"length": 128.0, "hidden": 768.0}


@dataclass(frozen=True)
class Published:
    """A point of a paper: quality as a fraction, cost in FLOPs (2 × MAC) per row."""

    name: str
    quality: float
    flops: float


def flops_of(
    cost: float, convention: str, length: float = BERT_BASE["length"], hidden: float = BERT_BASE["hidden"]
) -> float:
    """Convert a published cost to FLOPs, one multiply-add counted as two.

    A standard transformer layer has 12·n·d² multiply-adds in its weights and 2·n²·d in its attention products, and
    fvcore sees 10·n·d in its two layer norms. So a count without attention is short by the factor 1 + n / 6d whatever
    the number of layers; one with the norms of the layers in it by (12d + 2n) / (12d + 10).

    Args:
        cost: as published.
        convention: one of :data:`CONVENTIONS`: ``mac`` (a multiply-add is one), ``flop``, ``flop_without_attention``
            (attention products left out) or ``flop_without_attention_with_norm`` (and layer norms counted as work:
            BERT-base at 128 tokens has 21.8 G in E-LANG's tables).
        length: n, tokens per row; only where attention is left out.
        hidden: d, width of the model; only where attention is left out.

    Example:
        >>> round(flops_of(10.872e9, "mac") / 1e9, 3), round(flops_of(21.744e9, "flop_without_attention") / 1e9, 2)
        (21.744, 22.35)
        >>> round(flops_of(21.769e9, "flop_without_attention_with_norm") / 1e9, 2)
        22.35
    """
    factors = {
        "mac": 2.0,
        "flop": 1.0,
        "flop_without_attention": 1.0 + length / (6 * hidden),
        "flop_without_attention_with_norm": (12 * hidden + 2 * length) / (12 * hidden + 10),
    }
    if convention not in factors:
        raise ValueError(f"`convention` must be one of {', '.join(CONVENTIONS)}, but got {convention!r}.")
    return cost * factors[convention]


def read_points(path: str | Path) -> list[Published]:
    """Read published points from CSV (with a header) or JSON (a list of objects).

    Each has ``name``, ``quality`` (all fractions, or all in %), ``cost`` and ``convention``; ``length`` and
    ``hidden`` may be added where attention is left out (else 128 and 768, BERT-base in the papers).

    Raises:
        ValueError: the file cannot be read, or a field is missing or not allowed (naming the line).
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`points` must be a CSV or JSON file, but {path} does not exist.")
    try:
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
    except ValueError as error:
        raise ValueError(f"`points` must be a CSV or JSON file, but {path} cannot be read: {error}.") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"`points` must hold at least one point, but {path} holds none.")
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"`points` must hold objects with name, quality, cost and convention, but {path} has others.")
    points = [_point(row, number, path) for number, row in enumerate(rows, start=1)]
    scale = 100 if any(point.quality > 1 for point in points) else 1
    return [Published(point.name, point.quality / scale, point.flops) for point in points]


def _point(row: dict[str, Any], number: int, path: Path) -> Published:
    """One row of a file of published points, with an error that names its number."""
    if missing := [name for name in ("name", "quality", "cost", "convention") if not str(row.get(name) or "").strip()]:
        raise ValueError(
            f"`points` must have name, quality, cost and convention, "
            f"but point {number} of {path} lacks {', '.join(missing)}."
        )
    shape = {key: row[key] for key in BERT_BASE if str(row.get(key) or "").strip()}
    try:
        quality, cost = float(row["quality"]), float(row["cost"])
        shape = {key: float(value) for key, value in shape.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`points` must have numbers as quality and cost, but point {number} of {path}: {error}."
        ) from error
    try:
        return Published(str(row["name"]).strip(), quality, flops_of(cost, str(row["convention"]).strip(), **shape))
    except ValueError as error:
        raise ValueError(f"{error} Point {number} of {path}.") from error
