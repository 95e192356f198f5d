"""What a stage table need not hold, because the rest of it gives it back: scores, predictions and costs.

Scores of logits are computed from the logits, predictions are their argmax, and costs follow from lengths and cost
functions. A table without them is a tenth as large, and a change of statistics needs no model to run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dial.costs.functions import ModelCosts, charged_lengths
from dial.stages.scores import ROUTING_SCORES
from dial.stages.stage import Stage
from dial.stages.table import StageTable

COSTS = ("decide_macs", "macs", "macs_reference")


def predictions_of(outputs: np.ndarray, regression: bool) -> np.ndarray:
    """Answers ``(N, S)`` of outputs ``(N, S, C)``: the largest logit, or the number itself."""
    return outputs[..., 0].astype(np.float64) if regression else outputs.argmax(axis=-1)


def costs_of(
    costs: ModelCosts,
    stages: tuple[Stage, ...],
    lengths: Mapping[str, np.ndarray],
    padded: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """The columns :data:`COSTS` at the length convention and for the reference that a table's settings name.

    Raises:
        ValueError: a tier without lengths or cost functions.
    """
    charged = charged_lengths(settings.get("length", "true"), lengths, padded)
    decide, macs = costs.stage_macs(stages, charged)
    reference = settings.get("reference") or stages[-1].tier
    if reference not in charged:
        raise ValueError(f"`table` must have lengths of its reference {reference!r}, but has those of {list(charged)}.")
    return dict(zip(COSTS, (decide, macs, costs.alone(reference, charged[reference])), strict=True))


def redundant(table: StageTable, costs: ModelCosts | None) -> set[str]:
    """Names of scores, ``prediction`` and ``macs``: what comes back exactly as it is from the rest of the table.

    Args:
        table: the whole table.
        costs: cost functions; without them costs stay.
    """
    found: set[str] = set()
    outputs = table.outputs
    if outputs is not None and np.array_equal(predictions_of(outputs, table.regression), table.predictions):
        found.add("prediction")
    computable = ROUTING_SCORES["regression" if table.regression else "classification"]
    names = [name for name in computable if name in table.scores and (outputs is not None or name == "random")]
    again = table.with_scores(names)
    found |= {name for name in names if np.array_equal(again.scores[name], table.scores[name])}
    if costs is None:
        return found
    try:
        derived = costs_of(costs, table.stages, table.lengths, table.padded, table.settings)
    except (KeyError, ValueError):  # a tier without lengths: the columns stay
        return found
    same = all(np.array_equal(values, getattr(table, name)) for name, values in derived.items())
    return found | ({"macs"} if same else set())
