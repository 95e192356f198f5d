"""Dropped tokens against a plain loop: stock layers on whole rows, one by one, dropped tokens hidden by a mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dial.models.exits import find_layers
from dial.models.lengths import Lengths
from dial.models.received_attention import received_attention
from dial.models.token_dropping import SEAMS, TokenDropping, dropping
from tests.models.families import FAMILIES, classifier, tokens

FAMILY = ("bert", "roberta", "electra", "distilbert", "mpnet")
LENGTHS = (Lengths((0.8, 0.55, 0.3)), Lengths((1.0, 0.6, 0.6)), Lengths((7, 7, 3)), Lengths((0.5, 0.01, 0.01)))


def reference(model: Any, ids: Tensor, lengths: Lengths, types: Tensor | None = None) -> tuple[Tensor, list[list[int]]]:
    """Last states ``(T, H)`` of all tokens of one row, and who was left behind each layer.

    The row is never made shorter: tokens that were dropped stay where they are, hidden from the others by a mask.
    """
    encoder = model.base_model
    seen: dict[str, Any] = {}
    layers = list(encoder.get_submodule(find_layers(encoder, encoder.config.num_hidden_layers)))

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        seen["hidden"] = args[0]
        seen["bias"] = args[2] if encoder.config.model_type == "mpnet" else None

    handle = layers[0].register_forward_pre_hook(watch, with_kwargs=True)
    encoder(input_ids=ids[None], **({} if types is None else {"token_type_ids": types[None]}))
    handle.remove()
    states, alive, left = seen["hidden"], list(range(len(ids))), []
    for layer, kept in zip(layers, lengths.kept([len(ids)])[:, 0].tolist(), strict=True):
        mask = torch.full((1, 1, 1, len(ids)), torch.finfo(torch.float32).min)
        mask[..., alive] = 0.0
        attention = layer.get_submodule(SEAMS[encoder.config.model_type].attention)
        handle = attention.register_forward_hook(lambda module, args, output: seen.update(weights=output[1]))
        more = (seen["bias"], True) if seen["bias"] is not None else ()
        output = layer(states, mask, *more)
        handle.remove()
        new = output if isinstance(output, Tensor) else output[0]
        weights = seen["weights"].detach()
        received = {
            token: sum(float(weights[0, head, query, token]) for head in range(weights.shape[1]) for query in alive)
            for token in alive
        }
        best = sorted(alive[1:], key=lambda token: -received[token])[: kept - 1]
        alive = sorted([0, *best])
        left.append(alive)
        states = states.clone()
        states[0, alive] = new[0, alive]
    return states[0], left


def mask_of(inputs: dict[str, Tensor]) -> Tensor:
    return inputs["attention_mask"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILY)
def test_padded_batches_equal_the_loop(name: str, attention: str) -> None:
    if name == "mpnet" and attention == "sdpa":
        pytest.skip("MPNet computes its attention by itself")
    model = classifier(name)
    model.set_attn_implementation(attention)
    way, inputs = TokenDropping(model.base_model), tokens(5, 13)
    naive = classifier(name)
    naive.set_attn_implementation("eager")
    for lengths in LENGTHS:
        with torch.no_grad(), way(model.base_model, lengths, mask_of(inputs), (5, 13), restore=True) as one:
            found = model.base_model(**inputs).last_hidden_state
        for row in range(5):
            own = int(mask_of(inputs)[row].sum())
            with torch.no_grad():
                states, left = reference(naive, inputs["input_ids"][row, :own], lengths)
            torch.testing.assert_close(found[row, :own], states, atol=2e-5, rtol=1e-4)
            behind = one.positions[row, : len(left[-1])] if one.positions is not None else torch.arange(own)
            assert behind.tolist() == left[-1]


@pytest.mark.parametrize("name", FAMILY)
def test_a_row_is_answered_alike_alone_and_in_any_batch(name: str) -> None:
    model, inputs = classifier(name), tokens(6, 17)
    way, lengths = TokenDropping(model.base_model), Lengths((0.9, 0.5, 0.2))

    def answer(some: dict[str, Tensor]) -> Tensor:
        with torch.no_grad(), dropping(way, lengths, model, some):
            return model(**some).logits

    together = answer(inputs)
    for row in range(6):
        own = int(mask_of(inputs)[row].sum())
        alone = {key: value[[row], :own] for key, value in inputs.items()}
        padded = {key: torch.nn.functional.pad(value, (0, 5)) for key, value in alone.items()}
        unmasked = {"input_ids": alone["input_ids"]}
        for some in (alone, padded, unmasked):
            torch.testing.assert_close(answer(some)[0], together[row], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILY)
def test_all_tokens_kept_is_the_stock_model_and_nothing_stays_behind(name: str) -> None:
    model, inputs = classifier(name), tokens(4, 9)
    way = TokenDropping(model.base_model)
    stock = model(**inputs).logits
    usual = model.base_model.config._attn_implementation
    with way(model.base_model, Lengths((1.0, 1.0, 1.0)), mask_of(inputs), (4, 9)):
        assert torch.equal(model(**inputs).logits, stock)
    with way(model.base_model, Lengths((0.5, 0.5, 0.5)), mask_of(inputs), (4, 9)):
        assert not torch.allclose(model(**inputs).logits, stock, atol=1e-3)
    assert torch.equal(model(**inputs).logits, stock)
    assert model.base_model.config._attn_implementation == usual
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_pass_that_fails_leaves_the_attention_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = classifier("bert"), tokens(2, 9)
    way, query = TokenDropping(model.base_model), model.bert.encoder.layer[1].attention.self.query
    stock = model(**inputs).logits

    def answer() -> Tensor:
        with way(model.base_model, Lengths((0.5, 0.4, 0.3)), mask_of(inputs), (2, 9)):
            return model(**inputs).logits

    with monkeypatch.context() as patch:
        patch.setattr(query, "forward", lambda hidden: hidden[0, 0, 0, 0, 0])
        with pytest.raises(IndexError):
            answer()
    assert torch.equal(model(**inputs).logits, stock)


@pytest.mark.parametrize("name", FAMILY)
def test_dropout_leaves_what_tokens_receive_whole(name: str) -> None:
    """Each real token gives 1 in each head, also where training drops most of the attention weights."""
    model, inputs = classifier(name).train(), tokens(4, 9)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.8
    way = TokenDropping(model.base_model)
    with way(model.base_model, LENGTHS[0], mask_of(inputs), (4, 9)) as one:
        one.trail = []
        model(**inputs)
    (_, received, _), *_ = one.trail
    real = mask_of(inputs)
    given = model.config.num_attention_heads * real.sum(dim=1)
    torch.testing.assert_close((received * real).sum(dim=1), given.float())


@pytest.mark.parametrize("name", FAMILY)
def test_in_bf16_no_two_tokens_receive_the_same(name: str) -> None:
    """Sums in bf16 hold three digits: tokens would be ranked by where they stand."""
    model, inputs = classifier(name), tokens(2, 30, None)
    way, whole = TokenDropping(model.base_model), []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.no_grad(), way(model.base_model, LENGTHS[0], None, (2, 30)) as one:
            one.trail = []
            model.base_model.to(dtype)(**inputs)
        whole.append(one.trail[0][1])
    exact, rounded = whole
    assert rounded.dtype is torch.float32 and all(len(row.unique()) == 30 for row in rounded)
    torch.testing.assert_close(rounded, exact, atol=0, rtol=0.05)


@pytest.mark.parametrize("name", FAMILY)
def test_gradients_reach_what_was_kept(name: str) -> None:
    """By the loop's gradient of the first token's last state with respect to the word embeddings."""
    model, naive, ids = classifier(name), classifier(name), tokens(1, 11, padded=None)["input_ids"]
    naive.set_attn_implementation("eager")
    lengths = LENGTHS[0]
    with TokenDropping(model.base_model)(model.base_model, lengths, None, (1, 11)):
        found = model.base_model(input_ids=ids).last_hidden_state[0, 0].sum()
    expected = reference(naive, ids[0], lengths)[0][0].sum()
    tables = [one.get_input_embeddings().weight for one in (model, naive)]
    (own,), (theirs,) = torch.autograd.grad(found, tables[0]), torch.autograd.grad(expected, tables[1])
    assert theirs.abs().sum() > 0
    torch.testing.assert_close(own, theirs, atol=1e-4, rtol=1e-3)


def test_blocks_of_rows_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = torch.randn(3, 5, 2, 7, 4).unbind(0)
    mask = torch.ones(5, 1, 1, 7, dtype=torch.bool)
    mask[2, ..., 4:] = False
    with torch.no_grad():
        whole = received_attention(torch.nn.Identity(), query, key, value, mask, 0.5)
        monkeypatch.setattr("dial.models.received_attention.BLOCK", 2 * 7 * 7 * 2)
        blocks = received_attention(torch.nn.Identity(), query, key, value, mask, 0.5)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=0.5)
    torch.testing.assert_close(whole[0], expected.transpose(1, 2))
    for one, other in zip(whole, blocks, strict=True):
        torch.testing.assert_close(one, other)
    assert whole[1][2, 4:].eq(0).all()
    torch.testing.assert_close(whole[1].sum(dim=1), torch.tensor([14.0, 14.0, 8.0, 14.0, 14.0]))  # 1 a head and query


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - set(FAMILY) - {"t5"}))
def test_other_architectures_are_refused(name: str) -> None:
    model = classifier(name).base_model
    with pytest.raises(
        ValueError, match=r"^`path` must be an encoder whose layers allow tokens to be dropped"
    ) as error:
        TokenDropping(model)
    assert "\n" not in str(error.value) and name in str(error.value)
