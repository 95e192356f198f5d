"""MPNet, whose layers share a relative position bias, against transformers' own outputs: cut, with exits, slender."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from dial.inference.executor import Executor
from dial.inference.staged import StagedModel
from dial.models.slender.encoder import cut
from dial.models.slender.structures import attach_masks, masks, structures
from dial.tiers.layers import all_layers, tier_with_exits
from dial.tiers.loading import load_tier, save_tier
from dial.tradeoff.rules import rule_named
from tests.tiers.mpnet import write_mpnet
from tests.tiers.small import texts

NAMES = ["negative", "positive"]
KEPT = {"heads": ([1, 3], [2], [0, 1, 2, 3], [3]), "neurons": ([0, 5, 6], [1, 30], list(range(32)), [7])}


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory) -> Path:
    """With a bias that matters, and other biases than 0."""
    folder = write_mpnet(tmp_path_factory.mktemp("mpnet"), num_attention_heads=4)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.mpnet.encoder.relative_attention_bias.weight.normal_(std=2.0)
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def batch(tier) -> dict[str, torch.Tensor]:
    rows = ["the film was good", "dull", "a very very fine cast and a great plot"]
    return dict(tier.tokenizer(rows, padding=True, return_tensors="pt"))


@torch.no_grad()
def test_first_layers_are_those_of_transformers(mpnet: Path) -> None:
    tier = load_tier({"path": str(mpnet), "layers": 2}, "cut", NAMES)
    encoding = batch(tier)
    stock = AutoModelForSequenceClassification.from_pretrained(mpnet, num_hidden_layers=2).eval()
    torch.testing.assert_close(tier(encoding)[:, 0], stock(**encoding).logits)
    whole = AutoModel.from_pretrained(mpnet).eval()(**encoding, output_hidden_states=True).hidden_states
    torch.testing.assert_close(stock.mpnet(**encoding).last_hidden_state, whole[2])


@torch.no_grad()
def test_exits_read_the_layers_of_transformers(mpnet: Path) -> None:
    tier, _ = tier_with_exits(str(mpnet), None, False, None, None, NAMES)
    tier.eval()
    encoding = batch(tier)
    logits, states = all_layers(tier, encoding)
    stock = AutoModel.from_pretrained(mpnet).eval()(**encoding, output_hidden_states=True).hidden_states
    real = encoding["attention_mask"].bool()
    for own, other in zip(states, stock, strict=True):
        torch.testing.assert_close(own[real], other[real], atol=1e-5, rtol=1e-5)
    for number, head in enumerate(tier.model.heads):
        torch.testing.assert_close(logits[:, number], head(stock[number + 1][:, 0]), atol=1e-5, rtol=1e-5)


def slender(mpnet: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A tier with exits, its heads and neurons masked; and the stock encoder with the same columns zeroed by hand."""
    tier, _ = tier_with_exits(str(mpnet), None, False, None, None, NAMES)
    tier.eval()
    attach_masks(tier.model)
    stock = AutoModel.from_pretrained(mpnet).eval()
    with torch.no_grad():
        for axis, mask in zip(structures(tier.model), masks(tier.model), strict=True):
            keep = KEPT[axis.kind][axis.layer]
            mask.zero_()[keep] = 1
            layer = stock.encoder.layer[axis.layer]
            weight = (layer.attention.attn.o if axis.kind == "heads" else layer.output.dense).weight
            for index in set(range(axis.count)) - set(keep):
                weight[:, index * axis.size : (index + 1) * axis.size] = 0
    return tier, stock


def test_slender_layers_keep_the_bias_of_their_own_heads(mpnet: Path, tmp_path: Path) -> None:
    tier, stock = slender(mpnet)
    encoding = batch(tier)
    real = encoding["attention_mask"].bool()
    with torch.no_grad():
        expected = stock(**encoding, output_hidden_states=True).hidden_states
        masked = all_layers(tier, encoding)[1]
        tier.model = cut(tier.model)
        saved = save_tier(tmp_path / "tier", tier, {})
        loaded = load_tier(str(saved), "model", NAMES)
        for name, states in (("masked", masked), ("cut", all_layers(tier, encoding)[1])):
            for own, other in zip(states, expected, strict=True):
                torch.testing.assert_close(own[real], other[real], atol=1e-5, rtol=1e-5, msg=name)
        torch.testing.assert_close(loaded(encoding), tier(encoding))
        auto = AutoModelForSequenceClassification.from_pretrained(saved).eval()
        torch.testing.assert_close(auto(**encoding).logits, tier(encoding))
    assert AutoConfig.from_pretrained(saved).heads == [2, 1, 4, 1]
    attention = loaded.model.encoder.encoder.layer[0].attention.attn
    assert attention.q.weight.shape == (12, 24) and attention.bias_heads.tolist() == [1, 3]


def test_rows_that_leave_a_slender_model_change_nothing(mpnet: Path, tmp_path: Path) -> None:
    tier, _ = slender(mpnet)
    tier.model = cut(tier.model)
    network = StagedModel([load_tier(str(save_tier(tmp_path / "tier", tier, {})), "model", NAMES)])
    units = [" ".join(words) for words in zip(texts(24), texts(24, seed=1), strict=True)]
    with torch.no_grad():
        alone = np.array(
            [network({tier.encoding_key: batch_of(tier, unit)})[0].softmax(-1).max(-1)[0] for unit in units]
        )
    thresholds = tuple(np.median(alone, axis=0)[:-1])
    stages = tuple(stage.name for stage in network.stages)
    rule = rule_named("per_stage", "softmax", stages=stages, thresholds=thresholds)
    answers = list(Executor(network, rule, 8).run(units))
    expected = [next((s for s in range(3) if row[s] >= thresholds[s]), 3) for row in alone]
    assert [answer.stage for answer in answers] == expected and len(set(expected)) > 2


def batch_of(tier, text: str) -> dict[str, torch.Tensor]:
    return dict(tier.tokenizer(text, return_tensors="pt"))
