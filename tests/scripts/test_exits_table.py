"""The tables of models with exits, from summaries as the sweep writes them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scripts import exits_table as tables


def point(kind: str, speedup: float, score: str = "entropy") -> dict[str, Any]:
    return {
        "score": score, "rule": "threshold", "kind": kind, "target": 0.99, "kept": 0.985, "held": False,
        "speedup": speedup, "speedup_interval": [1.0, 2.0],
    }  # fmt: skip


def summary(*points: dict[str, Any]) -> dict[str, Any]:
    stages = [{"quality": {"mcc": quality}, "macs": macs} for quality, macs in ((0.3, 20e6), (0.4, 50e6))]
    return {"metrics": ["mcc"], "splits": {"test": {"stages": stages, "reference_macs": 100e6, "points": list(points)}}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """One tested model with two exits, half as large as the Super."""
    folder = tmp_path / "cola" / "seed0"
    for name, parameters in (("super", 20_000_000), ("ta", 10_000_000)):
        (folder / name / "tier").mkdir(parents=True)
        (folder / name / "tier/card.json").write_text(json.dumps({"parameters": parameters}))
    run = folder / "exits-ta"
    for part in ("sweep", "crossfit"):
        (run / part).mkdir(parents=True)
    found = [point("expected", 3.0), point("confident", 2.0), point("in_sample", 4.0), point("expected", 9.0, "energy")]
    (run / "sweep/summary.json").write_text(json.dumps(summary(*found)))
    (run / "crossfit/summary.json").write_text(json.dumps(summary(point("expected", 7.0), point("confident", 1.5))))
    curve = {"macs": [10e6, 30e6, 45e6, 20e6, 60e6], "mcc": [0.2, 0.35, 0.33, 0.9, 0.5], "rule": "threshold"}
    curve["score"] = ["entropy", "entropy", "entropy", "energy", "entropy"]
    pd.DataFrame(curve).to_parquet(run / "sweep/curve.parquet")
    return tmp_path


def test_sizes_costs_and_quality_at_each_exit(runs: Path) -> None:
    (record,) = tables.collect(runs, ["cola", "rte"])
    assert tables.layer_lines([record])[-1] == "| cola | ta | 10.0 M | 2.00× | 1/2.00 | mcc | 30.0 | 40.0 |"


def test_points_of_the_one_score_and_crossfit_ones_from_their_own_sweep(runs: Path) -> None:
    (record,) = tables.collect(runs, ["cola"])
    # At half of 100 million MACs the curve of entropy has 0.2, 0.35 and 0.33, at a quarter 0.2.
    cells = "40.0 (mcc) | 35.0 | 20.0 | 3.00× (98.5) | 2.00× (98.5) | 1.50× (98.5) | 4.00× (98.5)"
    assert tables.exit_lines([record])[-1] == f"| cola | ta | {cells} |"
    assert tables.exit_lines([record], target=0.98)[-1].endswith("| – | – | – | – |")
    assert tables.frame([record]).kind.tolist() == ["expected", "confident", "in_sample", "crossfit"]


def test_a_cascade_has_points_but_no_line_of_layers(runs: Path) -> None:
    """Its parameters are those of both tiers, and its last stage is the Super."""
    folder = runs / "cola/seed0"
    (folder / "costeff-4x/tier").mkdir(parents=True)
    (folder / "costeff-4x/tier/card.json").write_text(json.dumps({"parameters": 5_000_000}))
    (folder / "exits-ta").rename(folder / "cascade-costeff-4x")
    plain = {**summary(point("expected", 3.0)), "metrics": ["mcc"]}
    (folder / "exits-ta/sweep").mkdir(parents=True)
    (folder / "exits-ta/sweep/summary.json").write_text(json.dumps(plain))
    curve = folder / "cascade-costeff-4x/sweep/curve.parquet"
    (folder / "exits-ta/sweep/curve.parquet").write_bytes(curve.read_bytes())
    alone, cascade = tables.collect(runs, ["cola"])
    assert (cascade["method"], cascade["parameters"], cascade["compression"]) == ("costeff-4x, then super", 25e6, 0.8)
    assert [line.split(" | ")[1] for line in tables.layer_lines([alone, cascade])[2:]] == ["ta"]
    assert [line.split(" | ")[1] for line in tables.exit_lines([alone, cascade])[2:]] == [
        "ta",
        "costeff-4x, then super",
    ]


def test_a_cost_below_every_point_has_no_quality(runs: Path) -> None:
    curve = runs / "cola/seed0/exits-ta/sweep/curve.parquet"
    assert tables.quality_at(curve, "entropy", "mcc", 9e6) is None
    assert tables.quality_at(curve, "entropy", "mcc", 10e6) == 0.2


def test_sections_name_the_commands(runs: Path) -> None:
    text = tables.sections(tables.collect(runs, ["cola"]), "data", "models")["Exits: commands"]
    assert "dial fit --config configs/model/teaching_assistant.yaml" in text
    assert "--run runs/results/cola/seed0/ta" in text
    assert tables.sections([], "data", "models") == {}
