import copy
import math

import pytest
import torch
from torch import nn

from dial.models.slender.importance import TaylorImportance, choose, importance
from dial.models.slender.structures import attach_masks, masks, structures
from tests.models.encoders import CONFIGS, encoder, tokens

# Matrices of layer 0: (name, rows or columns, offset of each block). Heads are 4 (MiniLM 12) wide, 12 neurons.
MATRICES = {
    "bert": (
        [(f"encoder.layer.0.attention.self.{n}", "rows", [0]) for n in ("query", "key", "value")]
        + [("encoder.layer.0.attention.output.dense", "columns", [0])],
        [("encoder.layer.0.intermediate.dense", "rows", [0]), ("encoder.layer.0.output.dense", "columns", [0])],
    ),
    "distilbert": (
        [(f"transformer.layer.0.attention.{n}", "rows", [0]) for n in ("q_lin", "k_lin", "v_lin")]
        + [("transformer.layer.0.attention.out_lin", "columns", [0])],
        [("transformer.layer.0.ffn.lin1", "rows", [0]), ("transformer.layer.0.ffn.lin2", "columns", [0])],
    ),
    "modernbert": (
        [("layers.0.attn.Wqkv", "rows", [0, 16, 32]), ("layers.0.attn.Wo", "columns", [0])],
        [("layers.0.mlp.Wi", "rows", [0, 12]), ("layers.0.mlp.Wo", "columns", [0])],
    ),
}


def losses(model: nn.Module, seed: int = 0) -> list[torch.Tensor]:
    """Losses of three exits: after the embeddings' input of each layer and at the end."""
    batch = tokens()
    torch.manual_seed(seed)
    states = model(**batch, output_hidden_states=True).hidden_states
    return [(state[:, 0] * torch.randn(state.shape[-1])).sum().square() for state in states[1:]]


def naive(model: nn.Module, matrices, size: int, count: int, variant: str, biases: bool = True) -> list[float]:
    """Plain loops over the scalars of each structure; gradients by backward()."""
    result = []
    for structure in range(count):
        total = 0.0
        for name, direction, offsets in matrices:
            linear = model.get_submodule(name)
            for offset in offsets:
                for i in range(offset + structure * size, offset + structure * size + size):
                    if direction == "rows":
                        pairs = list(zip(linear.weight[i].tolist(), linear.weight.grad[i].tolist(), strict=True))
                        if linear.bias is not None and biases:
                            pairs.append((linear.bias[i].item(), linear.bias.grad[i].item()))
                    else:
                        pairs = list(zip(linear.weight[:, i].tolist(), linear.weight.grad[:, i].tolist(), strict=True))
                    for h, g in pairs:
                        total += abs(g) * abs(h) if variant == "absolute" else g * h
        result.append(abs(total))
    return result


@pytest.mark.parametrize("variant", ["signed", "absolute"])
@pytest.mark.parametrize("name", MATRICES)
def test_importance_is_that_of_plain_loops(name: str, variant: str) -> None:
    model = encoder(name)
    values = importance(model, losses(model), variant=variant)
    assert all(p.grad is None for p in model.parameters())
    sum(losses(model)).backward()
    heads, neurons = MATRICES[name]
    torch.testing.assert_close(values[0].tolist(), naive(model, heads, 4, 4, variant), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values[1].tolist(), naive(model, neurons, 1, 12, variant), rtol=1e-4, atol=1e-5)


def test_all_exits_count() -> None:
    """The importance under two losses is neither's own, nor the sum of both: their gradients add up first."""
    model = encoder("bert")
    both = importance(model, losses(model))
    first, last = (importance(model, [losses(model)[i]]) for i in range(2))
    model.zero_grad()
    sum(losses(model)).backward()
    expected = naive(model, MATRICES["bert"][0], 4, 4, "signed")
    torch.testing.assert_close(both[0].tolist(), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both[0], last[0], rtol=1e-2)
    assert first[2].abs().sum() == 0  # the first exit's loss does not reach the second layer


