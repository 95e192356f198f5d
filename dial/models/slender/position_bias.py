"""MPNet's relative position bias, which all its layers share, where their heads differ."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention


class SomeHeads(MPNetSelfAttention):
    """Stock attention of some of the heads that the encoder hands it a bias for.

    Attributes:
        bias_heads: ``(A,)`` those heads, in this layer's order.
    """

    bias_heads: Tensor

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, position_bias: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """As the stock attention, of a bias ``(B, N, T, T)`` of all N heads."""
        if position_bias is not None:
            position_bias = position_bias.index_select(1, self.bias_heads)
        return super().forward(hidden_states, attention_mask, position_bias, **kwargs)


def keep_bias(attention: nn.Module, keep: Tensor) -> None:
    """Let an attention read the bias of the heads ``keep`` of those that it has, in place; others than MPNet's stay.

    The heads become a buffer that is saved with the weights.
    """
    if isinstance(attention, SomeHeads):
        attention.bias_heads = attention.bias_heads[keep.to(attention.bias_heads.device)]
    elif isinstance(attention, MPNetSelfAttention):
        attention.__class__ = SomeHeads  # its methods are the stock ones; no module is renamed
        attention.register_buffer("bias_heads", keep.to(attention.o.weight.device))


def shared_bias(model: nn.Module) -> nn.Embedding | None:
    """The table ``(buckets, N)`` of the bias that all layers share; None for encoders without one."""
    found = (getattr(module, "relative_attention_bias", None) for module in model.modules())
    return next((table for table in found if isinstance(table, nn.Embedding)), None)
