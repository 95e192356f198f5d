"""Tiny random classifiers of many families in folders, and their answers by transformers, a row at a time."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, AutoTokenizer

CLASSES = ["bad", "fair", "good"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
FUNNEL = {"block_sizes": [2, 2], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}
MOBILE = {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16, "num_feedforward_networks": 2}
REFORMER = {"hidden_size": 32, "attention_head_size": 8, "num_attention_heads": 4, "feed_forward_size": 64}
HASHING = {"attn_layers": ["lsh", "local"], "num_buckets": 4, "lsh_attn_chunk_length": 4, "local_attn_chunk_length": 4}
AXES = {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "max_position_embeddings": 64}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 3}
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "albert": SIZES | {"embedding_size": 16},
    "deberta": SIZES | {"relative_attention": True, "max_relative_positions": 16, "pos_att_type": ["c2p", "p2c"]},
    "roberta": SIZES | {"type_vocab_size": 1, "max_position_embeddings": 64},
    "convbert": SIZES | {"embedding_size": 32},
    "mobilebert": SIZES | MOBILE,
    "fnet": SIZES,
    "big_bird": SIZES | {"block_size": 4, "num_random_blocks": 1},
    "longformer": SIZES | {"attention_window": [4, 8], "max_position_embeddings": 64},
    "funnel": FUNNEL,
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, **SPECIAL},
    "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, **SPECIAL},
    "qwen2": SIZES | {"num_key_value_heads": 2, **SPECIAL},
    "opt": {"hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 64, "num_attention_heads": 4, **SPECIAL},
    "bart": BART | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, **SPECIAL},
    "t5": T5 | {"eos_token_id": 3, "decoder_start_token_id": 0},
    "reformer": REFORMER | HASHING | AXES | {"is_decoder": False},
    "canine": SIZES | {"local_transformer_stride": 8},
}


def save(folder: Path, model_type: str, tokenizer: Any, **settings: Any) -> Path:
    """A classifier with wide random weights and a tokenizer; padding is id 0 unless said otherwise."""
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": 0, **SETTINGS[model_type], **settings}
    config = CONFIG_MAPPING[model_type](**sizes, id2label=dict(enumerate(CLASSES)), architectures=[])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:  # the usual 0.02 gives logits that hardly differ between rows
                    parameter.normal_(std=0.25)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def one_by_one(folder: Path, units: list[Any], typed: bool | None = None, max_length: int = 32) -> np.ndarray:
    """Logits ``(N, C)`` by transformers alone: each row in a batch of its own, without padding.

    Args:
        folder: of model and tokenizer.
        units: texts, or pairs of texts.
        typed: whether to ask for token types; None: as the tokenizer gives them.
        max_length: tokens kept.
    """
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    accepted = inspect.signature(model.forward).parameters
    rows = []
    for unit in units:
        texts = [[unit]] if isinstance(unit, str) else [[text] for text in unit]
        encoding = tokenizer(
            *texts, truncation=True, max_length=max_length, return_token_type_ids=typed, return_tensors="pt"
        )
        rows.append(model(**{key: value for key, value in encoding.items() if key in accepted}).logits[0])
    return torch.stack(rows).numpy()
