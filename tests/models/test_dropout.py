"""Bernoulli numbers from bits: their frequencies and independence, and that torch's own come back."""

import gc

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from dial.models.dropout import bernoulli_from_bits_, draw_bernoulli_from_bits


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99, 0.999, 1e-5, 1e-7, 1 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_as_many_ones_as_asked_for_in_each_place(p, dtype) -> None:
    torch.manual_seed(0)
    drawn = bernoulli_from_bits_(torch.full((1_000, 404), 7).to(dtype), p)
    assert set(drawn.unique().tolist()) <= {0, 1}
    for part in (*drawn.view(-1, 4).T, drawn[:, :-1] * drawn[:, 1:]):  # each quarter of the words; neighbours
        chance = p if part.dim() == 1 else p * p
        assert binomtest(int(part.double().sum()), part.numel(), chance).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 3, 7)])
def test_any_shape_and_strides(shape) -> None:
    torch.manual_seed(1)
    whole = bernoulli_from_bits_(torch.full(shape, 7.0))
    torch.manual_seed(1)
    strided = bernoulli_from_bits_(torch.full((*shape, 2), 7.0)[..., 0])
    assert whole.shape == torch.Size(shape)
    assert torch.equal(whole, strided)


def test_certain_and_impossible() -> None:
    assert bernoulli_from_bits_(torch.zeros(9), 1.0).tolist() == [1] * 9
    assert bernoulli_from_bits_(torch.ones(9), 0.0).tolist() == [0] * 9
    with pytest.raises(RuntimeError, match=r"p=1\.5"):
        bernoulli_from_bits_(torch.ones(9), 1.5)


def test_a_generator_of_ones_own_is_the_one_that_is_drawn_from() -> None:
    def drawn(seed: int) -> torch.Tensor:
        return bernoulli_from_bits_(torch.empty(99), generator=torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))
    assert torch.equal(state, torch.get_rng_state())


def test_dropout_draws_them_while_they_are_held_and_no_longer() -> None:
    def dropped(layer: str) -> np.ndarray:
        torch.manual_seed(3)
        if layer == "module":
            return torch.nn.Dropout(0.25)(torch.ones(64, 3, requires_grad=True)).detach().numpy()
        query = torch.ones(1, 1, 64, 8, requires_grad=True)
        return torch.nn.functional.scaled_dot_product_attention(query, query, query, dropout_p=0.25).detach().numpy()

    for layer in ("module", "attention"):
        own = dropped(layer)
        held = draw_bernoulli_from_bits()
        other = dropped(layer)
        assert not np.array_equal(own, other)
        torch.manual_seed(3)
        keep = bernoulli_from_bits_(torch.empty(64, 3 if layer == "module" else 64), 0.75).numpy()
        scaled = keep / 0.75 if layer == "module" else keep.mean(axis=1, keepdims=True) / 0.75
        assert np.allclose(other, np.broadcast_to(scaled, other.shape), atol=1e-6)
        del held
        gc.collect()
        assert np.array_equal(own, dropped(layer))
