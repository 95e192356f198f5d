"""Models computed part by part, several batches at once, against the same rows alone and with all layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModel

from dial.models import MultiExitForSequenceClassification
from dial.models.segments import Groups, segments

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": SIZES,
    "mpnet": SIZES,
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4},
    "deberta-v2": {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
}


class Counted:
    """A segment that notes the shapes that it was given."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.shapes = module, list[tuple[int, ...]]()

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        self.shapes.append(tuple(inputs["input_ids"].shape))
        found: Tensor = self.module(**inputs)
        return found


def model_of(family: str, folder: Path, pooling: Any = "mean") -> tuple[Any, list[Counted]]:
    """A model with three exits, and its parts."""
    torch.manual_seed(1)
    config = CONFIG_MAPPING[family](vocab_size=64, pad_token_id=0, **FAMILIES[family])
    AutoModel.from_config(config).save_pretrained(folder)
    made = MultiExitForSequenceClassification.from_encoder(str(folder), [1, 2, 3], ["a", "b"], pooling=pooling).eval()
    return made, [Counted(part) for part in segments(made)]


def batches(sizes: list[int], random: torch.Generator) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """Batches of rows that become longer, without a mask where none is padded; and the rows alone."""
    encodings, alone, length = [], list[Tensor](), 2
    for size in sizes:
        rows = []
        for place in range(size):
            length += int(place % 3 == 2)
            rows.append(torch.randint(5, 60, (1, length), generator=random))
        ids = torch.nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row[0]) for row in rows], batch_first=True)
        encodings.append({"input_ids": ids} | ({} if mask.all() else {"attention_mask": mask}))
        alone += rows
    return encodings, alone


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_meet_again_answer_as_they_do_alone(family: str, tmp_path: Path) -> None:
    model, parts = model_of(family, tmp_path, "last" if family == "gpt2" else "mean")
    random = torch.Generator().manual_seed(0)
    encodings, alone = batches([4, 4, 4, 3], random)
    encodings.insert(0, {"input_ids": torch.randint(5, 60, (4, 2), generator=random)})  # nothing is padded
    alone = [*encodings[0]["input_ids"].split(1), *alone]
    stops = torch.randint(0, 3, (len(alone),), generator=random)
    seen = dict[tuple[int, int], Tensor]()

    def go_on(exit_index: int, rows: Tensor, logits: Tensor) -> Tensor:
        seen.update({(int(row), exit_index): each for row, each in zip(rows, logits, strict=True)})
        return stops[rows] > exit_index

    with torch.no_grad():
        model.parts = parts
        model.run_together(encodings, go_on)
        model.parts = None
        wanted = [model(row).logits[0] for row in alone]
    assert set(seen) == {(row, index) for row in range(len(alone)) for index in range(int(stops[row]) + 1)}
    for (row, index), logits in seen.items():
        torch.testing.assert_close(logits, wanted[row][index], atol=1e-5, rtol=1e-4)


def test_all_groups_but_the_first_are_whole(tmp_path: Path) -> None:
    model, parts = model_of("bert", tmp_path)
    encodings, alone = batches([4, 4, 4, 4, 2], torch.Generator().manual_seed(0))
    leaves = torch.arange(len(alone)) % 5 == 1  # 4 of 18 rows; all others stay for the second exit
    model.parts = parts
    with torch.no_grad():
        model.run_together(encodings, lambda index, rows, _: ~leaves[rows] if index == 0 else None)
    assert [rows for rows, _ in parts[0].shapes] == [4, 4, 4, 4, 2]
    assert [rows for rows, _ in parts[1].shapes] == [2, 4, 4, 4]
    assert parts[2].shapes == parts[1].shapes  # nobody left


def test_what_a_batch_does_without_is_filled_as_the_model_would() -> None:
    """Without a mask all of a row's tokens are its own, without token types all are of the first text."""
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    first = {"input_ids": ids[:, :2], "attention_mask": torch.ones(2, 2).long(), "token_type_ids": torch.ones(2, 2)}
    groups = Groups([first, {"input_ids": ids}], {"input_ids", "attention_mask", "token_type_ids"})
    groups.take(torch.tensor([True, False, False, True]))
    (joined,) = groups.groups
    assert joined["input_ids"].tolist() == [[5, 6, 0], [8, 9, 10]]
    assert joined["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert joined["token_type_ids"].tolist() == [[1, 1, 0], [0, 0, 0]]


def test_a_part_is_not_asked_where_no_row_is_left(tmp_path: Path) -> None:
    model, parts = model_of("bert", tmp_path)
    encodings, _ = batches([2, 2], torch.Generator().manual_seed(0))
    model.parts = parts
    for nobody in (False, torch.zeros(4, dtype=torch.bool)):
        with torch.no_grad():
            model.run_together(encodings, lambda index, rows, _, nobody=nobody: nobody)
    assert len(parts[0].shapes) == 4 and not parts[1].shapes


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_later_parts_carry_no_embeddings(family: str, tmp_path: Path) -> None:
    model, parts = model_of(family, tmp_path)
    sizes = [sum(weight.numel() for weight in part.module.parameters()) for part in parts]
    words = sum(weight.numel() for weight in model.encoder.embeddings.parameters())
    assert sizes[0] - words == sizes[1] == sizes[2]
