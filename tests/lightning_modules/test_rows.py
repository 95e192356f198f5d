"""Rows are counted once, whatever the batches and processes."""

import numpy as np
import pytest
import torch

from lightning_modules.rows import DistinctRows


def test_repeats_are_dropped_when_ranks_merge() -> None:
    outputs, labels = torch.randn(5, 3), torch.randint(3, (5,))
    ids = torch.tensor([7, 3, 9, 1, 4])
    whole, rank0, rank1 = DistinctRows(3), DistinctRows(3), DistinctRows(3)
    whole.update(ids, labels, outputs)
    for rows, part in (([0, 2, 4], rank0), ([1, 3, 0], rank1)):  # row 0 comes twice, to fill the round
        part.update(ids[rows], labels[rows], outputs[rows])
    rank0.merge_state(rank1)
    for merged, expected in zip(rank0.compute(), whole.compute(), strict=True):
        np.testing.assert_array_equal(merged, expected)


def test_metric_counts_every_row_once() -> None:
    rows = DistinctRows(2)
    right, wrong = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    for sample_id, output in ((0, right), (1, wrong), (0, right), (0, right)):
        rows.update(torch.tensor([sample_id]), torch.tensor([1]), output)
    assert rows.evaluate(["accuracy"]) == {"accuracy": 0.5}


def test_regression_predicts_the_output() -> None:
    rows = DistinctRows(1)
    rows.update(torch.arange(4), torch.tensor([0.0, 1.0, 2.0, 3.5]), torch.tensor([[0.0], [2.0], [4.0], [7.0]]))
    assert abs(rows.evaluate(["pearson"])["pearson"] - 1.0) < 1e-12


@pytest.mark.parametrize("what", ["label", "output"])
def test_rows_that_share_an_id_are_no_repeats(what: str) -> None:
    rows = DistinctRows(2)
    rows.update(torch.tensor([4, 5]), torch.tensor([1, 0]), torch.tensor([[0.0, 2.0], [1.0, -1.0]]))
    label, output = (0, [0.0, 2.0]) if what == "label" else (1, [0.0, 1.0])
    rows.update(torch.tensor([4]), torch.tensor([label]), torch.tensor([output]))
    with pytest.raises(ValueError, match=f"`sample_id` must be unique, but got 4 with different {what}s. Number"):
        rows.evaluate(["accuracy"])
