"""Attention scores of stock layers before their softmax, read by hooks on their projections."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from dial.models.slender.structures import FAMILIES, Family

# In ModernBERT and decoders queries and keys are rotated behind their projections, where no hook sees them.
PLAIN = {name: FAMILIES[name] for name in ("BERT", "MPNet", "DistilBERT")}
BIAS = "position_bias"  # argument by which MPNet's encoder hands the bias that all layers share to each


class AttentionScores:
    """Scores of some layers of one pass: ``q k^T / sqrt(d)``, plus a relative position bias where there is one.

    The encoder's mask is not in them: what is padding is left to the reader.

    Args:
        layers: the encoder's layers.
        wanted: numbers of the layers whose scores are read, from 1.
        argument: how the user calls the encoder.

    Raises:
        ValueError: the layers are of no known family.
    """

    def __init__(self, layers: Sequence[nn.Module], wanted: Sequence[int], argument: str) -> None:
        self.layers, self.family = layers, family_of(layers, argument)
        self._seen: dict[int, dict[str, Tensor]] = {number: {} for number in wanted}

    def heads(self, number: int) -> int:
        """Heads of a layer."""
        attention = attrgetter(self.family.attention)(self.layers[number - 1])
        heads: int = attention.n_heads if hasattr(attention, "n_heads") else attention.num_attention_heads
        return heads

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Within this context a pass is watched; what was seen before is forgotten."""
        handles: list[Any] = []
        for number, seen in self._seen.items():
            seen.clear()
            layer = self.layers[number - 1]
            attention = attrgetter(self.family.attention)(layer)
            handles.append(attention.register_forward_pre_hook(_bias_into(seen), with_kwargs=True))
            for name, projection in zip(("query", "key"), self.family.projections, strict=False):
                handles.append(attrgetter(projection)(layer).register_forward_hook(_output_into(seen, name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def scores(self, number: int) -> Tensor:
        """Scores ``(B, A, T, T)``, query by key, of a watched layer in the last pass, with their gradient."""
        seen = self._seen[number]
        query, key = (seen[name].unflatten(-1, (self.heads(number), -1)).transpose(1, 2) for name in ("query", "key"))
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        return scores + seen[BIAS] if BIAS in seen else scores


def family_of(layers: Sequence[nn.Module], argument: str) -> Family:
    """Where the projections of an encoder's layers lie.

    Raises:
        ValueError: the layers are of no known family; names ``argument``.
    """
    for family in PLAIN.values():
        if all(family.fits(layer) for layer in layers):
            return family
    raise ValueError(
        f"`{argument}` must be an encoder whose layers are named as in {', '.join(PLAIN)} (RoBERTa, ELECTRA and "
        f"MiniLM are like BERT) for attention to be taught, but got {type(layers[0]).__name__}; take another encoder, "
        "or attention_weight 0."
    )


def _output_into(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        seen[name] = output

    return hook


def _bias_into(seen: dict[str, Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bias = inspect.signature(module.forward).bind(*args, **kwargs).arguments.get(BIAS)
        if bias is not None:
            seen[BIAS] = bias

    return hook
