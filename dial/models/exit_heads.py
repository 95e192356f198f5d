"""What an exit is made of: its classifier, and what learns to exit."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class ExitHead(nn.Module):
    """Classifier of one exit: norm and dense layer with tanh where wanted, dropout, linear layer.

    It computes without autocast in the precision of its own weights: bf16 logits hold three digits.

    Args:
        hidden_size: width of a hidden state.
        outputs: number of classes, 1 for regression.
        dropout: before the linear layer.
        norm: the exit's own norm, for encoders that leave their hidden states without one; None for the others.
        pooler: put a dense layer with tanh before the dropout, as BERT's pooler does.
    """

    def __init__(
        self, hidden_size: int, outputs: int, dropout: float, norm: nn.Module | None = None, pooler: bool = False
    ) -> None:
        super().__init__()
        self.norm = norm
        self.dense = nn.Linear(hidden_size, hidden_size) if pooler else None
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, outputs)
        self._only_linear = norm is None and not pooler

    def forward(self, token: Tensor) -> Tensor:
        """Logits ``(B, C)`` from pooled hidden states ``(B, H)``."""
        with _without_autocast(token.device.type):
            token = token.to(self.linear.weight.dtype)
            if self.norm is not None:
                token = self.norm(token)
            if self.dense is not None:
                token = torch.tanh(self.dense(token))
            logits: Tensor = self.linear(self.dropout(token))
            return logits

    def plain_forward(self, token: Tensor) -> Tensor:
        """What :meth:`forward` gives; only where :meth:`is_plain` holds.

        Between the layers of a single row each call of a module and each question to it shows in the row's time.
        """
        if not self._only_linear:
            return self(token)  # type: ignore[no-any-return]
        linear = self.linear
        return nn.functional.linear(token, linear.weight, linear.bias)

    def is_plain(self, hidden: Tensor) -> bool:
        """Whether nothing is to be cast or dropped for such a hidden state."""
        device = hidden.device.type
        cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        return not self.training and not cast and hidden.dtype == self.linear.weight.dtype

    def linears(self) -> list[nn.Linear]:
        """Its linear layers in order."""
        return [self.linear] if self.dense is None else [self.dense, self.linear]


class CertaintyHead(nn.Module):
    """Says from a hidden state how far the exit there is to be trusted; one for all exits of a model.

    That is the learning-to-exit module of BERxiT (Xin et al. 2021): ``u = sigmoid(c · h + b)`` with ``c`` and ``b``
    shared by all layers. It computes without autocast, as the exits do.

    Args:
        hidden_size: width of a hidden state.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)

    def forward(self, token: Tensor, norm: nn.Module | None = None) -> Tensor:
        """``c · h + b`` ``(B,)``, before the sigmoid, from pooled hidden states ``(B, H)``.

        Args:
            token: the hidden states.
            norm: that of the exit, if it has one.
        """
        with _without_autocast(token.device.type):
            token = token.to(self.linear.weight.dtype)
            output: Tensor = self.linear(token if norm is None else norm(token))
            return output[:, 0]


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    if not torch.amp.is_autocast_available(device):  # meta, where costs are counted
        return nullcontext()
    return torch.autocast(device, enabled=False)
