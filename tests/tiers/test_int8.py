"""Int8 layers against integers multiplied in loops; int8 tiers against their float32 selves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dial.costs.counting import tier_costs
from dial.inference.staged import StagedModel
from dial.tiers.loading import build_tier, load_tier, save_tier
from dial.tiers.precision import Int8Linear, missing_route, quantise
from dial.tiers.tier import Tier

LABELS = ["negative", "positive"]
TEXTS = ["a good film", "the plot was dull and the cast is not great", "fine", "so very bad of the film"]
needs_route = pytest.mark.skipif(missing_route() is not None, reason=f"no int8 products here: {missing_route()}")


def in_loops(layer: nn.Linear, inputs: Tensor) -> list[list[float]]:
    """The layer's outputs with weights rounded per output and inputs per row, one product at a time."""

    def rounded(values: list[float]) -> tuple[list[int], float]:
        scale = max(abs(value) for value in values) / 127
        return [round(value / scale) for value in values], scale

    outputs = []
    for row in inputs.tolist():
        ints, scale = rounded(row)
        outputs.append([])
        for weights, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True):
            weight_ints, weight_scale = rounded(weights)
            total = sum(a * b for a, b in zip(ints, weight_ints, strict=True))
            outputs[-1].append(total * scale * weight_scale + bias)
    return outputs


@needs_route
@pytest.mark.parametrize(("rows", "wide", "out"), [(1, 16, 3), (5, 33, 17), (70, 64, 32)])
def test_a_layer_is_what_the_loops_give(rows: int, wide: int, out: int) -> None:
    layer, inputs = nn.Linear(wide, out), 3 * torch.randn(rows, wide)
    found = Int8Linear(layer)(inputs)
    torch.testing.assert_close(found, torch.tensor(in_loops(layer, inputs)), rtol=1e-5, atol=1e-5)
    # And so it is near to the layer itself: half a step of input and weight for each product.
    step = inputs.abs().amax(1, keepdim=True) / 254 * layer.weight.abs().sum(1)
    step = step + inputs.abs().sum(1, keepdim=True) * layer.weight.abs().amax(1) / 254
    assert ((found - layer(inputs)).abs() <= 1.01 * step + 1e-5).all()


@needs_route
def test_a_token_depends_on_no_other_token() -> None:
    layer, inputs = Int8Linear(nn.Linear(48, 20)), torch.randn(4, 6, 48)
    inputs[2] *= 1000  # a neighbour that would take all the precision of a shared scale
    together = layer(inputs)
    assert together.shape == (4, 6, 20) and together.dtype == torch.float32
    for row in range(4):
        for token in range(6):
            assert torch.equal(layer(inputs[row, token]), together[row, token])


@needs_route
def test_extremes() -> None:
    layer = nn.Linear(64, 8)
    nn.init.constant_(layer.weight, 0.5)  # 127 each: the largest sums, which overflow where 16 bits add up pairs
    short = Int8Linear(layer)
    ones = torch.ones(2, 64)
    ones[1] *= -1
    torch.testing.assert_close(short(ones), layer(ones))
    torch.testing.assert_close(short(torch.zeros(3, 64)), layer(torch.zeros(3, 64)))
    assert short(torch.zeros(0, 64)).shape == (0, 8)
    for wrong in (float("nan"), float("inf")):
        broken = torch.ones(2, 64)
        broken[0, 3] = wrong
        outputs = short(broken)
        assert not torch.isfinite(outputs[0]).any() and torch.isfinite(outputs[1]).all()


def test_quantise_keeps_the_largest() -> None:
    values, scale = quantise(torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]))
    assert values.tolist() == [[64, -127, 32], [0, 0, 0]]  # halves to even: 63.5 is 64
    assert scale[0].item() == pytest.approx(2 / 127)


def encode(tier: Tier, texts: list[str]) -> dict[str, Tensor]:
    return dict(tier.tokenizer(texts, padding=True, return_tensors="pt"))


def views(folder: Path, *dtypes: str) -> list[Tier]:
    return [load_tier({"path": str(folder), "dtype": dtype}, f"tier-{dtype}", LABELS) for dtype in dtypes]


