"""Attention that also says how much of it each token receives (Kim and Cho 2021, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

RECEIVED = "dial_received"  # its name among the attention functions of transformers
BLOCK = 1 << 20  # scores that are held at once; more would leave the cache between softmax, product and sum


def received_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **unused: Any,
) -> tuple[Tensor, Tensor]:
    """Attention ``(B, K, A, D)``, and what each token received ``(B, K)``, as transformers calls such a function.

    Args:
        module: unused.
        query: ``(B, A, K, D)``.
        key: ``(B, A, K, D)``.
        value: ``(B, A, K, D)``.
        attention_mask: ``(B, 1, 1 or K, K)``, bool or added to the scores; None where nothing is padded.
        scaling: of the scores.
        dropout: of the weights; those that are summed are whole.
        unused: what other functions need.
    """
    batch, heads, tokens, _ = query.shape
    on_cpu, learns = query.device.type == "cpu", torch.is_grad_enabled()
    rows = batch if learns else min(batch, max(1, (BLOCK if on_cpu else 64 * BLOCK) // (heads * tokens * tokens)))
    buffer = None
    if on_cpu and not learns and query.dtype is torch.float32 and not torch.jit.is_tracing():
        buffer = query.new_empty(rows * heads, tokens, tokens)
    states, received = [], []
    for start in range(0, batch, rows):
        part = slice(start, start + rows)
        mask = None if attention_mask is None else attention_mask[part]
        weights = _weights(query[part], key[part], mask, scaling, buffer)
        received.append(received_of(weights, None if mask is None else _seen(mask)))
        if dropout:
            weights = nn.functional.dropout(weights, dropout)
        states.append(torch.matmul(weights.to(value.dtype), value[part]).transpose(1, 2))
    return _joined(states).contiguous(), _joined(received)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, buffer: Tensor | None) -> Tensor:
    """Attention weights ``(B, A, K, K)`` in float32.

    Args:
        query: ``(B, A, K, D)``.
        key: ``(B, A, K, D)``.
        mask: see :func:`received_attention`.
        scaling: of the scores.
        buffer: ``(B A or more, K, K)`` to compute in: memory that is warm saves a fifth of the time.
    """
    if buffer is None:
        scores = torch.matmul(query * scaling, key.transpose(2, 3))
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask
        return torch.softmax(scores, dim=-1, dtype=torch.float32)
    queries, keys = query.flatten(0, 1), key.flatten(0, 1)
    flat = buffer[: len(queries)]
    torch.baddbmm(flat, queries, keys.transpose(1, 2), beta=0, alpha=scaling, out=flat)
    scores = flat.view(*query.shape[:3], -1)
    if mask is not None:
        _ = scores.masked_fill_(~mask, -torch.inf) if mask.dtype is torch.bool else scores.add_(mask)
    return torch.softmax(scores, dim=-1, out=scores)


ALL_ATTENTION_FUNCTIONS.register(RECEIVED, received_attention)


def _seen(mask: Tensor) -> Tensor:
    """Which tokens ``(B, K)`` the first one sees, which is real: all that are no padding."""
    first = mask[:, 0, 0]
    return first if first.dtype is torch.bool else first == 0


def received_of(weights: Tensor, real: Tensor | None) -> Tensor:
    """What tokens ``(B, K)`` receive of real tokens in all heads, from weights ``(B, A, K, K)``, query by key.

    It is in float32: of sums in bf16 most are equal, and tokens would be ranked by where they stand.
    """
    if real is None:
        return weights.sum(dim=(1, 2), dtype=torch.float32)
    return (weights.sum(dim=1, dtype=torch.float32) * real[:, :, None]).sum(dim=1)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
