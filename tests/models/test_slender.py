from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dial.models.slender.embeddings import factorise
from dial.models.slender.encoder import cut, cut_in_place, shape_model
from dial.models.slender.structures import attach_masks, has_masks, masks, set_masks, structures
from tests.models.encoders import CONFIGS, encoder, tokens

ATTENTIONS = ("eager", "sdpa")
# Kept heads and neurons of two layers.
KEPT = [[[0, 2, 3], [1, 5, 6, 11]], [[1], [0, 2, 3, 4, 7, 8, 9]]]


def mask_some(model: nn.Module, kept=KEPT) -> None:
    attach_masks(model)
    values = []
    for axis in structures(model):
        keep = [i for i in kept[axis.layer][axis.kind == "neurons"] if i < axis.count]
        values.append(torch.tensor([float(i in keep) for i in range(axis.count)]))
    set_masks(model, values)


def silence(model: nn.Module, name: str) -> None:
    """By hand: zero the columns of the output projections that read what KEPT leaves out."""
    reader = {
        "distilbert": ("transformer.layer.{}.attention.out_lin", "transformer.layer.{}.ffn.lin2"),
        "mpnet": ("encoder.layer.{}.attention.attn.o", "encoder.layer.{}.output.dense"),
        "modernbert": ("layers.{}.attn.Wo", "layers.{}.mlp.Wo"),
    }.get(name, ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense"))
    sizes = {"minilm": 12}
    with torch.no_grad():
        for layer, (heads, neurons) in enumerate(KEPT):
            weight = model.get_submodule(reader[0].format(layer)).weight
            size = sizes.get(name, 4)
            for head in range(weight.shape[1] // size):
                if head not in heads:
                    weight[:, head * size : (head + 1) * size] = 0
            weight = model.get_submodule(reader[1].format(layer)).weight
            for neuron in range(12):
                if neuron not in neurons:
                    weight[:, neuron] = 0


def run(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokens()).last_hidden_state


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_masked_and_cut_models_equal_one_with_zeroed_columns(name: str, attention: str) -> None:
    model, by_hand = encoder(name, attention), encoder(name, attention)
    full = run(model)
    silence(by_hand, name)
    expected = run(by_hand)
    assert (full - expected).abs().max() > 1e-2
    mask_some(model)
    torch.testing.assert_close(run(model), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(run(cut(model)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_cut_is_smaller_and_leaves_the_model_alone(name: str) -> None:
    model = encoder(name)
    mask_some(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    slender = cut(model)
    heads = [2 - 1 if name == "minilm" else 3, 1]  # of two heads, 0 and 2, 3 leave one
    assert slender.config.heads == heads
    assert slender.config.intermediate == [4, 7]
    assert slender.config.embedding_rank is None
    assert not has_masks(slender.state_dict()) and has_masks(model.state_dict())
    assert not hasattr(model.config, "heads")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    axes = structures(model)
    lost = sum(
        (axis.count - small.count) * axis.parameters_each for axis, small in zip(axes, structures(slender), strict=True)
    )
    count = [sum(p.numel() for p in m.parameters()) for m in (model, slender)]
    assert count[0] - count[1] == lost > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_from_the_config_take_the_weights(name: str) -> None:
    model = encoder(name)
    factorise(model, 5)
    mask_some(model)
    slender = cut(model)
    fresh = encoder(name, seed=1)
    shape_model(fresh, slender.config)
    fresh.load_state_dict(slender.state_dict())
    assert torch.equal(run(fresh), run(slender))


def test_shapes_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = encoder("bert")
        shape_model(model, SimpleNamespace(heads=[3, 1], intermediate=[4, 12], embedding_rank=5))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert [axis.count for axis in structures(model)] == [3, 4, 1, 12]


def test_cut_in_place_trains_on() -> None:
    model = encoder("bert")
    mask_some(model)
    expected = run(model)
    cut_in_place(model)
    torch.testing.assert_close(run(model), expected, atol=1e-5, rtol=0)
    model(**tokens()).last_hidden_state.sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for n, p in model.named_parameters() if "pooler" not in n)


def test_masked_structures_get_no_gradient() -> None:
    model = encoder("modernbert")
    mask_some(model)
    model(**tokens()).last_hidden_state.square().sum().backward()
    for axis, mask in zip(structures(model), masks(model), strict=True):
        for part, parameter in axis.parameters():
            zero = axis.sums(part, parameter.grad.abs()) == 0
            assert torch.equal(zero, mask == 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": [2]}, "`heads` must hold one number for each of 2 layers"),
        ({"heads": [2, 0]}, "`heads` of layer 2 must lie between 1 and 4, but got 0"),
        ({"intermediate": [13, 1]}, "`intermediate` of layer 1 must lie between 1 and 12, but got 13"),
        ({"embedding_rank": 17}, "`rank` must lie between 1 and 16"),
    ],
)
def test_shapes_that_a_model_cannot_have(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        shape_model(encoder("bert"), SimpleNamespace(**fields))


def test_a_layer_without_heads_is_refused() -> None:
    model = encoder("bert")
    mask_some(model, [[[], [1]], [[1], [1]]])
    with pytest.raises(ValueError, match="Layer 1 must keep at least one of its heads"):
        cut(model)
    assert has_masks(model.state_dict())


def test_unknown_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="BERT, DistilBERT, MPNet, ModernBERT"):
        structures(nn.Sequential(nn.Linear(2, 2)))
