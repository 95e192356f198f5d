"""What exits read: the first token, the last one, or the mean over the tokens, padding left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dial.costs.macs import count_macs
from dial.models import MultiExitConfig, MultiExitForSequenceClassification
from dial.models.pooling import Reader
from dial.tiers.multi_exit import LastExit

BERT = {"model_type": "bert", "vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
BERT |= {"intermediate_size": 12, "initializer_range": 0.3, "max_position_embeddings": 12}
LENGTHS = (7, 3, 5, 7)


def model(pooling: Any = "mean", **settings: Any) -> MultiExitForSequenceClassification:
    torch.manual_seed(0)
    config = MultiExitConfig(encoder=BERT, num_labels=2, pooling=pooling, **settings)
    return MultiExitForSequenceClassification(config).eval()


def batch() -> tuple[Tensor, Tensor]:
    mask = torch.tensor([[1] * length + [0] * (7 - length) for length in LENGTHS])
    return torch.randint(1, 30, mask.shape, generator=torch.Generator().manual_seed(2)) * mask, mask


@torch.no_grad()
def test_exits_read_the_mean_over_the_tokens_of_each_row() -> None:
    built = model()
    ids, mask = batch()
    output = built(ids, mask, output_hidden_states=True)
    for row, length in enumerate(LENGTHS):
        for layer, head in enumerate(built.heads, 1):
            states = [output.hidden_states[layer][row, position] for position in range(length)]
            expected = head.linear(sum(states) / length)
            torch.testing.assert_close(output.logits[row, layer - 1], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_padding_and_neighbours_change_nothing() -> None:
    built = model()
    ids, mask = batch()
    together = built(ids, mask).logits
    for row, length in enumerate(LENGTHS):
        alone = built(ids[row : row + 1, :length]).logits[0]  # no mask: nothing is padded
        torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rows_that_go_on_keep_their_own_mask() -> None:
    built = model()
    ids, mask = batch()
    whole, seen = built(ids, mask).logits, []

    def go_on(index: int, rows: Tensor, logits: Tensor) -> Tensor:
        torch.testing.assert_close(logits, whole[rows, index], rtol=1e-5, atol=1e-5)
        seen.append(rows.tolist())
        return rows != index  # row 0 leaves first, then row 1

    built.run({"input_ids": ids, "attention_mask": mask}, go_on)
    assert seen == [[0, 1, 2, 3], [1, 2, 3], [2, 3]]


def test_the_choice_is_saved_and_kept(tmp_path: Path) -> None:
    built = model()
    built.save_pretrained(tmp_path)
    again = MultiExitForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.config.pooling == "mean"
    assert MultiExitForSequenceClassification.from_encoder(again).config.pooling == "mean"
    assert MultiExitForSequenceClassification.from_encoder(again, pooling="first").config.pooling == "first"
    with torch.no_grad():
        torch.testing.assert_close(again(*batch()).logits, built(*batch()).logits)


def test_the_mean_costs_no_products_of_matrices() -> None:
    example = {"input_ids": batch()[0][:1], "attention_mask": batch()[1][:1]}
    counts = [count_macs(LastExit(model(pooling)), example) for pooling in ("first", "mean")]
    assert counts[0] == counts[1] > 0


def test_a_mask_that_does_not_say_what_is_padding_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`attention_mask` must be \(B, T\) where exits read the mean"):
        model()(batch()[0], torch.zeros(4, 1, 7, 7))


def test_another_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="`pooling` must be one of first, last, mean, but got 'max'"):
        model("max")


@pytest.mark.parametrize("padded", ["right", "left", "both", None])
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_padding_on_either_side_is_not_read(pooling: Any, padded: str | None) -> None:
    hidden = torch.randn(4, 7, 3)
    real = {
        "right": [(0, 7), (0, 2), (0, 5), (0, 1)],
        "left": [(0, 7), (5, 7), (1, 7), (6, 7)],
        "both": [(1, 6), (0, 3), (2, 7), (4, 5)],
        None: [(0, 7)] * 4,
    }[padded]
    mask = torch.tensor([[int(start <= place < end) for place in range(7)] for start, end in real])
    expected = []
    for row, (start, end) in enumerate(real):
        states = [hidden[row, place] for place in range(start, end)]
        expected.append({"first": states[0], "last": states[-1], "mean": sum(states) / len(states)}[pooling])
    read = Reader(None if padded is None else mask, pooling)
    torch.testing.assert_close(read(hidden), torch.stack(expected))
    rows = torch.tensor([3, 0])
    torch.testing.assert_close(read(hidden[rows], rows), torch.stack(expected)[rows])
