"""A run folder of two tiny readers of spans, without training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from dial.costs.counting import network_costs
from dial.inference.rows_table import rows_table
from dial.inference.staged import StagedModel
from dial.report.figures import plots
from dial.report.report import SweepSettings, build_report
from dial.tiers.loading import load_tier
from tests.squad_files import TEST
from tests.tiers.readers import FREE, STRIDE, save_reader

METRICS = ["token_f1", "squad_em"]


def reader_run(folder: Path) -> Path:
    """A run folder in ``folder``, as `dial test` leaves it."""
    places = [save_reader(folder / "tiers" / name, seed=n, layers=n + 1) for n, name in enumerate(("swift", "super"))]
    views = [{"path": str(place), "stride": STRIDE, "no_answer": False} for place in places]
    network = StagedModel([load_tier(v, n, FREE).eval() for v, n in zip(views, ("swift", "super"), strict=True)])
    units = [(row["question"], row["context"]) for row in TEST]
    references = np.empty(len(TEST), dtype=object)
    references[:] = [(row["answers"]["text"][0],) for row in TEST]
    lengths = {t.name: np.array([len(row.ids) for row in t.tokeniser()(units)]) for t in network.tiers}
    costs = network_costs(network.tiers, lengths)
    about = {"task": "questions", "temperatures": {}, "length": "true", "reference": "super", "seed": 0}
    about |= {"tiers": {tier.name: tier.describe() for tier in network.tiers}}
    sizes = {tier.name: 8 for tier in network.tiers}
    with torch.inference_mode():
        table = rows_table(network, units, references, FREE, METRICS, about, sizes, costs)
    split = np.where(np.arange(len(units)) < len(units) // 2, "calibration", "test")
    table = replace(table, split=split, settings={**table.settings, "calibration": "split"})
    settings = SweepSettings(("softmax", "random"), targets=(0.9,), bootstrap=100)
    with mock.patch.object(plots, "figures", return_value={}):  # they take most of the time
        build_report(table, settings, costs=costs).write(folder / "run" / "sweep")
    return folder / "run"
