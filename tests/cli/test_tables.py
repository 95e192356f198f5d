"""`dial sweep` in this process; `dial compare` is in test_compare.py."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dial.cli.tables import SweepCommand
from dial.costs.functions import macs_of
from dial.stages.parquet import load_table, save_table
from tests.stages.population import logits_table


@pytest.fixture(scope="module")
def table():
    return logits_table(300, seed=11)


def test_sweep_command_on_a_saved_table_with_a_new_score(table, tmp_path, capsys):
    bare = dataclasses.replace(table, scores={"energy": table.scores["energy"]})
    save_table(bare, tmp_path / "stages.parquet")
    arguments = [str(tmp_path / "stages.parquet"), "--scores", "margin", "--targets", "0.99", "--bootstrap", "100"]
    assert SweepCommand.main(arguments) == 0
    text = capsys.readouterr().out
    assert "`margin`" in text
    folder = tmp_path / "stages-sweep"
    assert str(folder) in text
    np.testing.assert_allclose(
        load_table(folder / "stages.parquet").scores["margin"], table.scores["margin"], rtol=1e-12
    )
    with pytest.raises(ValueError, match="another configuration"):
        SweepCommand.main([*arguments, "--seed", "3"])


def test_sweep_command_crossfits_a_foreign_table_and_says_so(table, tmp_path, capsys):
    test = table.of_split("test")
    columns = {
        "split": test.split,
        "sample_id": test.sample_id,
        "label": test.label,
        "macs_reference": test.macs_reference,
    }
    for s, name in enumerate(("small", "large")):
        columns[f"output_{name}"] = pa.array(list(test.outputs[:, s]), type=pa.list_(pa.float32()))
        columns[f"macs_{name}"] = test.macs[:, s]
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    arguments = [
        str(tmp_path / "mine.parquet"),
        "--metrics",
        "mcc",
        "accuracy",
        "--label-names",
        "no",
        "yes",
        "--bootstrap",
        "100",
        "--costs",
        "cumulative",
    ]
    assert SweepCommand.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "cross-fitting" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metrics"] == ["mcc", "accuracy"]
    assert summary["label_names"] == ["no", "yes"]
    assert {"energy", "softmax", "random"} <= set(summary["settings"]["scores"])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--scores", "sharpness"], "--scores"),
        (["--metrics", "bleu"], "bleu"),
        (["--targets", "2"], "`--targets`"),
        (["--targets", "high"], "--targets"),
        (["--budgets", "cheap"], "--budgets"),
        (["--calibration", "test"], "--calibration"),
        (["--colour", "red"], "--colour"),
        (["--costs", "mine"], "--costs"),
        (["--costs", "own"], "`--costs` is for tables of others"),
        (["--stages", "exits"], "`--stages` is for tables of others"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(table, tmp_path, extra, message):
    save_table(table, tmp_path / "stages.parquet")
    with pytest.raises(ValueError, match=message) as caught:
        SweepCommand.main([str(tmp_path / "stages.parquet"), *extra])
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["stages.parquet"]


def test_a_table_is_never_replaced_by_its_own_results(table, tmp_path):
    save_table(table, tmp_path / "stages.parquet")
    before = (tmp_path / "stages.parquet").read_bytes()
    with pytest.raises(ValueError, match="`--out` must be another folder than the table's"):
        SweepCommand.main([str(tmp_path / "stages.parquet"), "--bootstrap", "100", "--out", str(tmp_path)])
    assert (tmp_path / "stages.parquet").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["stages.parquet"]


def test_unreadable_costs_beside_the_table_are_named(table, tmp_path):
    save_table(table, tmp_path / "stages.parquet")
    (tmp_path / "costs.json").write_text("{")
    with pytest.raises(ValueError, match=r"`table` must lead to readable files, but .*costs.json is damaged"):
        SweepCommand.main([str(tmp_path / "stages.parquet"), "--bootstrap", "100"])


def test_budget_units():
    assert macs_of("3e9") == 3e9
    assert macs_of("3e9FLOP") == 1.5e9
