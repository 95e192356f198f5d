import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dial.stages.parquet import load_table, save_table
from dial.stages.stage import Stage
from dial.stages.table import StageTable
from dial.tradeoff.rules import curve
from tests.stages.tables import random_table, regression_table


def assert_equal(one: StageTable, other: StageTable) -> None:
    for item in dataclasses.fields(StageTable):
        a, b = getattr(one, item.name), getattr(other, item.name)
        if isinstance(a, dict) and item.name != "settings":
            assert a.keys() == b.keys(), item.name
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])
                assert a[key].dtype == b[key].dtype
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=item.name)
            assert a.dtype.kind == b.dtype.kind, item.name
        else:
            assert a == b, item.name


def full_table(**changes: Any) -> StageTable:
    table = random_table(30, 3, 3, metrics=("mcc", "accuracy"), splits=("calibration", "test"))
    more = {
        "padded": {tier: lengths + 2 for tier, lengths in table.lengths.items()},
        "group": np.arange(30) // 3,
        "statistics": {"em": np.random.default_rng(0).random((30, 3))},
        "stages": (Stage("small", "small", 0), Stage("exit.1_a", "big-tier", 0), Stage("exit.2_a", "big-tier", 1)),
        "lengths": {"small": table.lengths["tier0"], "big-tier": table.lengths["tier1"]},
        "settings": {
            "seed": 5,
            "temperatures": {"small": 1.5},
            "partial": False,
            "note": "ä",
            "nested": {"a": [1, None]},
        },
    }
    more["padded"] = {tier: lengths + 1 for tier, lengths in more["lengths"].items()}
    return dataclasses.replace(table, **more, **changes).with_scores(["energy", "energy_released", "random"])


@pytest.mark.parametrize(
    "table",
    [
        full_table(),
        full_table(sample_id=np.array([f"row {index}" for index in range(30)])),
        full_table().take(np.arange(0)),
        regression_table(),
        dataclasses.replace(random_table(), outputs=None),
        random_table(stages=1),
    ],
    ids=["all columns", "string ids", "no rows", "regression", "no logits", "one stage"],
)
def test_a_table_reads_back_as_it_was(tmp_path: Path, table: StageTable) -> None:
    save_table(table, tmp_path / "stages.parquet")
    assert_equal(table, load_table(tmp_path / "stages.parquet"))
    assert [path.name for path in tmp_path.iterdir()] == ["stages.parquet"]


def test_columns_are_the_published_ones(tmp_path: Path) -> None:
    save_table(full_table(), tmp_path / "t.parquet")
    arrow = pq.read_table(tmp_path / "t.parquet")
    for stage in ("small", "exit.1_a", "exit.2_a"):
        for pattern in (
            "output_{}",
            "prediction_{}",
            "energy_{}",
            "random_{}",
            "stat_em_{}",
            "decide_macs_{}",
            "macs_{}",
        ):
            assert pattern.format(stage) in arrow.column_names
    assert {"split", "sample_id", "group", "label", "macs_reference", "length_small", "padded_big-tier"} <= set(
        arrow.column_names
    )
    assert arrow.schema.field("output_small").type == pa.list_(pa.float32(), 3)
    assert arrow.schema.field("energy_small").type == pa.float64()
    about = json.loads(arrow.schema.metadata[b"dial"])
    assert about["schema"] == 1
    assert about["stages"][2] == {"name": "exit.2_a", "tier": "big-tier", "index": 1}


def foreign(rows: int = 12, stages: tuple[str, ...] = ("swift", "big_swift"), **changes: Any) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = {"split": ["test"] * rows, "sample_id": range(100, 100 + rows), "label": random.integers(3, size=rows)}
    for cost, stage in enumerate(stages, start=1):
        frame[f"output_{stage}"] = list(
            random.normal(size=(rows, 3))
        )  # lists of doubles of variable length, as pandas writes
        frame[f"macs_{stage}"] = [cost * 1000] * rows
    frame = pd.DataFrame({**frame, **changes})
    return frame[[column for column in frame if frame[column].notna().any()]]


def loaded(tmp_path: Path, frame: pd.DataFrame, **arguments: Any) -> StageTable:
    arguments = {"costs": "cumulative", "stages": "exits", **arguments}
    frame.to_parquet(tmp_path / "foreign.parquet")
    return load_table(tmp_path / "foreign.parquet", **arguments)