def test_head_importance_of_the_output_projection_only() -> None:
    model = encoder("bert")
    values = importance(model, losses(model), heads="output")
    sum(losses(model)).backward()
    heads, neurons = MATRICES["bert"]
    torch.testing.assert_close(values[0].tolist(), naive(model, heads[-1:], 4, 4, "signed"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values[1].tolist(), naive(model, neurons, 1, 12, "signed"), rtol=1e-4, atol=1e-5)


def test_absolute_values_are_averaged_over_batches_not_gradients() -> None:
    model = encoder("bert")
    taylor = TaylorImportance(model)
    expected = [torch.zeros(axis.count, dtype=torch.float64) for axis in taylor.axes]
    for seed in range(3):
        taylor.update(losses(model, seed))
        for total, value in zip(expected, importance(model, losses(model, seed)), strict=True):
            total += value / 3
    for value, mean in zip(taylor.mean(), expected, strict=True):
        torch.testing.assert_close(value, mean)
    taylor.reset()
    with pytest.raises(ValueError, match="at least one batch"):
        taylor.mean()


@pytest.mark.parametrize("name", CONFIGS)
def test_importance_predicts_the_change_of_the_loss(name: str) -> None:
    """First order: scale a structure's weights by 1 - s and by 1 + s, and the loss differs by 2s of it."""
    model = encoder(name).double()
    values = importance(model, losses(model))
    step = 1e-3  # ModernBERT rotates in float32
    for number, value in enumerate(values[:2]):
        outcomes = []
        for factor in (1 - step, 1 + step):
            changed = copy.deepcopy(model)
            axis = structures(changed)[number]
            with torch.no_grad():
                for part, parameter in axis.parameters():
                    if part.inputs:
                        parameter.view(parameter.shape[0], axis.count, axis.size)[:, 1] *= factor
                    else:
                        parameter.view(part.blocks, axis.count, -1)[:, 1] *= factor
                outcomes.append(float(sum(losses(changed))))
        moved = abs(outcomes[1] - outcomes[0]) / (2 * step)
        assert moved == pytest.approx(float(value[1]), rel=2e-2, abs=1e-2)


def test_non_finite_importance_names_the_layer_and_loses_nothing() -> None:
    model = encoder("bert")
    taylor = TaylorImportance(model)
    taylor.update(losses(model))
    before = [value.clone() for value in taylor.sums]
    with pytest.raises(ValueError, match="that of the neurons of layer 2 is not"):
        taylor.update([losses(model)[1], model.encoder.layer[1].output.dense.weight.sum() * math.inf])
    assert taylor.batches == 1 and all(torch.equal(a, b) for a, b in zip(before, taylor.sums, strict=True))


def test_frozen_weights_are_refused() -> None:
    model = encoder("bert")
    loss = losses(model)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="must be trained"):
        TaylorImportance(model).update(loss)


def reference_choice(values, alive, keep, scope):
    """Greedy, one structure at a time; the best of each layer is safe under global ranking."""
    result = [[0.0] * len(value) for value in values]
    free = [(-v, i, j) for i, value in enumerate(values) for j, v in enumerate(value) if alive[i][j]]
    if scope == "global":
        for i in range(len(values)):
            _, _, j = min(entry for entry in free if entry[1] == i)
            result[i][j] = 1.0
        room = keep * len(values) - len(values)
        for _, i, j in sorted(entry for entry in free if not result[entry[1]][entry[2]])[: max(0, room)]:
            result[i][j] = 1.0
    else:
        for i in range(len(values)):
            for _, _, j in sorted(entry for entry in free if entry[1] == i)[:keep]:
                result[i][j] = 1.0
    return result


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_choice_against_a_greedy_one(scope: str) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(100):
        values = [torch.randint(0, 5, (6,), generator=generator).double() for _ in range(3)]
        alive = [(torch.rand(6, generator=generator) < 0.8).float() for _ in range(3)]
        for mask in alive:
            mask[2] = 1.0
        for keep in (1, 2, 4):
            chosen = choose(values, alive, keep, scope)
            assert [c.tolist() for c in chosen] == reference_choice(values, alive, keep, scope)


def test_masked_structures_have_no_importance() -> None:
    model = encoder("bert")
    attach_masks(model)
    masks(model)[0][1] = 0
    values = importance(model, losses(model))
    assert values[0][1] == 0 < values[0][0]
