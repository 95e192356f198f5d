"""Memory of models that GPUs share: against plain sums, and against what a real pass keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, T5Config, T5ForConditionalGeneration

from scripts.memory import (
    MODELS,
    Rows,
    activation_bytes,
    gpus_needed,
    inference_bytes,
    on_meta,
    rows_of_page,
    size,
    training_bytes,
)

SMALL = {"d_model": 32, "d_ff": 64, "num_layers": 3, "num_heads": 4, "d_kv": 8, "vocab_size": 100}
T5_LARGE, T5_11B = MODELS["T5-large"], MODELS["T5-11B"]


def parameters_by_hand(d_model: int, d_ff: int, num_layers: int, num_heads: int, d_kv: int) -> tuple[int, int]:
    """Of a whole T5 v1.0 with the published vocabulary, and of one layer of its decoder."""
    attention, feed = 4 * d_model * num_heads * d_kv, 2 * d_model * d_ff
    encoder, decoder = attention + feed + 2 * d_model, 2 * attention + feed + 3 * d_model
    buckets = 2 * 32 * num_heads  # of relative positions, in the first layer of each half
    return num_layers * (encoder + decoder) + buckets + 32128 * d_model + 2 * d_model, decoder + 32 * num_heads


@pytest.mark.parametrize(("config", "published"), [(T5_LARGE, 737_668_096), (T5_11B, 11_307_321_344)])
def test_parameters_and_training_are_those_of_plain_sums(config, published) -> None:
    model, batch = on_meta(T5Config(**config)), Rows(2, 64, 16)
    whole, layer = parameters_by_hand(**config)
    assert size(model) == whole == published
    kept = activation_bytes(model, batch, True)
    beside = 32128 * 1024 + 2 * 1024
    expected = 16 * whole / 8 + 2 * (beside + 2 * layer) + 6 * layer + kept
    assert training_bytes(model, 8, batch) == pytest.approx(expected, rel=1e-9)
    difference = training_bytes(model, 4, batch) - training_bytes(model, 8, batch)
    assert difference == pytest.approx(2 * whole)


def kept_by_a_real_pass(model: Any, rows: int, source: int, target: int) -> int:
    """Bytes of the distinct tensors that the loss keeps, weights aside."""
    kept: dict[int, torch.UntypedStorage] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ids, labels = torch.ones(rows, source, dtype=torch.long), torch.ones(rows, target, dtype=torch.long)
        logits = model(input_ids=ids, decoder_input_ids=labels, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
    assert loss.isfinite()
    return sum(storage.nbytes() for storage in kept.values())


def test_activations_are_what_a_real_pass_keeps() -> None:
    config = T5Config(**SMALL)
    model = T5ForConditionalGeneration._from_config(config, attn_implementation="eager").to(torch.bfloat16).train()
    batch = Rows(3, 20, 7)
    masks = 2 * 3 * 4 * (20 * 20 + 7 * 7 + 20 * 7)
    counted = activation_bytes(on_meta(config), batch, recompute=False) - masks
    assert counted == pytest.approx(kept_by_a_real_pass(model, 3, 20, 7), rel=0.02)
    less = activation_bytes(on_meta(config), batch, recompute=True)
    deeper = activation_bytes(on_meta(T5Config(**{**SMALL, "num_layers": 5})), batch, recompute=True)
    entering = 2 * 2 * 3 * (20 + 7) * 32  # two more layers in each half keep what enters them alone
    assert less < counted / 2 and deeper - less == pytest.approx(entering, rel=0.05)


def test_inference_keeps_keys_and_values_of_each_beam() -> None:
    config = T5Config(**SMALL)
    model = on_meta(config)
    one, three = (inference_bytes(model, 1, Rows(5, 20, 7, beams)) for beams in (1, 3))
    assert three - one == 2 * 5 * (2 * 3 * 2 * 32 * 27 + 4 * 2 * 100)
    assert one == 2 * size(model) + (three - one) / 2
    bart = on_meta(BartConfig(d_model=32, encoder_layers=1, decoder_layers=2, vocab_size=90, encoder_ffn_dim=8))
    assert inference_bytes(bart, 1, Rows(1, 10, 5)) == 2 * size(bart) + 2 * 2 * 2 * 32 * 15 + 4 * 2 * 90


def test_the_page_on_clusters_says_what_is_computed() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/cluster.md").read_text()
    training, answering = Rows(8, 512, 64), Rows(32, 512, 64)
    for row in rows_of_page(training, answering):
        assert row in page, row
    model = on_meta(T5Config(**T5_11B))
    kept, without = (activation_bytes(model, training, recompute) / 1e9 for recompute in (True, False))
    assert f"keep {without:.0f} GB of activations in place of {kept:.0f}" in page


def test_what_no_number_of_gpus_holds_is_refused() -> None:
    assert gpus_needed(lambda gpus: 720e9 / gpus) == 10
    with pytest.raises(ValueError, match="`rows` must be so few"):
        gpus_needed(lambda gpus: 73e9)
