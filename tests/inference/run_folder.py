"""A run folder as `dial test` leaves it, of small random tiers, without a trainer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from dial.costs.functions import CostFunction, ModelCosts
from dial.inference.staged import StagedModel
from dial.report.figures import plots
from dial.report.report import SweepSettings, build_report
from dial.stages.table import StageTable
from dial.tiers.loading import load_tier, save_tier
from dial.tiers.tier import Tier
from dial.tiers.tokens import Tokeniser
from tests.tiers import small

SCORES = ("energy", "softmax", "random")


@torch.no_grad()
def make_run(
    folder: Path, tiers: list[Tier], rows: int = 160, calibration: str = "split", partial: bool = False
) -> Path:
    """Save tiers below ``folder`` and their sweep in ``folder/run``; half of the rows are for calibration.

    The label is what the last stage says of nine rows in ten.
    """
    loaded = []
    for tier in tiers:
        save_tier(folder / "tiers" / tier.name, tier, {})
        loaded.append(load_tier(str(folder / "tiers" / tier.name), tier.name, small.CLASSES).eval())
    network = StagedModel(loaded)
    units = small.texts(rows, seed=5)
    outputs = small.outputs_one_by_one(network, units)
    random = np.random.default_rng(0)
    label = np.where(random.random(rows) < 0.9, outputs[:, -1].argmax(axis=1), random.integers(0, 3, rows))
    tokens = {t.name: np.array([len(row.ids) for row in Tokeniser(t)(units)]) for t in network.tiers}
    functions = {
        t.name: {i: CostFunction((0.0, 100.0 * 10**n * (i + 1), 1.0)) for i in range(len(t.exits))}
        for n, t in enumerate(network.tiers)
    }
    costs = ModelCosts(functions)
    decide, macs = costs.stage_macs(network.stages, tokens)
    split = np.where(np.arange(rows) < rows // 2, "calibration", "test")
    table = StageTable(
        split if calibration == "split" else np.full(rows, "test"),
        np.arange(rows),
        label,
        tuple(network.stages),
        outputs.argmax(axis=-1),
        decide,
        macs,
        costs.alone(loaded[-1].name, tokens[loaded[-1].name]),
        outputs=outputs.astype(np.float32),
        scores={},
        statistics={},
        lengths=tokens,
        padded=tokens,
        metrics=("accuracy",),
        label_names=tuple(small.CLASSES),
        settings={
            "task": "small",
            "calibration": calibration,
            "temperatures": {s.name: 1.0 + 0.5 * i for i, s in enumerate(network.stages)},
            "length": "true",
            "reference": loaded[-1].name,
            "seed": 0,
            "tiers": {tier.name: tier.describe() for tier in loaded},
            "partial": partial,
        },
    ).with_scores(list(SCORES), seed=0)
    settings = SweepSettings(SCORES, targets=(1.0, 0.95, 0.9), bootstrap=100, calibration=calibration)
    with mock.patch.object(plots, "figures", return_value={}):  # they take most of the time
        build_report(table, settings, costs=costs).write(folder / "run" / "sweep")
    return folder / "run"


def copy_of(run: Path, place: Path) -> Path:
    """The run and its tiers elsewhere."""
    shutil.copytree(run.parent, place)
    return place / "run"


def texts_of_split(rows: int = 160, start: int = 80) -> list[Any]:
    """The texts behind the rows of the test split."""
    return small.texts(rows, seed=5)[start:]
