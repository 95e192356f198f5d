"""Modules to count, and torch's own counter."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def fused(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """FLOPs of CPU's fused attention, which torch's counter lacks; it gets shapes."""
    b, h, length, e = query
    return 2 * b * h * length * key[2] * (e + value[3])


def torch_macs(module: nn.Module, example: dict[str, Tensor]) -> float:
    """The same pass under torch's counter, which dispatches real operators and counts 2 per MAC."""
    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        module.eval()(**example)
    return counter.get_total_flops() / 2


class Packed(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0]


class Calls(nn.Module):
    """A function of keyword tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, **tensors: Tensor) -> Any:
        return self.function(**tensors)
