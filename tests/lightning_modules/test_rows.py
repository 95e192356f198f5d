"""Rows are counted once, whatever the batches and processes."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dial.stages.task import task_of
from lightning_modules import rows as gathering
from lightning_modules.base import StagedModule
from lightning_modules.rows import RowGatherer, each_once


def batch(ids: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"sample_id": ids, "label": labels, "logits": logits}


def quality(names: list[str], metrics: list[str], *batches: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    gatherer, module = RowGatherer(), StagedModule(names, metrics)
    for each in batches:
        gatherer.add(each)
    return module.quality_of_exits(each_once(gatherer.gather()[""]))


def test_repeats_are_dropped_when_ranks_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = torch.randn(5, 1, 3), torch.randint(3, (5,))
    ids = torch.tensor([7, 3, 9, 1, 4])
    whole, rank0, rank1 = RowGatherer(), RowGatherer(), RowGatherer()
    whole.add(batch(ids, labels, logits))
    expected = each_once(whole.gather()[""])
    for places, part in (([0, 2, 4], rank0), ([1, 3, 0], rank1)):  # row 0 comes twice, to fill the round
        part.add(batch(ids[places], labels[places], logits[places]))
    monkeypatch.setattr(gathering, "gather", lambda own: pickle.loads(pickle.dumps([own, dict(rank1._batches)])))
    merged = each_once(rank0.gather()[""])
    for name, values in expected.items():
        np.testing.assert_array_equal(merged[name], values)
    assert merged["sample_id"].tolist() == [1, 3, 4, 7, 9] and rank0._batches == {}


def test_rows_of_one_id_and_several_parts_are_all_kept() -> None:
    logits = torch.arange(4.0).reshape(4, 1, 1)
    rows = batch(torch.tensor([5, 2, 5, 5]), torch.zeros(4), logits) | {"part": torch.tensor([1, 0, 0, 1])}
    rows["logits"][3] = 0.0  # the repeat of the first
    gatherer = RowGatherer()
    gatherer.add(rows)
    kept = each_once(gatherer.gather()[""])
    assert list(zip(kept["sample_id"].tolist(), kept["part"].tolist(), strict=True)) == [(2, 0), (5, 0), (5, 1)]


def test_metric_counts_every_row_once() -> None:
    right, wrong = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    rows = [(0, right), (1, wrong), (0, right), (0, right)]
    batches = [batch(torch.tensor([sample_id]), torch.tensor([1]), output) for sample_id, output in rows]
    assert quality(["no", "yes"], ["accuracy"], *batches) == {"accuracy": [0.5]}


def test_regression_predicts_the_output() -> None:
    logits = torch.tensor([[0.0], [2.0], [4.0], [7.0]])[:, None]
    (pearson,) = quality([], ["pearson"], batch(torch.arange(4), torch.tensor([0.0, 1.0, 2.0, 3.5]), logits))["pearson"]
    assert abs(pearson - 1.0) < 1e-12 and task_of([]).name == "regression"


def test_rows_that_share_an_id_are_no_repeats() -> None:
    first = batch(torch.tensor([4, 5]), torch.tensor([1, 0]), torch.tensor([[[0.0, 2.0]], [[1.0, -1.0]]]))
    second = batch(torch.tensor([4]), torch.tensor([0]), torch.tensor([[[0.0, 2.0]]]))
    with pytest.raises(ValueError, match=r"`sample_id` must be unique, but got 4 with different labels. Number"):
        quality(["no", "yes"], ["accuracy"], first, second)


def test_a_repeat_that_comes_out_otherwise_is_told_and_the_first_counts() -> None:
    first = batch(torch.tensor([4, 5]), torch.tensor([1, 0]), torch.tensor([[[0.0, 2.0]], [[1.0, -1.0]]]))
    second = batch(torch.tensor([4]), torch.tensor([1]), torch.tensor([[[2.0, 0.0]]]))
    with pytest.warns(UserWarning, match="1 of 1 repeated rows have other outputs than in another batch"):
        assert quality(["no", "yes"], ["accuracy"], first, second) == {"accuracy": [1.0]}


def test_what_is_logged_lies_where_the_module_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process group of NCCL alone refuses numbers on the CPU."""
    module = StagedModule(["no", "yes"], ["accuracy", "f1"]).to("meta")
    seen: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(module, "log_dict", lambda values, **_: seen.update(values))
    module._trainer = SimpleNamespace(is_global_zero=False)
    module.validation_rows.add(batch(torch.arange(4), torch.tensor([0, 1, 0, 1]), torch.randn(4, 1, 2)))
    module.on_validation_epoch_end()
    assert set(seen) == {"validation/accuracy", "validation/f1", "validation/quality"}
    assert {value.device.type for value in seen.values()} == {"meta"}
