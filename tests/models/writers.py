"""Tiny random encoder-decoders whose answers end after few or many pieces."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

VOCABULARY = 64


def tiny_t5(seed: int = 1, gated: bool = False, layers: int = 2, **settings: object) -> T5ForConditionalGeneration:
    """A T5 of width 32 in eval mode; its wide initialisation lets answers depend on the source."""
    config = T5Config(
        **{
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": layers,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu" if gated else "relu",
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "initializer_factor": 4.0,
            "tie_word_embeddings": False,
            **settings,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config).eval()
        torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    return model


def sources(rows: int, longest: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask ``(B, T)`` of rows of 1 to ``longest`` words."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (rows, 1), generator=generator)
    mask = (torch.arange(longest) < lengths).long()
    return torch.randint(3, VOCABULARY, (rows, longest), generator=generator) * mask, mask
