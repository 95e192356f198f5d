"""Tiny random classifiers of families that can have exits, and of families that cannot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

COMMON = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": 3}
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24}
SIZES |= {"max_position_embeddings": 34, "initializer_range": 0.3}
GPT = {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 34, "initializer_range": 0.3}
XLM = {"emb_dim": 16, "n_layers": 3, "n_heads": 4, "init_std": 0.3, "embed_init_std": 0.3, "pad_index": 0}
RELATIVE = {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": SIZES,
    "megatron-bert": SIZES,
    "electra": {**SIZES, "embedding_size": 8},
    "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 24, "initializer_range": 0.3},
    "modernbert": {**SIZES, "local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 1},
    "mpnet": SIZES,
    "deberta": {**RELATIVE, "max_relative_positions": 6},
    "deberta-v2": {**RELATIVE, "position_buckets": 6, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    "mpt": {"d_model": 16, "n_heads": 4, "n_layers": 3, "initializer_range": 0.3},
    "gpt2": GPT,
    "llama": {**SIZES, "num_key_value_heads": 2},
    "qwen2": {**SIZES, "num_key_value_heads": 2},
    "opt": {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16, "init_std": 0.3},
    "fnet": SIZES,
    "convbert": {**SIZES, "embedding_size": 8, "conv_kernel_size": 3, "head_ratio": 2},
    "longformer": {**SIZES, "attention_window": 8},
    "squeezebert": {**SIZES, "embedding_size": 16},
    "flaubert": XLM,
    "xlm": XLM,
    "xlnet": {"d_model": 16, "n_layer": 3, "n_head": 4, "d_inner": 24},
    "bloom": {"hidden_size": 16, "n_layer": 3, "n_head": 4, "initializer_range": 0.3},
    "funnel": {"block_sizes": [1, 1, 1], "d_model": 16, "n_head": 4, "d_head": 4, "d_inner": 24},
    "t5": {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
}
DECODERS = ["gpt2", "llama", "qwen2", "opt"]


def classifier(name: str, seed: int = 0, **settings: Any) -> Any:
    """A stock classifier with random biases and norms, which are all alike at first."""
    config = AutoConfig.for_model(name, **{**COMMON, **FAMILIES[name], **settings})
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.2 * torch.randn_like(weight)
    return model


def tokens(rows: int, length: int, padded: str | None = "right") -> dict[str, Tensor]:
    """Random tokens; the first row is as long as the batch."""
    generator = torch.Generator().manual_seed(rows + 100 * length)
    ids = torch.randint(5, 40, (rows, length), generator=generator)
    if padded is None:
        return {"input_ids": ids}
    lengths = torch.randint(2, length + 1, (rows,), generator=generator)
    lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    mask = mask.flip(1) if padded == "left" else mask
    return {"input_ids": ids * mask, "attention_mask": mask}
