"""Tiers that write: tiny random T5s whose answers differ from row to row, with a tokenizer of pieces and a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dial.models.encoder_decoder import encoder_fingerprint, encoder_of, vocabulary_fingerprint
from dial.models.energy_head import HeadConfig, build_head
from dial.models.pieces import build_piece_tokenizer
from dial.models.saved_head import save_head
from dial.tiers.text_to_text import TextToTextTier
from dial.tiers.tier import View
from tests.models.writers import VOCABULARY, tiny_t5
from tests.tiers.small import WORDS

FREE = ["*"]


def save_writer(folder: Path, seed: int = 1, layers: int = 2, **settings: Any) -> Path:
    """A folder as transformers leaves it."""
    tiny_t5(seed, layers=layers, **settings).save_pretrained(folder)
    build_piece_tokenizer([" ".join(WORDS)] * 3, "pieces", VOCABULARY, 32).save_pretrained(folder)
    return folder


def writer(name: str, label_names: list[str], seed: int = 1, head: str | None = None, **view: Any) -> TextToTextTier:
    """A tier in eval mode; ``head`` is ``classes`` or ``vocabulary``."""
    model = tiny_t5(seed, layers=view.pop("layers", 2))
    tokenizer = build_piece_tokenizer([" ".join(WORDS)] * 3, "pieces", VOCABULARY, 32)
    trained = None
    if head is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            outputs = len(label_names) if head == "classes" else len(tokenizer)
            trained = build_head(HeadConfig(head, hidden_size=32, outputs=outputs))  # type: ignore[arg-type]
    tier = TextToTextTier(
        name, View(path=name, **{"max_new_tokens": 8, **view}), model, tokenizer, 32, label_names, head=trained
    )
    return tier.eval()


def add_head(folder: Path, label_names: list[str], seed: int = 0) -> None:
    """Put an untrained head of classes beside a saved model."""
    from dial.tiers.loading import load_tier

    tier: Any = load_tier(str(folder), "x", label_names)
    torch.manual_seed(seed)
    fingerprints = encoder_fingerprint(encoder_of(tier.model)), vocabulary_fingerprint(tier.tokenizer)
    config = HeadConfig(
        "classes",
        hidden_size=32,
        outputs=len(label_names),
        encoder=fingerprints[0],
        vocabulary=fingerprints[1],
        label_words=tuple(label_names),
    )
    save_head(build_head(config), folder)


def favour(tier: TextToTextTier, words: list[str], bias: float) -> TextToTextTier:
    """Have a random decoder write these words in many rows: the first pieces likelier, the rest sure."""
    ids = [tier.tokenizer(word).input_ids for word in words]
    sequences = {tuple(pieces[:end]) for pieces in ids for end in range(1, len(pieces) + 1)}
    tier.model.generation_config.sequence_bias = [[list(p), bias if len(p) == 1 else 100.0] for p in sorted(sequences)]
    return tier
