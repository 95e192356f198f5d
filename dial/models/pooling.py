"""What an exit reads of a layer's hidden states."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from dial.models.exits import trial_inputs, trial_mode, twin

Pooling = Literal["first", "last", "mean"]


class Reader:
    """Reads the first token, the last one, or the mean over the tokens; padding, on either side, is no token.

    Args:
        attention_mask: ``(B, T)``, or None where nothing is padded. For ``first`` it may have other dimensions: those
            are masks of pairs of tokens, and nothing is padded on the left.
        pooling: which.

    Raises:
        ValueError: ``last`` or ``mean`` under a mask of other dimensions, which does not say what is padding.

    Example:
        >>> hidden = torch.tensor([[[1.0], [3.0], [50.0]]])
        >>> mask = torch.tensor([[1, 1, 0]])
        >>> [Reader(mask, pooling)(hidden).tolist() for pooling in ("first", "last", "mean")]
        [[[1.0]], [[3.0]], [[2.0]]]
    """

    def __init__(self, attention_mask: Tensor | None, pooling: Pooling) -> None:
        if attention_mask is not None and attention_mask.ndim != 2 and pooling != "first":
            what = "the last token" if pooling == "last" else "the mean over the tokens"
            raise ValueError(
                f"`attention_mask` must be (B, T) where exits read {what}, but got {tuple(attention_mask.shape)}; give "
                "the mask of padding, or take `pooling` first."
            )
        self.pooling, self.mask = pooling, attention_mask
        self.place = 0 if pooling == "first" else -1
        self.places = _places(attention_mask, pooling)

    def __call__(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """What is read of hidden states ``(R, T, H)``: ``(R, H)``, which may be a view of them.

        Args:
            hidden: of all rows of the batch, or of some.
            rows: ``(R,)`` which these are; None for all.
        """
        if self.pooling == "mean":
            return self._mean(hidden, rows)
        if self.places is None:
            return hidden.select(1, self.place)
        places = self.places if rows is None else self.places[rows]
        return hidden[torch.arange(len(hidden), device=hidden.device), places]

    def _mean(self, hidden: Tensor, rows: Tensor | None) -> Tensor:
        if self.mask is None:
            return hidden.mean(dim=1)
        weights = (self.mask if rows is None else self.mask[rows]).to(hidden.dtype)
        return (hidden * weights.unsqueeze(-1)).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp(min=1)


def _places(mask: Tensor | None, pooling: Pooling) -> Tensor | None:
    """Place ``(B,)`` of the token that is read; None where it is the first or the last place in every row."""
    if mask is None or pooling == "mean" or mask.ndim != 2 or not mask.numel():
        return None
    edge = mask[:, 0 if pooling == "first" else -1]
    if edge.is_meta or bool(edge.all()):
        return None
    if pooling == "first":
        return (mask != 0).int().argmax(dim=1)
    return mask.shape[1] - 1 - (mask != 0).int().flip(1).argmax(dim=1)


def natural_pooling(encoder: Any) -> Pooling:
    """The token that sees a whole text: the last one in a decoder, whose first one sees only itself, else the first.

    Args:
        encoder: a model of transformers.
    """
    encoder = twin(encoder)
    ids = trial_inputs(encoder, 2, 3, None)["input_ids"]
    ids[:, 0] = ids[0, 0]
    with trial_mode(encoder):
        try:
            states = encoder(input_ids=ids)[0]
        except Exception:  # exits have a proof of their own, which says why it cannot be
            return "first"
    return "last" if torch.equal(states[0, 0], states[1, 0]) else "first"
