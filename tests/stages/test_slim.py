"""Slim tables read back as the whole ones, and give the same results."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dial.cli.tables import SweepCommand
from dial.costs.functions import CostFunction, ModelCosts
from dial.stages.parquet import load_costs, load_table, save_slim, save_table
from dial.stages.stage import Stage
from dial.stages.table import StageTable
from tests.stages.test_parquet import assert_equal

SWIFT, FIRST, LAST, UNPRUNED = (CostFunction(coefficients=(c, 10 * c, 0.5 * c)) for c in (1e3, 4e3, 9e3, 11e3))
COSTS = ModelCosts({"swift": {0: SWIFT}, "super": {0: FIRST, 1: LAST}}, {"swift": {0: SWIFT}}, {"super": UNPRUNED})
STAGES = (Stage("swift", "swift"), Stage("super.1", "super", 0), Stage("super.2", "super", 1))


def make(
    length: Any = "true", reference: str = "super", classes: int = 2, rows: int = 240, **changes: Any
) -> StageTable:
    """A cascade of a Swift and a model with two exits; costs are added up row by row."""
    random = np.random.default_rng(classes)
    label = random.integers(max(classes, 2), size=rows)
    outputs = random.normal(size=(rows, 3, classes)).astype(np.float32)
    if classes > 1:
        outputs += 2 * (np.arange(classes) == label[:, None, None]) * np.array([0.5, 1.0, 1.5])[:, None]
    lengths = {tier: random.integers(3, 40, size=rows) for tier in ("swift", "super")}
    padded = {tier: values + random.integers(0, 9, size=rows) for tier, values in lengths.items()}
    macs, alone = np.zeros((rows, 3)), np.zeros(rows)
    for row in range(rows):
        tokens = {
            tier: {"true": lengths, "padded": padded}[length][tier][row] if isinstance(length, str) else length
            for tier in lengths
        }
        swift = SWIFT([tokens["swift"]])[0]
        macs[row] = [swift, swift + FIRST([tokens["super"]])[0], swift + LAST([tokens["super"]])[0]]
        alone[row] = (UNPRUNED if reference == "super" else SWIFT)([tokens[reference]])[0]
    regression = classes == 1
    table = StageTable(
        split=np.repeat(["calibration", "test"], rows // 2),
        sample_id=random.permutation(rows) + 5,
        label=random.normal(size=rows) if regression else label,
        stages=STAGES,
        outputs=outputs,
        predictions=outputs[..., 0].astype(np.float64) if regression else outputs.argmax(axis=-1),
        decide_macs=macs,
        macs=macs,
        macs_reference=alone,
        lengths=lengths,
        padded=padded,
        metrics=("pearson",) if regression else ("accuracy", "macro_f1"),
        label_names=() if regression else tuple("abcd"[:classes]),
        settings={"length": length, "reference": reference, "seed": 7, "temperatures": {"swift": 1.5}, "task": "x"},
    )
    scores = ["random"] if regression else ["softmax", "energy", "random", "entropy"]
    return dataclasses.replace(table.with_scores(scores), **changes)


LEARNED = {"learned": np.random.default_rng(0).random((240, 3))}
OMITTED = ("energy_", "softmax_", "entropy_", "random_", "prediction_", "macs_", "decide_macs_")


@pytest.mark.parametrize(
    "table",
    [
        make(),
        make("padded"),
        make(128),
        make(reference="swift"),
        make(classes=4),
        make(classes=1, scores=LEARNED).with_scores(["random"]),
        make(sample_id=np.array([f"row {i}" for i in range(240)])).with_scores(["random"]),
        make(group=np.arange(240) // 3, statistics={"em": LEARNED["learned"]}),
    ],
    ids=["true", "padded", "128", "reference", "four classes", "regression", "string ids", "group and statistics"],
)
def test_a_slim_table_reads_back_as_the_whole_one(tmp_path: Path, table: StageTable) -> None:
    save_table(table, tmp_path / "whole.parquet")
    save_slim(table, tmp_path / "slim.parquet", COSTS)
    assert_equal(load_table(tmp_path / "slim.parquet"), load_table(tmp_path / "whole.parquet"))
    assert load_costs(tmp_path / "slim.parquet") == COSTS and load_costs(tmp_path / "whole.parquet") is None
    names = pq.read_schema(tmp_path / "slim.parquet").names
    assert not [name for name in names if name.startswith(OMITTED)]
    assert ("learned_swift" in names) == ("learned" in table.scores)
    assert json.loads(pq.read_schema(tmp_path / "slim.parquet").metadata[b"dial"])["schema"] == 2
    assert (tmp_path / "slim.parquet").stat().st_size < 0.5 * (tmp_path / "whole.parquet").stat().st_size


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"predictions": np.zeros((240, 3), np.int64)}, "prediction_"),
        ({"scores": {"energy": make().scores["energy"] + 1e-12}}, "energy_"),
        ({"scores": {"random": LEARNED["learned"]}}, "random_"),
        ({"macs": make().macs + 1.0}, "macs_"),
        ({"macs_reference": make().macs[:, 2]}, "macs_"),
        ({"lengths": {}}, "macs_"),
        ({"outputs": None}, "energy_"),
    ],
    ids=["predictions", "own energy", "own random", "costs", "reference", "no lengths", "no logits"],
)
def test_what_does_not_follow_from_the_rest_stays(tmp_path: Path, change: dict[str, Any], kept: str) -> None:
    table = make(**change)
    save_slim(table, tmp_path / "slim.parquet", COSTS)
    assert any(name.startswith(kept) for name in pq.read_schema(tmp_path / "slim.parquet").names)
    assert_equal(load_table(tmp_path / "slim.parquet"), table)


def test_without_cost_functions_the_costs_of_rows_stay(tmp_path: Path) -> None:
    save_slim(make(), tmp_path / "slim.parquet", None)
    assert_equal(load_table(tmp_path / "slim.parquet"), make())
    assert load_costs(tmp_path / "slim.parquet") is None


@pytest.mark.parametrize("calibration", ["split", "crossfit"])
def test_dial_sweep_gives_the_same_results(tmp_path: Path, calibration: str, capsys: pytest.CaptureFixture) -> None:
    """Every number of the summary and of the curves, and the cost functions."""
    (tmp_path / "run").mkdir()
    save_table(make(), tmp_path / "run/stages.parquet")
    COSTS.save(tmp_path / "run/costs.json")
    save_slim(make(), tmp_path / "slim.parquet", COSTS)
    found = []
    for table in ("run/stages.parquet", "slim.parquet"):
        out = tmp_path / table.split("/")[0] / "out" if "/" in table else tmp_path / "out"
        more = ["--bootstrap", "100", "--calibration", calibration, "--targets", "0.99", "--out", str(out)]
        assert SweepCommand.main([str(tmp_path / table), *more]) == 0
        capsys.readouterr()
        found.append([(out / name).read_bytes() for name in ("summary.json", "curve.csv", "costs.json", "errors.csv")])
    assert found[0] == found[1]
    assert b"speedup_by_length" in found[0][0]


def test_a_column_that_nothing_gives_back_is_named(tmp_path: Path) -> None:
    save_slim(make(scores=LEARNED), tmp_path / "slim.parquet", COSTS)
    arrow = pq.read_table(tmp_path / "slim.parquet")
    for name in ("learned_swift", "length_super"):
        pq.write_table(arrow.drop_columns([name]), tmp_path / "broken.parquet")
        with pytest.raises(ValueError, match=r"`table` must have" if "learned" in name else r"super"):
            load_table(tmp_path / "broken.parquet")
