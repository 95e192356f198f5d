"""Stage tables of one model with several exits, with the sizes of its encoder unpruned."""

import dataclasses

import numpy as np

from dial.stages.stage import Stage
from dial.stages.table import StageTable
from tests.stages.population import logits_table


def exits_table(
    rows: int,
    seed: int,
    *,
    layers: tuple[int, ...] = (1, 2, 3, 4, 5, 6),
    tier: str = "model",
    best: float = 2.5,
    splits: tuple[str, ...] = ("calibration", "test"),
) -> StageTable:
    """Exits after the given layers, each surer than the one before; a head costs 5 % of a layer."""
    strengths = tuple(np.linspace(0.5, best, len(layers)))
    table = logits_table(rows, seed, strengths=strengths, splits=splits)
    lengths = next(iter(table.lengths.values()))
    own = lengths[:, None] * 1e6 * (np.array(layers) + 0.05 * np.arange(1, len(layers) + 1))
    sizes = {"parameters": 5_000_000, "without_embeddings": 1_000_000}
    unpruned = {"parameters": 20_000_000, "without_embeddings": 8_000_000}
    return dataclasses.replace(
        table,
        stages=tuple(Stage(f"{tier}.layer{k}", tier, i) for i, k in enumerate(layers)),
        decide_macs=own,
        macs=own,
        macs_reference=lengths * 1e6 * 20.0,
        lengths={tier: lengths},
        padded={tier: lengths + 3},
        settings={
            **table.settings,
            "reference": tier,
            "reference_without_exits": True,
            "tiers": {tier: {**sizes, "unpruned": unpruned, "path": "x"}},
        },
    )
