"""Parts of models of transformers that E-LANG takes apart: the encoder alone, and what identifies it."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn


def encoder_of(model: Any) -> nn.Module:
    """The encoder of an encoder-decoder; of a model without decoder, all but its head.

    Args:
        model: any model of transformers.
    """
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    assert isinstance(encoder, nn.Module)
    return encoder


def encoder_states(encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Last hidden states ``(B, T, D)`` of token ids ``(B, T)``.

    Args:
        encoder: what :func:`encoder_of` gave.
        input_ids: ``(B, T)``.
        attention_mask: ``(B, T)``, or None where nothing is padded.
    """
    states: Tensor = encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
    return states


def hidden_size(model: Any) -> int:
    """Width of the encoder's last hidden states."""
    config = getattr(model.config, "encoder", None)
    return int(getattr(config, "hidden_size", None) or model.config.hidden_size)


def encoder_fingerprint(encoder: nn.Module) -> str:
    """Twelve hexadecimal digits that an encoder's weights determine, with their names, shapes and types.

    A head is trained on one encoder: cut to fewer layers, or fine-tuned on, it is another. Take it before the weights
    are cast to a lower precision, which a head stands.

    Args:
        encoder: what :func:`encoder_of` gave.
    """
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        content = value.detach().cpu().contiguous().flatten()
        digest.update(content.view(torch.uint8).numpy().data if content.numel() else b"")
    return digest.hexdigest()[:12]


def vocabulary_fingerprint(tokenizer: Any) -> str:
    """Twelve hexadecimal digits that a tokenizer's pieces and their ids determine.

    Args:
        tokenizer: any of transformers.
    """
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(repr(pieces).encode()).hexdigest()[:12]