def test_a_foreign_table_gets_what_it_lacks(tmp_path: Path) -> None:
    frame = foreign()
    table = loaded(tmp_path, frame, seed=7)
    assert table.stages == (Stage("swift", "swift", 0), Stage("big_swift", "big_swift", 0))
    assert table.label_names == ("0", "1", "2")
    assert table.metrics == ("accuracy",)
    assert sorted(table.scores) == ["energy", "energy_released", "entropy", "margin", "random", "softmax"]
    for row in range(12):
        for index, stage in enumerate(table.stage_names):
            logits = frame[f"output_{stage}"][row].astype(np.float32).astype(np.float64)
            assert table.predictions[row, index] == max(range(3), key=lambda c: logits[c])
            assert table.scores["energy"][row, index] == pytest.approx(np.log(sum(np.exp(logits))))
    np.testing.assert_array_equal(table.decide_macs, table.macs)
    np.testing.assert_array_equal(table.macs_reference, np.full(12, 2000.0))
    assert table.settings["seed"] == 7
    assert len(curve(table, "energy")) == 13
    save_table(table, tmp_path / "own.parquet")
    assert_equal(table, load_table(tmp_path / "own.parquet"))


def test_what_a_foreign_table_has_is_kept(tmp_path: Path) -> None:
    given = np.linspace(0, 1, 12)
    frame = foreign(
        prediction_swift=[2] * 12,
        prediction_big_swift=[1] * 12,
        energy_swift=given,
        energy_big_swift=given + 1,
        trust_swift=given - 1,
        decide_macs_swift=[900] * 12,
        decide_macs_big_swift=[1900] * 12,
        macs_reference=[1500] * 12,
        stat_em_swift=given,
        stat_em_big_swift=given,
        softmax_swift=given,
        length_swift=[5] * 12,
        group=["g"] * 12,
    )
    table = loaded(tmp_path, frame, metrics=["em", "macro_f1"], label_names=["x", "y", "z"])
    np.testing.assert_array_equal(table.predictions, np.tile([2, 1], (12, 1)))
    np.testing.assert_array_equal(table.scores["energy"], np.stack([given, given + 1], axis=1))
    np.testing.assert_array_equal(table.scores["trust"][:, 0], given - 1)
    assert np.isnan(table.scores["trust"][:, 1]).all()  # the last stage decides nothing
    np.testing.assert_array_equal(table.scores["softmax"][:, 0], given)
    np.testing.assert_array_equal(table.decide_macs[0], [900, 1900])
    assert table.macs_reference[0] == 1500
    assert table.statistics["em"].shape == (12, 2)
    assert table.lengths["swift"].tolist() == [5] * 12
    assert table.label_names == ("x", "y", "z")
    assert curve(table, "trust").quality["em"][0] == pytest.approx(0.5)


