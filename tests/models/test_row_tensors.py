"""Which tensors follow the batch: learnt from passes of two and of three rows, never from a size at work."""

from __future__ import annotations

import pytest
import torch

from dial.models import MultiExitForSequenceClassification
from dial.models.exits import RowTensors, UnsuitableEncoderError
from tests.models.families import classifier


def learnt(few: tuple[int, ...], many: tuple[int, ...]) -> RowTensors:
    tensors = RowTensors()
    tensors.compare({("x", 0): torch.zeros(few)}, {("x", 0): torch.zeros(many)})
    return tensors


def test_what_follows_the_batch_is_cut_and_nothing_else() -> None:
    rows = torch.tensor([0, 2])
    value = {"x": (torch.arange(12.0).view(4, 3), None, "text")}
    cut = learnt((2, 3), (3, 3)).take(value, 4, rows)
    assert cut["x"][0].tolist() == [[0, 1, 2], [6, 7, 8]] and cut["x"][1:] == (None, "text")
    assert learnt((4, 3), (4, 3)).take(value, 4, rows)["x"][0] is value["x"][0]  # as many entries as rows, by chance
    shared = {"x": [torch.zeros(1, 5), torch.zeros(())]}
    assert learnt((2, 3), (3, 3)).take(shared, 4, rows)["x"][0] is shared["x"][0]  # broadcast


def test_what_comes_from_the_layer_before_is_cut_already() -> None:
    value = {"x": [torch.zeros(2, 3)]}
    assert learnt((2, 3), (3, 3)).take(value, 4, torch.tensor([0, 2]))["x"][0] is value["x"][0]


@pytest.mark.parametrize("size", [2, 5])
def test_a_tensor_that_was_not_there_is_refused(size: int) -> None:
    tensors = learnt((2, 3), (3, 3))
    with pytest.raises(UnsuitableEncoderError, match=r"argument y is a tensor \(2, 4\) for 4 rows"):
        tensors.take({"y": torch.zeros(2, 4)}, 4, torch.tensor([0]))
    with pytest.raises(UnsuitableEncoderError, match=rf"argument x\.0 is a tensor \({size},\) for 4 rows"):
        tensors.take({"x": [torch.zeros(size)]}, 4, torch.tensor([0]))


def test_dimensions_that_follow_the_batch_in_another_way_are_refused() -> None:
    with pytest.raises(UnsuitableEncoderError, match=r"argument x\.0 has 8 entries for 2 rows and 12 for 3"):
        learnt((8, 1), (12, 1))
    tensors = learnt((2, 3), (3, 3))
    with pytest.raises(UnsuitableEncoderError, match=r"first dimension of argument x\.0 is not always the batch"):
        tensors.compare({("x", 0): torch.zeros(7)}, {("x", 0): torch.zeros(7)})


@pytest.mark.parametrize(
    ("name", "rows", "others"),
    [
        ("bert", {(0,), (1,), ("output",)}, set()),
        ("deberta-v2", {(0,), (1,), ("output", 0)}, {("rel_embeddings",)}),
        ("gpt2", {(0,)}, set()),
    ],
)
def test_the_tensors_of_real_layers(name: str, rows: set[tuple], others: set[tuple]) -> None:
    tensors = MultiExitForSequenceClassification.from_encoder(classifier(name)).row_tensors
    assert tensors.rows >= rows and tensors.others >= others


def test_another_attention_is_looked_at_anew() -> None:
    model = MultiExitForSequenceClassification.from_encoder(classifier("bert"))
    first = model.row_tensors
    assert model.row_tensors is first
    model.set_attn_implementation("eager")
    assert model.row_tensors is not first
    assert model.first_exits(1).row_tensors is model.row_tensors
