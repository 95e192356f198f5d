"""Rows of a table that are taken, lent to a fold, read by column and written by row group are the table's rows."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dial.stages import parquet
from dial.stages.parquet import load_table, save_table
from dial.stages.rows import is_constant
from tests.stages.tables import random_table


def same(one: object, other: object) -> None:
    """Whether arrays, or mappings of them, are equal in all bits and of one type."""
    if hasattr(one, "keys"):
        assert list(one) == list(other)  # type: ignore[call-overload]
        for name in one:  # type: ignore[attr-defined]
            same(one[name], other[name])  # type: ignore[index]
    else:
        np.testing.assert_array_equal(one, other)
        assert np.asarray(one).dtype.kind == np.asarray(other).dtype.kind


@pytest.mark.parametrize("rows", [[2, 0, 5], [0, 3], slice(2, 7)])
def test_taken_and_lent_rows_are_those_of_each_column(rows: list[int] | slice) -> None:
    table = random_table(20).with_scores(["energy", "softmax"])
    index = rows if isinstance(rows, slice) else np.array(rows)
    parts = [table.take(index)] + ([] if isinstance(index, slice) else [table.fold(index)])
    for part in parts:
        assert len(part) == len(table.label[index])
        for name in ("split", "sample_id", "label", "predictions", "macs", "decide_macs", "macs_reference", "outputs"):
            same(getattr(part, name), getattr(table, name)[index])
        same(part.scores, {name: values[index] for name, values in table.scores.items()})


def test_all_rows_in_their_order_are_the_table_itself() -> None:
    table = random_table(20)
    assert table.take(np.arange(20)) is table and table.take(np.ones(20, bool)) is table
    assert table.take(np.arange(20)[::-1]) is not table and table.of_split(table.splits[0]).splits == table.splits[:1]


def test_row_groups_are_read_as_the_table_that_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = random_table(25).with_scores(["energy", "entropy"])
    monkeypatch.setattr(parquet, "ROW_GROUP", 7)
    save_table(table, tmp_path / "groups.parquet")
    assert pq.ParquetFile(tmp_path / "groups.parquet").num_row_groups == 4
    again = load_table(tmp_path / "groups.parquet")
    for name in ("split", "sample_id", "label", "predictions", "macs", "decide_macs", "macs_reference", "outputs"):
        same(getattr(again, name), getattr(table, name))
    same(again.scores, table.scores)
    assert is_constant(again.split) == (len(table.splits) == 1)


def test_scores_of_many_rows_are_those_of_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    table = random_table(50)
    whole = table.with_scores(["energy", "margin", "entropy"]).scores
    monkeypatch.setattr("dial.stages.table.AT_ONCE", 7)
    same(table.with_scores(["energy", "margin", "entropy"]).scores, whole)
