"""Memory of a large encoder-decoder on each of the GPUs that share it: the table in `docs/cluster.md`.

It is arithmetic on torch's meta device; ``python -m scripts.memory`` prints the table for the two largest models there.

Training in bf16 under :class:`callbacks.Sharded`: a parameter has its value, its gradient and two moments of Adam in
float32, 16 bytes that all GPUs share. Each GPU holds besides, in bf16, what lies beside the layers, the layer at work
and the one that is fetched meanwhile; the gradient of a layer before it is shared out, in bf16 and as a float32 sum;
and what its own rows leave for the backward pass. What the allocator wastes is not known beforehand: a share is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, T5Config

from dial.models.sharding import layers_of

GPU = 80e9
USABLE = 0.9  # of a GPU's memory
LARGEST = 1024  # GPUs that are tried
TRAINED = 16  # bytes of a parameter: value, gradient and two moments of Adam in float32
HALF = 2  # bytes of a bf16 number
MODELS = {
    "T5-large": {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16, "d_kv": 64},
    "T5-11B": {"d_model": 1024, "d_ff": 65536, "num_layers": 24, "num_heads": 128, "d_kv": 128},
}


@dataclass(frozen=True)
class Rows:
    """What a GPU computes at once.

    Args:
        rows: number of them.
        source: tokens of each.
        target: pieces of each answer.
        beams: of a search.
    """

    rows: int = 8
    source: int = 512
    target: int = 64
    beams: int = 1


def on_meta(config: Any) -> nn.Module:
    """A model in bf16 and training mode that has no values; its attention keeps all that it can, as none is fused."""
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
    return model.train()


def size(module: nn.Module) -> int:
    """Parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def training_bytes(
    model: nn.Module, gpus: int, batch: Rows, recompute: bool = True, kept: float | None = None
) -> float:
    """Bytes on each GPU at the peak of a training step.

    Args:
        model: an encoder-decoder; see :func:`on_meta`.
        gpus: that share it.
        batch: of each GPU.
        recompute: whether layers are computed anew in the backward pass.
        kept: bytes of :func:`activation_bytes`, where they are known; to count them takes seconds.
    """
    kept = activation_bytes(model, batch, recompute) if kept is None else kept
    layer = max(size(layer) for layer in layers_of(model))
    gradient = (HALF + 4) * layer
    return TRAINED * size(model) / gpus + _gathered(model) + gradient + kept


def inference_bytes(model: nn.Module, gpus: int, batch: Rows) -> float:
    """Bytes on each GPU at the last piece of an answer, in bf16; one GPU alone has no layer to gather.

    Args:
        model: an encoder-decoder; see :func:`on_meta`.
        gpus: that share it.
        batch: of each GPU.
    """
    config: Any = model.config
    heads = config.num_heads * config.d_kv if hasattr(config, "d_kv") else config.d_model
    layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
    rows = batch.rows * batch.beams
    kept = HALF * rows * layers * 2 * heads * (batch.source + batch.target)  # keys and values
    logits = 4 * 2 * rows * config.vocab_size
    return HALF * size(model) / gpus + (_gathered(model) if gpus > 1 else 0) + kept + logits


def gpus_needed(bytes_of: Callable[[int], float], gpu: float = GPU, usable: float = USABLE) -> int:
    """The least number of GPUs on each of which that many bytes fit.

    Args:
        bytes_of: bytes on each of so many GPUs.
        gpu: bytes of one.
        usable: share of them that may be used.

    Raises:
        ValueError: what does not get smaller is too large.

    Example:
        >>> gpus_needed(lambda gpus: 200e9 / gpus + 10e9)
        4
    """
    for gpus in range(1, LARGEST + 1):
        if bytes_of(gpus) <= usable * gpu:
            return gpus
    raise ValueError(
        f"`rows` must be so few that what each of {LARGEST} GPUs holds of its own fits into {usable * gpu / 1e9:.0f} "
        f"GB, but got {bytes_of(LARGEST) / 1e9:.0f} GB; take fewer rows or shorter ones, or compute layers anew."
    )


def _gathered(model: nn.Module) -> float:
    layers = [size(layer) for layer in layers_of(model)]
    return float(HALF * (size(model) - sum(layers) + 2 * max(layers)))


def activation_bytes(model: nn.Module, batch: Rows, recompute: bool) -> float:
    """Bytes that the loss of a batch keeps for the backward pass, computed in bf16 without values.

    Args:
        model: what :func:`on_meta` gave.
        batch: its rows.
        recompute: whether a layer keeps what enters it alone; its own is kept once at a time.
    """
    ids = torch.zeros(batch.rows, batch.source, dtype=torch.long, device="meta")
    labels = torch.zeros(batch.rows, batch.target, dtype=torch.long, device="meta")
    saved = _Saved(model)
    with torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda tensor: tensor):
        outputs: Any = model(input_ids=ids, decoder_input_ids=labels, use_cache=False)
        torch.nn.functional.cross_entropy(outputs.logits.float().flatten(0, 1), labels.flatten())
    saved.close()
    # Masks, which need values, are added by hand: each layer adds one to its scores, with the bias of positions.
    config: Any = model.config
    pairs = batch.source**2 + batch.target**2 + batch.source * batch.target
    masks = HALF * batch.rows * config.num_attention_heads * pairs
    if not recompute:
        return float(masks + sum(saved.bytes.values()))
    inside = [count for index, count in saved.bytes.items() if index is not None]
    return float(masks + saved.bytes.get(None, 0) + sum(saved.entering) + max(inside))


def rows_of_page(training: Rows, answering: Rows) -> Iterator[str]:
    """Rows of the table in `docs/cluster.md`.

    Args:
        training: what each GPU computes at once in training.
        answering: the same where texts are written.
    """
    for name, sizes in MODELS.items():
        model = on_meta(T5Config(**sizes))
        kept = activation_bytes(model, training, True)
        least = gpus_needed(partial(training_bytes, model, batch=training, kept=kept))
        each, alone = training_bytes(model, 8, training, kept=kept), inference_bytes(model, 1, answering)
        one = gpus_needed(partial(inference_bytes, model, batch=answering))
        yield f"| {name} | {size(model) / 1e9:.2f} G | {least} | {each / 1e9:.1f} | {one} | {alone / 1e9:.1f} |"


class _Saved:
    """Bytes of storages that are kept for the backward pass, by the position of the layer that keeps them."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes: dict[int | None, int] = {}
        self.entering: list[int] = []
        self._at: int | None = None
        self._seen: dict[int, Tensor] = {p.untyped_storage()._cdata: p for p in model.parameters()}
        self._hooks = []
        for index, layer in enumerate(layers_of(model)):
            self._hooks.append(layer.register_forward_pre_hook(lambda _, given, index=index: self._enter(index, given)))
            self._hooks.append(layer.register_forward_hook(lambda *_: setattr(self, "_at", None)))

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage once; to keep the tensor keeps its storage's address from being used again."""
        key = tensor.untyped_storage()._cdata
        if key not in self._seen:
            self._seen[key] = tensor
            self.bytes[self._at] = self.bytes.get(self._at, 0) + tensor.untyped_storage().nbytes()
        return tensor

    def _enter(self, index: int, given: tuple[Any, ...]) -> None:
        self._at = index
        self.entering.append(given[0].untyped_storage().nbytes())

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()


if __name__ == "__main__":
    print("\n".join(rows_of_page(Rows(8, 512, 64), Rows(32, 512, 64))))
