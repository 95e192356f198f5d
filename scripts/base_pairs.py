"""Differences of two runs with a base-size Super, with their paired intervals, as tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from scripts.base_collect import NAMES
from scripts.markdown import grid
from scripts.text_page import signed

SUPER = "MPNet-base (Super)"
QUANTITIES = {"swift": "first stage, points", "area": "normalised area", "speedup-99": "speed-up at 99 %"}
QUANTITIES |= {"speedup-98": "speed-up at 98 %", "super": "last stage, points"}
SIDES = ("swift", "area", "speedup-99", "speedup-98")  # of two first tiers


def task_of(name: str) -> str:
    """Of GLUE.

    >>> task_of("base_sst2")
    'sst2'
    """
    return name.removeprefix("base_")


def change(pairs: pd.DataFrame, quantity: str) -> str:
    """Second minus first of one pair, with its interval."""
    found = pairs[pairs.quantity == quantity]
    if found.empty or pd.isna(found.difference.iloc[0]):
        return "–"
    (row,) = (row for _, row in found.iterrows())
    scale, digits = (100.0, 1) if quantity in ("swift", "super") else (1.0, 2)
    return signed(row.difference, None if pd.isna(row.low) else (row.low, row.high), scale, digits)


def pair_table(pairs: pd.DataFrame, question: str, quantities: Sequence[str]) -> str:
    """Second minus first of every pair that answers a question, with paired intervals."""
    chosen = pairs[pairs.question == question]
    rows = []
    for (task, run, first, second), part in chosen.groupby(
        ["task", "run", "first", "second"], sort=False, dropna=False
    ):
        names = [NAMES.get(name, name) for name in (first, second)]
        names[0] = SUPER if question == "last" else names[0]
        before = [NAMES[run]] if question == "scores" else []
        rows.append([task_of(task), *before, *names, *(change(part, quantity) for quantity in quantities)])
    head = ["task", *(["before the Super"] if question == "scores" else []), "first", "second"]
    return grid([*head, *(f"{QUANTITIES[name]}: change" for name in quantities)], rows)
