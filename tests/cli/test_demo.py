"""The demo keeps its promise: easy rows stay with the Swift, what it defers is hard."""

import json

import numpy as np
import pytest

from datamodules import GradedSentimentDataModule
from dial.stages.parquet import load_table


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_super_solves_all_levels_and_the_router_defers_the_hard_ones(tmp_path, dial, seed) -> None:
    data = ["--data=configs/data/demo.yaml", f"--data.seed={seed}", f"--data.data_seed={seed}"]
    common = [*data, f"--seed_everything={seed}", "--trainer.accelerator=cpu"]
    dial("fit", "--config=configs/model/demo_super.yaml", *common, f"--run={tmp_path}/super").ok()
    teacher = f"--model.teacher={tmp_path}/super/tier"
    dial("fit", "--config=configs/model/demo_swift.yaml", *common, teacher, f"--run={tmp_path}/swift").ok()
    tiers = f"--model.tiers=[{tmp_path}/swift/tier, {tmp_path}/super/tier]"
    dial("test", "--config=configs/model/cascade.yaml", *common, tiers, f"--run={tmp_path}").ok()

    table = load_table(tmp_path / "sweep/stages.parquet").of_split("test")
    levels = GradedSentimentDataModule(data_seed=seed).levels("test")
    level = np.array([levels[int(sample_id)] for sample_id in table.sample_id])
    swift, strong = (table.predictions == table.label[:, None]).T
    assert strong.mean() >= 0.95
    assert swift[level == 1].mean() >= 0.95
    assert swift[level >= 3].mean() <= 0.80
    assert (level == 1).sum() > 100
    assert (level >= 3).sum() > 100

    summary = json.loads((tmp_path / "sweep/summary.json").read_text())
    for point in summary["splits"]["test"]["points"]:
        if point["score"] == "energy" and point["kind"] == "expected" and point["target"] in (0.99, 0.98):
            deferred = table.scores["energy"][:, 0] < point["thresholds"][0]
            assert deferred.sum() > 100
            assert (level[deferred] >= 3).mean() >= 0.70