@needs_route
def test_a_view_in_int8(tiny_bert: Path) -> None:
    whole, short = views(tiny_bert, "float32", "int8")
    assert {type(m) for n, m in short.model.bert.named_modules() if "dense" in n and "pooler" not in n} == {Int8Linear}
    assert type(short.model.classifier) is nn.Linear and type(short.model.bert.pooler.dense) is nn.Linear
    count = [sum(p.numel() for p in tier.model.parameters()) for tier in (whole, short)]
    assert count[0] == count[1]
    assert tier_costs(whole, [3, 9, 30])[0] == tier_costs(short, [3, 9, 30])[0]
    before = short.fingerprint
    assert before != whole.fingerprint
    exact, near = whole(encode(whole, TEXTS)), short(encode(short, TEXTS))
    assert short.fingerprint == before
    difference = (exact - near).abs().max().item()
    assert 0 < difference < 0.05 * exact.abs().max().item()
    again = copy.deepcopy(short)
    assert torch.equal(again(encode(short, TEXTS)), near)


@needs_route
def test_a_row_of_a_tier_is_the_same_in_any_batch(make_tiny_bert: Callable[..., Path]) -> None:
    folder = make_tiny_bert(hidden_size=64, intermediate_size=128, initializer_range=0.1)
    (tier,) = views(folder, "int8")
    together = tier(encode(tier, TEXTS))
    for row, text in enumerate(TEXTS):
        # Attention in float32 rounds differently with padding; a value on the edge of two integers may then change.
        assert (tier(encode(tier, [text]))[0] - together[row]).abs().max() < 0.01


@needs_route
def test_one_folder_in_two_views_is_a_cascade(tiny_bert: Path) -> None:
    short, whole = views(tiny_bert, "int8", "float32")
    network = StagedModel([short, whole])
    encodings = {whole.encoding_key: encode(whole, TEXTS)}
    both = network(encodings)
    assert both.shape == (4, 2, 2)
    unsure = torch.tensor([True, False, True, False])
    outputs, stage = network.run(encodings, lambda index, rows, logits: unsure[rows])
    assert stage.tolist() == [1, 0, 1, 0]
    assert (outputs[unsure] - both[unsure, 1]).abs().max() < 1e-5
    assert (outputs[~unsure] - both[~unsure, 0]).abs().max() < 1e-5


def test_what_has_no_linear_layers_is_refused(tmp_path: Path) -> None:
    tier = build_tier({"model_type": "bilstm", "vocab_size": 30}, "words", LABELS, max_length=8)
    tier.fit_tokenizer(lambda: TEXTS)
    save_tier(tmp_path / "bilstm", tier, {})
    with pytest.raises(ValueError, match=r"`tiers\[0\]`: `dtype` int8 is for encoders made of linear layers"):
        load_tier({"path": str(tmp_path / "bilstm"), "dtype": "int8"}, "swift", LABELS, "tiers[0]")


def test_a_machine_without_the_route_is_told(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dial.tiers.precision.missing_route", lambda: "8-bit products overflow")
    with pytest.raises(
        ValueError, match=r"`super`: `dtype` int8 needs exact 8-bit .*overflow.* take bfloat16"
    ) as error:
        load_tier({"path": str(tiny_bert), "dtype": "int8"}, "super", LABELS, "super")
    assert "\n" not in str(error.value)


def test_int8_is_not_trained(tiny_bert: Path) -> None:
    with pytest.raises(ValueError, match="`path`: `dtype` must be float32 or bfloat16 for training"):
        load_tier({"path": str(tiny_bert), "dtype": "int8"}, "model", LABELS, train=True)


@needs_route
def test_under_autocast(tiny_bert: Path) -> None:
    (tier,) = views(tiny_bert, "int8")
    encoding: dict[str, Any] = encode(tier, TEXTS)
    plain = tier(encoding)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = tier(encoding)
    assert mixed.dtype == torch.float32 and (mixed - plain).abs().max() < 0.1
