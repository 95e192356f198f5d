"""Tiny random encoders of four layers of every family that can have exits, stock and with exits, and their tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
)

from dial.models import MultiExitConfig, MultiExitForSequenceClassification

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "pad_token_id": 0}
SIZES |= {"intermediate_size": 24, "initializer_range": 0.3, "max_position_embeddings": 24}
SPECIAL = {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "minilm": {**SIZES, "model_type": "bert", "num_attention_heads": 4},
    "roberta": {**SIZES, "type_vocab_size": 1},
    "electra": {**SIZES, "embedding_size": 8},
    "distilbert": {"vocab_size": 40, "dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 24, "pad_token_id": 0}
    | {"initializer_range": 0.3, "max_position_embeddings": 24},
    "modernbert": {**SIZES, **SPECIAL, "local_attention": 4, "global_attn_every_n_layers": 2, "norm_eps": 1e-3},
}
OTHERS: dict[str, dict[str, Any]] = {  # further shapes of arguments and norms; not all of them have sdpa
    "xlm-roberta-xl": SIZES,
    "roberta-prelayernorm": SIZES,
    "eurobert": {**SIZES, "head_dim": 8},
    "mpnet": SIZES,
    "deberta-v2": {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"},
}
ROWS, LENGTH = 6, 9
LENGTHS = torch.tensor([9, 4, 6, 2, 7, 9])


def settings_of(name: str) -> dict[str, Any]:
    return {"model_type": name, **(ENCODERS | OTHERS)[name]}


def stock(name: str, **settings: Any) -> Any:
    """A random stock encoder, without pooler."""
    values = settings_of(name) | settings
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    pooler = (
        {}
        if name in ("electra", "distilbert", "modernbert", "deberta-v2", "eurobert")
        else {"add_pooling_layer": False}
    )
    encoder = AutoModel.from_config(config, **pooler).eval()
    for weight in encoder.parameters():
        if weight.ndim == 1:  # norms are all alike at first
            weight.data += 0.3 * torch.randn_like(weight)
    return encoder


def multi_exit(name: str = "bert", exits: list[int] | None = None, **settings: Any) -> Any:
    config = MultiExitConfig(encoder=settings_of(name), exits=exits, num_labels=3, **settings)
    return MultiExitForSequenceClassification(config).eval()


def tokens() -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 40, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(LENGTH) < LENGTHS.unsqueeze(1)).long()
    return ids * mask, mask
