"""The staged contract: `forward` for everybody, `run` for those that go on, with a toy tier of three exits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dial.inference.staged import StagedModel, take_rows
from dial.tiers.contract import TierContract
from dial.tiers.loading import build_tier
from dial.tiers.tier import Tier

CLASSES = ["a", "b", "c"]


class ThreeExits(TierContract):
    """A stack of three blocks over the mean of the word embeddings, with a head after each; drops rows that leave."""

    def __init__(self, name: str = "toy", key: str = "words") -> None:
        super().__init__()
        self.name, self.encoding_key, self.label_names = name, key, CLASSES
        self.exits = ["1", "2", "3"]
        self.table = nn.Embedding(50, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in self.exits)
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in self.exits)
        self.computed: list[int] = [0, 0, 0]
        self.widths: list[int] = []

    def embed(self, encoding: dict[str, Tensor]) -> Tensor:
        mask = encoding["attention_mask"].unsqueeze(-1)
        self.widths.append(mask.shape[1])
        return (self.table(encoding["input_ids"]) * mask).sum(dim=1) / mask.sum(dim=1)

    def forward(self, encoding: dict[str, Tensor]) -> Tensor:
        hidden, outputs = self.embed(encoding), []
        for block, head in zip(self.blocks, self.heads, strict=True):
            hidden = block(hidden).tanh()
            outputs.append(head(hidden))
        return torch.stack(outputs, dim=1)

    def run(
        self, encoding: dict[str, Tensor], go_on: Callable[[int, Tensor, Tensor], Tensor], scores: bool = False
    ) -> None:
        hidden = self.embed(encoding)
        rows = torch.arange(len(hidden))
        for index, (block, head) in enumerate(zip(self.blocks, self.heads, strict=True)):
            hidden = block(hidden).tanh()
            self.computed[index] += len(hidden)
            keep = go_on(index, rows, head(hidden))
            hidden, rows = hidden[keep], rows[keep]
            if len(rows) == 0:
                return


@pytest.fixture
def encoder() -> Tier:
    config = {
        "model_type": "bert",
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "intermediate_size": 32,
    }
    config |= {"num_attention_heads": 2, "initializer_range": 0.3}
    tier = build_tier(config, "words", CLASSES, max_length=32, name="super")
    tier.fit_tokenizer(lambda: ["one two three four"])
    return tier.eval()


def batch_of(*keys: str) -> dict[str, dict[str, Tensor]]:
    """Nine rows of 1 to 9 tokens, padded; other tokens for each key."""
    encodings = {}
    for shift, key in enumerate(keys):
        ids = torch.randint(4, 50, (9, 9), generator=torch.Generator().manual_seed(shift))
        mask = (torch.arange(9) <= torch.tensor([3, 8, 0, 5, 1, 7, 2, 6, 4]).unsqueeze(1)).long()
        encodings[key] = {"input_ids": ids * mask, "attention_mask": mask}
    return encodings


def by_plan(plan: list[int], seen: list[tuple[int, list[int]]]) -> Callable[[int, Tensor, Tensor], Tensor]:
    """A rule that lets row ``i`` go on until stage ``plan[i]``, and notes what it is asked."""

    def go_on(stage: int, rows: Tensor, outputs: Tensor) -> Tensor:
        assert outputs.shape == (len(rows), 3)
        seen.append((stage, rows.tolist()))
        return torch.tensor([plan[row] > stage for row in rows.tolist()], dtype=torch.bool)

    return go_on


def cascades(encoder: Tier) -> dict[str, list[Any]]:
    toy = ThreeExits()
    return {"one exit": [encoder], "three exits": [toy], "toy, super": [toy, encoder], "super, toy": [encoder, toy]}


@pytest.mark.parametrize("kind", ["one exit", "three exits", "toy, super", "super, toy"])
@torch.no_grad()
def test_run_equals_forward_and_replay(kind: str, encoder: Tier) -> None:
    tiers = cascades(encoder)[kind]
    model = StagedModel(tiers).eval()
    count = len(model.stages)
    encodings = batch_of(*(tier.encoding_key for tier in tiers))
    everything = model(encodings)
    assert everything.shape == (9, count, 3) and everything.dtype == torch.float32
    plan = [row % count for row in [0, 3, 1, 2, 3, 1, 0, 2, 3]]
    seen: list[tuple[int, list[int]]] = []
    outputs, stage = model.run(encodings, by_plan(plan, seen))
    assert stage.tolist() == plan
    for row in range(9):  # the replay, row by row
        torch.testing.assert_close(outputs[row], everything[row, plan[row]], atol=1e-5, rtol=1e-5)
    expected = [(s, [row for row in range(9) if plan[row] >= s]) for s in range(count - 1)]
    assert [asked for asked in seen if asked[1]] == [asked for asked in expected if asked[1]]


@torch.no_grad()
def test_rows_are_computed_only_where_needed_and_trimmed(encoder: Tier) -> None:
    toy = ThreeExits()
    model = StagedModel([toy, encoder])
    shapes: list[tuple[int, ...]] = []
    encoder.model.register_forward_pre_hook(
        lambda _module, _args, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    encodings = batch_of("words", encoder.encoding_key)
    plan = [3, 0, 3, 1, 3, 2, 0, 1, 0]  # rows 0, 2 and 4, of 4, 1 and 2 tokens, reach the encoder
    model.run(encodings, by_plan(plan, []))
    assert toy.computed == [9, 6, 4]
    assert shapes == [(3, 4)]


@torch.no_grad()
def test_a_tier_that_nobody_reaches_is_not_computed(encoder: Tier) -> None:
    model = StagedModel([ThreeExits(), encoder])
    encoder.model.register_forward_pre_hook(lambda *_: pytest.fail("nobody asked for this tier"))
    _, stage = model.run(batch_of("words", encoder.encoding_key), by_plan([0, 1, 2] * 3, []))
    assert stage.tolist() == [0, 1, 2] * 3


@torch.no_grad()
def test_three_tiers_of_which_one_has_three_exits(encoder: Tier) -> None:
    first, last = ThreeExits("first", "x"), ThreeExits("last", "y")
    model = StagedModel([first, encoder, last])
    assert [(s.name, s.tier, s.index) for s in model.stages] == [
        *(("first.1", "first", 0), ("first.2", "first", 1), ("first.3", "first", 2)),
        ("super", "super", 0),
        *(("last.1", "last", 0), ("last.2", "last", 1), ("last.3", "last", 2)),
    ]
    encodings = batch_of("x", encoder.encoding_key, "y")
    plan = [6, 3, 0, 5, 4, 1, 6, 2, 3]
    outputs, stage = model.run(encodings, by_plan(plan, []))
    assert stage.tolist() == plan
    torch.testing.assert_close(outputs, model(encodings)[torch.arange(9), plan], atol=1e-5, rtol=1e-5)
    assert last.computed == [4, 3, 2]


def test_take_rows_trims_on_the_right_only() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    encoding = {"input_ids": mask * 7, "attention_mask": mask}
    assert take_rows(encoding, torch.tensor([1]))["input_ids"].tolist() == [[0, 7]]
    assert take_rows(encoding, torch.tensor([2]))["input_ids"].tolist() == [[0]]
    assert take_rows(encoding, torch.tensor([2, 0]))["attention_mask"].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert take_rows(encoding, None) is encoding


def test_names_and_labels_are_checked(encoder: Tier) -> None:
    with pytest.raises(ValueError, match="`tiers` must be one or more tiers"):
        StagedModel([])
    with pytest.raises(ValueError, match=r"names of their own, but got \['super', 'super'\]"):
        StagedModel([encoder, encoder])
    other = ThreeExits()
    other.label_names = ["a", "b"]
    with pytest.raises(ValueError, match=r"same labels, but super has .* and toy has"):
        StagedModel([encoder, other])
