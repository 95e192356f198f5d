"""Heads compute in float32 under autocast, for classes that keep head and encoder apart in different ways."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dial.tiers.loading import build_tier
from dial.tiers.tier import Tier

SMALL = {"vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "roberta": SMALL,
    "electra": {**SMALL, "embedding_size": 8},
    "modernbert": SMALL,
    "distilbert": {"vocab_size": 30, "dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 32},
    "bilstm": {"vocab_size": 30},
}


def make(model_type: str) -> Tier:
    tier = build_tier({"model_type": model_type, **CONFIGS[model_type]}, "words", ["a", "b", "c"], max_length=16)
    tier.fit_tokenizer(lambda: ["one two three four", "five six"])
    return tier.eval()


def encode(tier: Tier) -> dict[str, torch.Tensor]:
    return dict(tier.tokenizer(["one two three", "four"], padding=True, return_tensors="pt"))


def record_linears(module: nn.Module) -> dict[str, torch.dtype]:
    """Dtype in which each linear layer of ``module`` gave its output."""
    seen: dict[str, torch.dtype] = {}

    def remember(name: str) -> Callable[..., None]:
        return lambda _module, _args, output: seen.__setitem__(name, output.dtype)

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(remember(name))
    return seen


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_head_is_float32_under_autocast_and_the_encoder_is_not(model_type: str) -> None:
    tier = make(model_type)
    seen = record_linears(tier.model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = tier(encode(tier))
        assert torch.is_autocast_enabled("cpu")  # left as it was found
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert logits.shape == (2, 1, 3) and logits.dtype == torch.float32
    inside = {name: dtype for name, dtype in seen.items() if name.startswith(tier.model.base_model_prefix + ".")}
    outside = {name: dtype for name, dtype in seen.items() if name not in inside}
    assert outside and set(outside.values()) == {torch.float32}
    assert model_type == "bilstm" or set(inside.values()) == {torch.bfloat16}


@pytest.mark.parametrize("model_type", CONFIGS)
def test_without_autocast_nothing_changes(model_type: str) -> None:
    tier = make(model_type)
    encoding = encode(tier)
    plain = copy.deepcopy(tier.model)
    plain.base_model._forward_hooks.clear()
    plain.base_model._forward_pre_hooks.clear()
    inputs = {key: value for key, value in encoding.items() if key in tier._accepted}
    assert torch.equal(tier(encoding)[:, 0], plain(**inputs).logits)


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_encoder_in_low_precision_has_a_float32_head(model_type: str, dtype: str, tmp_path: Any) -> None:
    from dial.tiers.loading import load_tier, save_tier

    whole = make(model_type)
    save_tier(tmp_path / "model", whole, {})
    low = load_tier({"path": str(tmp_path / "model"), "dtype": dtype}, "low", ["a", "b", "c"])
    encoder = set(map(id, low.model.base_model.parameters()))
    for parameter in low.model.parameters():
        assert parameter.dtype == (getattr(torch, dtype) if id(parameter) in encoder else torch.float32)
    assert all(b.dtype == torch.float32 for b in low.model.buffers() if b.is_floating_point())
    logits = low(encode(low))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, whole(encode(whole)), atol=2e-2, rtol=2e-2)


def test_gradients_reach_the_encoder_under_autocast() -> None:
    tier = make("bert").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = tier(encode(tier)).square().sum()
    loss.backward()
    grads = [p.grad for name, p in tier.model.named_parameters() if "position" not in name]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


def test_autocast_is_restored_after_an_error() -> None:
    tier = make("bert")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(IndexError):
            tier({"input_ids": torch.tensor([[29, 99]]), "attention_mask": torch.ones(1, 2)})
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
    # A level of autocast left open would keep its cast copies of weights, which have changed since.
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = tier(encode(tier))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(copy.deepcopy(tier)(encode(tier)), logits)
        with torch.no_grad():
            for parameter in tier.parameters():
                parameter.mul_(1.5)


def test_a_copy_is_independent() -> None:
    tier = make("bert")
    other = copy.deepcopy(tier)
    with torch.no_grad():
        for parameter in tier.parameters():
            parameter.zero_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert other(encode(other)).dtype == torch.float32 and other(encode(other)).any()
