"""Small inputs on which an encoder is tried before it is trusted."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)
SPECIAL = tuple(f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep", "mask"))


class UnsuitableEncoderError(ValueError):
    """An encoder cannot have exits; says why in one line."""


def trial_inputs(encoder: Any, rows: int, length: int, mask: str | None = "padded") -> Inputs:
    """Tokens ``(rows, length)`` that no special token is among; neighbouring rows differ.

    Args:
        encoder: a model of transformers.
        rows: of the batch.
        length: tokens of the longest row, at least 2 where rows are padded.
        mask: ``padded``: every row but the first is shorter, with padding on the right; ``full``: a mask of ones;
            ``pairs``: the additive mask ``(rows, 1, length, length)`` of padded rows; None: no mask.
    """
    config, device = encoder.config, next(encoder.parameters()).device
    special = {getattr(config, name, None) for name in SPECIAL}
    every = range(min(_vocabulary(encoder), 100))
    plain = [token for token in every if token not in special]
    allowed = torch.tensor(plain if len(plain) > 1 else list(every), device=device)
    places = torch.arange(rows, device=device).unsqueeze(1) + torch.arange(length, device=device)
    ids = allowed[places % len(allowed)]
    lengths = length - torch.arange(rows, device=device) % max(1, length - 1)
    real = (torch.arange(length, device=device) < lengths.unsqueeze(1)).long()
    if mask == "padded":
        ids = torch.where(real.bool(), ids, getattr(config, "pad_token_id", None) or 0)
    masks = {"padded": real, "full": torch.ones_like(real), "pairs": _additive(real, encoder)}
    inputs = {"input_ids": ids} | ({} if mask is None else {"attention_mask": masks[mask]})
    accepted = inspect.signature(encoder.forward).parameters
    return {name: value for name, value in inputs.items() if name in accepted}


def _vocabulary(encoder: Any) -> int:
    try:
        return int(encoder.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError):  # CANINE reads characters and hashes them
        return 100


def _additive(real: Tensor, encoder: Any) -> Tensor:
    dtype = next(encoder.parameters()).dtype
    unseen = torch.finfo(dtype).min * (1 - real.to(dtype))
    return unseen[:, None, None, :].expand(-1, 1, real.shape[1], -1).contiguous()


def twin(encoder: M) -> M:
    """A copy that shares the weights, without dropout and without hooks: trial passes are nobody's business."""
    shared = {id(tensor): tensor for tensor in (*encoder.parameters(), *encoder.buffers())}
    copied = deepcopy(encoder, shared).eval()
    for part in copied.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return copied


@contextmanager
def trial_mode(encoder: nn.Module) -> Iterator[None]:
    """Without gradients, and in the precision of the weights."""
    device = next(encoder.parameters()).device.type
    with torch.no_grad(), torch.autocast(device, enabled=False):
        yield
