"""Tiny encoders of every family, with random weights."""

from typing import Any

import torch
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
)

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 12,
    "max_position_embeddings": 24,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # the usual 0.02 gives values that hardly depend on any structure
}
CONFIGS: dict[str, Any] = {
    "bert": (BertConfig, SIZES),
    "roberta": (RobertaConfig, SIZES),
    "electra": (ElectraConfig, {**SIZES, "embedding_size": 10}),
    "minilm": (BertConfig, {**SIZES, "hidden_size": 24, "num_attention_heads": 2}),
    "mpnet": (MPNetConfig, SIZES),
    "distilbert": (
        DistilBertConfig,
        {
            **{k: SIZES[k] for k in ("vocab_size", "max_position_embeddings", "pad_token_id", "initializer_range")},
            **{"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 12},
        },
    ),
    "modernbert": (
        ModernBertConfig,
        {
            **{k: v for k, v in SIZES.items() if k != "initializer_range"},
            **{"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3},
        },
    ),
}


def encoder(name: str, attention: str = "sdpa", seed: int = 0) -> Any:
    """A stock encoder without dropout; biases are random too, as they would hide mistakes at 0."""
    kind, settings = CONFIGS[name]
    attention = "eager" if name == "mpnet" else attention  # the only one that transformers has for it
    torch.manual_seed(seed)
    model = AutoModel.from_config(kind(**settings), attn_implementation=attention).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("bias"):
                value.normal_(std=0.3)
    return model


def tokens(rows: int = 3, length: int = 7) -> dict[str, torch.Tensor]:
    """A batch with padding."""
    ids = torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}
