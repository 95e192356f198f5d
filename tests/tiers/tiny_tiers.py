"""Tiers of a few units, and texts for them."""

from collections.abc import Callable
from pathlib import Path

import torch

from dial.tiers.loading import build_tier
from dial.tiers.tier import Tier

DATA = ["negative", "positive"]
TEXTS = ["a great film", "the plot was not so good and the cast is poor", "dull"]
MakeBert = Callable[..., Path]


def logits_of(tier: Tier) -> torch.Tensor:
    encoding = dict(tier.tokenizer(TEXTS, padding=True, return_tensors="pt"))
    with torch.no_grad():
        return tier.eval()(encoding)[:, 0]


def words_tier(**settings: object) -> Tier:
    tier = build_tier(
        {"model_type": "bilstm", "vocab_size": 30, **settings}, "words", DATA, max_length=16, name="swift"
    )
    tier.fit_tokenizer(lambda: TEXTS)
    return tier
