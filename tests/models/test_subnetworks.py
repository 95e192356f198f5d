"""Sub-networks by width and depth: masked, narrowed and cut models are one function; orders leave it alone."""

import copy

import pytest
import torch

from dial.models.slender.structures import attach_masks, masks, structures
from dial.models.slender.subnetworks import (
    Subnetwork,
    check_subnetworks,
    cut_subnetwork,
    kept_layers,
    kept_structures,
    narrowed,
    order_structures,
)
from tests.models.families import classifier, tokens

FAMILIES = ("bert", "roberta", "electra", "distilbert", "mpnet", "modernbert")
PARTS = [Subnetwork(0.25, 1.0), Subnetwork(1.0, 0.5), Subnetwork(0.5, 0.75)]


def model_of(name: str):
    model = classifier(name, **{"n_layers" if name == "distilbert" else "num_hidden_layers": 4})
    if name == "mpnet":
        with torch.no_grad():
            model.mpnet.encoder.relative_attention_bias.weight.normal_(std=2.0)
    return model


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    return model(**tokens(3, 7)).logits


@pytest.mark.parametrize("depth", [0.5, 0.75, 2 / 3, 1.0])
@pytest.mark.parametrize("layers", [4, 6, 12])
def test_dropped_layers_follow_the_rule_of_the_paper(layers: int, depth: float) -> None:
    """Layer d, from 0, goes where (d + 1) mod 1/(1 - m) is 0."""
    period = None if depth == 1 else round(1 / (1 - depth))
    expected = [d for d in range(layers) if period is None or (d + 1) % period != 0]
    assert kept_layers(layers, depth) == expected


def masked(model, part: Subnetwork):
    """A copy with masks on heads and neurons, and the dropped layers replaced by nothing."""
    whole = copy.deepcopy(model)
    attach_masks(whole)
    for axis, mask in zip(structures(whole), masks(whole), strict=True):
        mask[round(axis.count * part.width) :] = 0
    parent, name = layers_of(whole)
    layers = getattr(parent, name)
    dropped = {0.5: (1, 3), 0.75: (3,), 1.0: ()}[part.depth]
    setattr(parent, name, torch.nn.ModuleList(layer for number, layer in enumerate(layers) if number not in dropped))
    return whole


def layers_of(model):
    for module in model.modules():
        for name in ("layer", "layers"):
            if isinstance(getattr(module, name, None), torch.nn.ModuleList):
                return module, name
    raise AssertionError


@pytest.mark.parametrize("part", PARTS, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_cut_and_narrowed_equal_the_masked_full_model(name: str, part: Subnetwork) -> None:
    model = model_of(name)
    whole, expected = logits_of(model), logits_of(masked(model, part))
    with narrowed(model, part):
        within = logits_of(model)
    torch.testing.assert_close(within, expected, atol=1e-5, rtol=1e-5)
    assert (within - whole).abs().max() > 1e-2
    assert torch.equal(logits_of(model), whole)
    smaller = copy.deepcopy(model)
    cut_subnetwork(smaller, part)
    torch.testing.assert_close(logits_of(smaller), expected, atol=1e-5, rtol=1e-5)
    count = [sum(parameter.numel() for parameter in part.parameters()) for part in (smaller, model)]
    assert count[0] < count[1]
    assert smaller.config.num_hidden_layers == len(kept_layers(4, part.depth))
    for axis in structures(smaller):
        assert axis.reader.weight.shape[1] == {"heads": 16, "neurons": 24}[axis.kind] * part.width


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_a_part_reach_its_share_alone(name: str) -> None:
    model, part = model_of(name), Subnetwork(0.5, 0.5)
    with narrowed(model, part):
        model(**tokens(3, 7)).logits.square().sum().backward()
    smaller = copy.deepcopy(model)
    smaller.zero_grad()
    cut_subnetwork(smaller, part)
    smaller(**tokens(3, 7)).logits.square().sum().backward()
    axes, own = structures(model), structures(smaller)
    for axis in axes:
        for slices, parameter in axis.parameters():
            if axis.layer in (1, 3):
                assert parameter.grad is None
                continue
            (other,) = [a for a in own if a.layer == axis.layer // 2 and a.kind == axis.kind]
            share = next(p.grad for s, p in other.parameters() if s.name == slices.name and p.ndim == parameter.ndim)
            kept = axis.positions(slices, torch.arange(kept_structures(axis, 0.5)))
            dim = 1 if slices.inputs else 0
            torch.testing.assert_close(parameter.grad.index_select(dim, kept), share, atol=1e-5, rtol=1e-4)
            rest = [i for i in range(parameter.shape[dim]) if i not in kept.tolist()]
            assert not parameter.grad.index_select(dim, torch.tensor(rest)).any()


@pytest.mark.parametrize("name", FAMILIES)
def test_order_moves_the_important_to_the_front_and_keeps_the_function(name: str) -> None:
    model = model_of(name)
    before, original = logits_of(model), copy.deepcopy(model)
    values = [torch.rand(axis.count) for axis in structures(model)]
    order_structures(model, values)
    torch.testing.assert_close(logits_of(model), before, atol=1e-5, rtol=1e-5)
    for axis, old, value in zip(structures(model), structures(original), values, strict=True):
        if axis.kind == "neurons" or name != "mpnet":
            first = int(value.argmax())
            column = old.reader.weight[:, first * axis.size : (first + 1) * axis.size]
            assert torch.equal(axis.reader.weight[:, : axis.size], column)
    if name == "mpnet":  # its heads have one order: each layer's importance counts as a share of the layer's
        shares = sum(
            value / value.sum() for value, axis in zip(values, structures(model), strict=True) if axis.size > 1
        )
        table, old = (m.mpnet.encoder.relative_attention_bias.weight for m in (model, original))
        assert torch.equal(table, old[:, shares.argsort(descending=True)])


def test_an_mpnet_cut_twice_reads_the_right_bias() -> None:
    model = model_of("mpnet")
    once, twice = (copy.deepcopy(model) for _ in range(2))
    for axis in structures(once):
        if axis.kind == "heads":
            axis.reduce(torch.tensor([2, 3]))
    for keep in ([1, 2, 3], [1, 2]):
        for axis in structures(twice):
            if axis.kind == "heads":
                axis.reduce(torch.tensor(keep))
    assert torch.equal(logits_of(once), logits_of(twice))


def test_multipliers_that_a_model_cannot_have() -> None:
    model = model_of("bert")
    for widths, depths, message in (
        ([0.3], [1.0], r"`width` must divide the 4 attention heads of a layer, but 0.3 of them are 1.2"),
        ([1 / 3], [1.0], r"but 0.333333 of them are 1.33"),
        ([0.0], [1.0], r"`width` must be above 0 and at most 1, but got 0.0"),
        ([True], [1.0], r"`width` must be above 0"),
        ([1.0], [1.5], r"`depth` must be above 0 and at most 1, but got 1.5"),
        ([1.0], [0.8], r"`depth` must drop a layer where it is below 1, but 0.8 keeps all 4; take at most 0.75, or 1"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            check_subnetworks(model, widths, depths)
        assert "\n" not in str(caught.value)
    check_subnetworks(model, [0.25, 0.5, 0.75, 1.0], [0.25, 0.5, 0.75, 1])
