"""Tiny random tiers that answer by spans, with a tokenizer of words, and questions for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForQuestionAnswering, PreTrainedTokenizerFast

from dial.tiers.spans import SpanTier
from dial.tiers.tier import View

FREE = ["*"]
WORDS = "the a of in who when where what river town king queen built won lost old new red blue café 1066 über".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WINDOW, STRIDE = 24, 6


def tokenizer(words: list[str] = WORDS, window: int = WINDOW, types: bool = True) -> Any:
    """Words and punctuation, ``[CLS] question [SEP] context [SEP]``."""
    known = {word: i for i, word in enumerate([*SPECIAL, *words, ".", ","])}
    backend = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep")}
    inputs = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=window, model_input_names=inputs, **names)


def model(seed: int = 0, layers: int = 1, words: int = len(WORDS)) -> BertForQuestionAnswering:
    config = BertConfig(
        vocab_size=len(SPECIAL) + words + 2,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForQuestionAnswering(config).eval()


def reader(name: str, seed: int = 0, layers: int = 1, words: list[str] = WORDS, **view: Any) -> SpanTier:
    """A tier in eval mode whose windows are short, so that many rows have several."""
    settings = {"stride": STRIDE, "max_answer_tokens": 5, **view}
    known, window = tokenizer(words), settings.pop("max_length", WINDOW)
    made = model(seed, layers, len(words))
    return SpanTier(name, View(path=name, **settings), made, known, window, FREE).eval()


def favour_nothing(tier: SpanTier, bias: float) -> SpanTier:
    """Have a random model say "no answer" more often."""

    def raised(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        first = torch.zeros_like(logits)
        first[:, 0] = bias
        return logits + first

    tier.model.qa_outputs.register_forward_hook(raised)
    return tier


def save_reader(folder: Path, seed: int = 0, layers: int = 1) -> Path:
    """A folder as transformers leaves it."""
    model(seed, layers).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def questions(rows: int, seed: int = 0) -> list[tuple[str, str]]:
    """Questions of 1 to 6 words and contexts of 3 to 60, with capitals, letters of two bytes, points and odd spaces."""
    random = np.random.default_rng(seed)

    def text(least: int, most: int) -> str:
        chosen = random.choice([*WORDS, "Zürich", "x'y"], size=random.integers(least, most + 1))
        parts = [word.capitalize() if random.integers(3) == 0 else word for word in chosen]
        return "".join(
            part + ("  " if random.integers(5) == 0 else ". " if random.integers(9) == 0 else " ") for part in parts
        )

    return [(text(1, 6).strip(), text(3, 60).rstrip()) for _ in range(rows)]
