"""The tables of models with exits, from summaries as the sweep writes them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scripts import exits_page as page


def point(kind: str, speedup: float, score: str = "entropy") -> dict[str, Any]:
    return {
        "score": score, "rule": "threshold", "kind": kind, "target": 0.99, "kept": 0.985, "held": False,
        "speedup": speedup, "speedup_interval": [1.0, 2.0],
    }  # fmt: skip


def summary(*points: dict[str, Any]) -> dict[str, Any]:
    stages = [{"quality": {"mcc": quality}, "macs": macs} for quality, macs in ((0.3, 20e6), (0.4, 50e6))]
    named = [{"name": f"model.{i}", "tier": "model", "parameters": 10_000_000} for i in (1, 2)]
    split = {"stages": stages, "reference_macs": 100e6, "points": list(points)}
    return {
        "metrics": ["mcc"],
        "splits": {"test": split},
        "stages": named,
        "compression": {"model": {"unpruned": 20_000_000}},
    }


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The sweeps of one model with two exits, half as large as its encoder unpruned."""
    sweep, crossfit = (tmp_path / "cola/seed0" / kind / "exits-ta" for kind in ("sweeps", "crossfit"))
    for folder in (sweep, crossfit):
        folder.mkdir(parents=True)
    found = [point("expected", 3.0), point("confident", 2.0), point("in_sample", 4.0), point("expected", 9.0, "energy")]
    (sweep / "summary.json").write_text(json.dumps(summary(*found)))
    (crossfit / "summary.json").write_text(json.dumps(summary(point("expected", 7.0), point("confident", 1.5))))
    curve = {"macs": [10e6, 30e6, 45e6, 20e6, 60e6], "mcc": [0.2, 0.35, 0.33, 0.9, 0.5], "rule": "threshold"}
    curve["score"] = ["entropy", "entropy", "entropy", "energy", "entropy"]
    pd.DataFrame(curve).to_parquet(sweep / "curve.parquet")
    return tmp_path


def test_sizes_costs_and_quality_at_each_exit(runs: Path) -> None:
    frame = page.collect(runs, ["cola", "rte"])
    assert page.layer_table(frame).splitlines()[-1] == "| cola | ta | 10.0 M | 2.00× | 1/2.00 | mcc | 30.0 | 40.0 |"


def test_points_of_the_one_score_and_crossfit_ones_from_their_own_sweep(runs: Path) -> None:
    frame = page.collect(runs, ["cola"])
    # At half of 100 million MACs the curve of entropy has 0.2, 0.35 and 0.33, at a quarter 0.2.
    cells = "40.0 (mcc) | 35.0 | 20.0 | 3.00× (98.5) | 2.00× (98.5) | 1.50× (98.5) | 4.00× (98.5)"
    assert page.exit_table(frame, 0.99).splitlines()[-1] == f"| cola | ta | {cells} |"
    assert page.exit_table(frame, 0.98).splitlines()[-1].endswith("| – | – | – | – |")
    assert frame.kind.tolist() == ["expected", "confident", "in_sample", "crossfit"]


def test_a_cascade_has_points_but_no_line_of_layers(runs: Path) -> None:
    """Its parameters are those of both tiers, and it is compared with its last, the Super."""
    folder = runs / "cola/seed0/sweeps"
    shutil.copytree(folder / "exits-ta", folder / "cascade-costeff-4x")
    plain = summary(point("expected", 3.0))
    plain["stages"] = [
        {"name": "first", "tier": "first", "parameters": 5_000_000},
        {"name": "super", "tier": "super", "parameters": 20_000_000},
    ]
    (folder / "cascade-costeff-4x/summary.json").write_text(json.dumps(plain))
    frame = page.collect(runs, ["cola"])
    cascade = frame.iloc[-1]
    assert (cascade.method, cascade.parameters, cascade.compression) == ("costeff-4x, then super", 25e6, 0.8)
    assert [line.split(" | ")[1] for line in page.layer_table(frame).splitlines()[2:]] == ["ta"]
    assert [line.split(" | ")[1] for line in page.exit_table(frame, 0.99).splitlines()[2:]] == [
        "ta",
        "costeff-4x, then super",
    ]


def test_a_cost_below_every_point_has_no_quality(runs: Path) -> None:
    curve = runs / "cola/seed0/sweeps/exits-ta/curve.parquet"
    assert page.quality_at(curve, "entropy", "mcc", 9e6) is None
    assert page.quality_at(curve, "entropy", "mcc", 10e6) == 0.2


def test_the_page_is_the_same_from_what_was_kept(runs: Path) -> None:
    frame = page.collect(runs, ["cola"])
    frame.to_csv(runs / "exits.csv", index=False, float_format="%.6g")
    texts = page.tables(pd.read_csv(runs / "exits.csv"), "data", "models")
    assert texts == page.tables(frame, "data", "models")
    assert list(texts) == ["layers", "exits-99", "exits-98", "exit-commands"]
    assert "dial fit --config configs/model/teaching_assistant.yaml" in texts["exit-commands"]
    assert "--run runs/results/cola/seed0/ta" in texts["exit-commands"]


def test_a_table_whose_columns_were_not_kept_is_left_out(runs: Path) -> None:
    frame = page.collect(runs, ["cola"]).drop(columns=["at0.5", "at0.25"])
    assert list(page.tables(frame, "data", "models")) == ["layers", "exit-commands"]