def test_foreign_regression_and_tables_without_logits(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = foreign(
        label=random.normal(size=12), output_swift=random.normal(size=12), output_big_swift=random.normal(size=12)
    )
    table = loaded(tmp_path, frame)
    assert not table.task.exact
    assert table.metrics == ("pearson",)
    np.testing.assert_allclose(table.predictions[:, 0], frame["output_swift"], rtol=1e-6)
    frame = foreign().drop(columns=["output_swift", "output_big_swift"])
    frame = frame.assign(prediction_swift=0, prediction_big_swift=frame["label"], conf_swift=random.random(12))
    table = loaded(tmp_path, frame)
    assert sorted(table.scores) == ["conf", "random"]
    assert table.label_names == ("0", "1", "2")
    assert curve(table, "conf").quality["accuracy"][-1] == 1


@pytest.mark.parametrize("column", ["split", "sample_id", "label", "macs_swift", "macs_big_swift"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    with pytest.raises(ValueError, match=rf"`table` must have a column '{column}', but .* has .*Add the column"):
        loaded(tmp_path, foreign().drop(columns=column))
    own = full_table()
    save_table(own, tmp_path / "own.parquet")
    arrow = pq.read_table(tmp_path / "own.parquet").drop_columns(["macs_exit.1_a"])
    pq.write_table(arrow, tmp_path / "own.parquet")
    with pytest.raises(ValueError, match=r"`table` must have a column 'macs_exit\.1_a'"):
        load_table(tmp_path / "own.parquet")


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (
            foreign().drop(columns=["output_swift", "output_big_swift"]),
            ["'output_<stage>', 'prediction_<stage>' or 'text_<stage>'"],
        ),
        (foreign(output_swift=[np.zeros(2)] * 12), ["as many logits at every stage", "[2, 3]"]),
        (
            foreign(output_swift=[np.zeros(3)] * 11 + [np.zeros(2)]),
            ["as many logits in every row", "'output_swift'", "[2, 3]"],
        ),
        (
            foreign(output_swift=[np.zeros(3)] * 11 + [np.full(3, np.nan)]),
            ["`outputs` must be finite", "tier 'swift'", "sample_id 111"],
        ),
        (foreign(label=[0] * 11 + [3]), ["`label` must be 0 to 2", "got 3", "sample_id 111"]),
        (foreign(macs_swift=[1.0] * 11 + [None]), ["no missing values", "'macs_swift'"]),
        (foreign(stages=("a", "b", "c"), trust_a=[0.5] * 12), ["must have a column 'trust_b'"]),
        (foreign(stages=("a b", "c")), ["`name` of a stage", "'a b'"]),
        (foreign(stages=("a", "reference")), ["must not be 'reference'"]),
        (foreign(macs_swift=[1.0] * 11 + [-1.0]), ["`macs` must be finite and above 0", "-1.0", "'swift'", "111"]),
        (foreign(macs_swift=[0.0] * 12), ["`macs` must be finite and above 0", "0.0", "'swift'", "100"]),
        (foreign(macs_reference=[9.0] * 11 + [-2.0]), ["`macs_reference` must be finite", "-2.0", "sample_id 111"]),
        (foreign().drop(columns="output_swift"), ["must have a column 'output_swift'", "Add the column"]),
        (
            foreign(prediction_swift=[0] * 12).drop(columns=["output_swift", "macs_swift"]),
            ["must have a column 'output_swift'", "Add the column"],
        ),
    ],
)
def test_bad_foreign_tables_are_refused_in_one_line(tmp_path: Path, frame: pd.DataFrame, words: list[str]) -> None:
    with pytest.raises(ValueError, match="`") as error:
        loaded(tmp_path, frame)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_costs_that_are_no_numbers_are_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "foreign.parquet"
    arrow = pa.Table.from_pandas(foreign(), preserve_index=False)
    pq.write_table(arrow.append_column("macs_reference", pa.array([1.0] * 11 + [float("nan")])), path)
    with pytest.raises(ValueError, match=r"`macs_reference` must be finite and above 0, but got nan for sample_id 111"):
        load_table(path, costs="cumulative")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = random_table().with_scores(["energy", "energy_released"])
    stages = (Stage("released_a", "x"), Stage("a", "y"))
    with pytest.raises(ValueError, match="but 'energy_released_a' would be two of them"):
        save_table(dataclasses.replace(table, stages=stages, lengths={}), tmp_path / "stages.parquet")
    assert not list(tmp_path.iterdir())


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`table` must be a parquet file, but there is no file"):
        load_table(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("not a table")
    with pytest.raises(ValueError, match=r"`table` must be a parquet file, but .* is none"):
        load_table(tmp_path / "text.parquet")
    save_table(random_table(), tmp_path / "new.parquet")
    arrow = pq.read_table(tmp_path / "new.parquet")
    about = {**json.loads(arrow.schema.metadata[b"dial"]), "schema": 9}
    pq.write_table(arrow.replace_schema_metadata({b"dial": json.dumps(about)}), tmp_path / "new.parquet")
    with pytest.raises(ValueError, match=r"schema up to 3, but .* has 9. Update DIAL"):
        load_table(tmp_path / "new.parquet")


def test_a_disk_that_fills_while_writing_leaves_the_earlier_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stages.parquet"
    save_table(random_table(20), path)

    def full(writer: pq.ParquetWriter, table: pa.Table) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        save_table(random_table(30), path)
    assert [file.name for file in tmp_path.iterdir()] == ["stages.parquet"]
    assert len(load_table(path)) == 20
