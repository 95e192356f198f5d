"""Small random tiers, texts for them, and their stage table by one row at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dial.inference.staged import StagedModel
from dial.models import MultiExitConfig, MultiExitForSequenceClassification
from dial.models.lengths import Lengths
from dial.stages import scores as routing
from dial.tiers.loading import build_tier
from dial.tiers.multi_exit import MultiExitTier
from dial.tiers.tier import Tier, View

CLASSES = ["bad", "fair", "good"]
WORDS = "the a film plot cast is was not but good bad dull fine great poor very so and of".split()
BERT = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.4}


def texts(rows: int, seed: int = 0, pairs: bool = False) -> list[Any]:
    """Texts (or pairs) of 1 to 20 words; one in nine is empty."""
    random = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(random.choice(WORDS, size=random.integers(1, 21))) if random.integers(9) else ""

    return [(text(), text()) if pairs else text() for _ in range(rows)]


def plain_tier(name: str, layers: int = 1, model_type: str = "bert", words: int = 30, max_length: int = 16) -> Tier:
    """A tier with a word-level tokenizer of its own; ``words`` sets the vocabulary and so the encoding key."""
    config: dict[str, Any] = {"model_type": model_type, "vocab_size": words}
    if model_type == "bert":
        config |= {**BERT, "num_hidden_layers": layers, "max_position_embeddings": 64}
    tier = build_tier(config, "words", CLASSES, max_length=max_length, name=name)
    tier.fit_tokenizer(lambda: iter(WORDS))
    if model_type != "bert":
        with torch.no_grad():
            for parameter in tier.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return tier.eval()


def exits_tier(name: str, like: Tier, exits: tuple[int, ...] = (1, 2, 3)) -> MultiExitTier:
    """A multi-exit BERT with the tokenizer of another tier."""
    encoder = {"model_type": "bert", "vocab_size": 30, "max_position_embeddings": 64, **BERT, "pad_token_id": 0}
    encoder["num_hidden_layers"] = exits[-1]
    config = MultiExitConfig(encoder=encoder, exits=list(exits), id2label=dict(enumerate(CLASSES)))
    model = MultiExitForSequenceClassification(config)
    with torch.no_grad():  # exits that differ, and logits that are not all alike
        for head in model.heads:
            head.linear.weight.normal_(std=0.6)
    return MultiExitTier(name, View(path=name), model, like.tokenizer, like.max_length, CLASSES).eval()


def dropping(tier: Tier, *lengths: float) -> Tier:
    """The tier, whose layers keep such shares of a row's tokens."""
    tier.drop_tokens(Lengths(lengths))
    return tier


def networks(seed: int) -> dict[str, StagedModel]:
    """Exits, cascades of two and three tiers, and both, by name."""
    torch.manual_seed(seed)
    base = plain_tier("base")
    return {
        "single": StagedModel([plain_tier("only")]),
        "exits": StagedModel([exits_tier("encoder", base)]),
        "cascade": StagedModel([plain_tier("swift", model_type="bilstm", words=12), plain_tier("super", 2)]),
        "one tokenizer": StagedModel([plain_tier("swift"), plain_tier("super", 2)]),
        "exits first": StagedModel([exits_tier("swift", base), plain_tier("super", 2, words=12)]),
        "three tiers": StagedModel(
            [plain_tier("first", words=12), exits_tier("second", base, (2, 3)), plain_tier("third", 3, words=20)]
        ),
        "dropping": StagedModel(
            [dropping(exits_tier("swift", base), 0.8, 0.5, 0.3), dropping(plain_tier("super", 2, words=12), 0.6, 0.2)]
        ),
    }


@torch.no_grad()
def outputs_one_by_one(network: StagedModel, units: list[Any]) -> np.ndarray:
    """Logits ``(N, S, C)``, each row alone and unpadded."""
    rows = []
    for unit in units:
        encodings = {}
        for tier in network.tiers:
            pair = [[unit]] if isinstance(unit, str) else [[text] for text in unit]  # type: ignore[list-item]
            encoding = tier.tokenizer(*pair, truncation=True, max_length=tier.max_length, return_tensors="pt")
            if encoding["input_ids"].numel() == 0:
                unknown = torch.tensor([[tier.tokenizer.unk_token_id]])
                encoding = {"input_ids": unknown, "attention_mask": torch.ones_like(unknown)}
            encodings[tier.encoding_key] = {key: value.long() for key, value in encoding.items()}
        rows.append(network(encodings)[0].numpy())
    return np.stack(rows)


def scores_of(name: str, outputs: np.ndarray, temperatures: list[float], seed: int = 0) -> np.ndarray:
    """Scores ``(N, S)`` as the stage table has them."""
    count = outputs.shape[1]
    if name == "random":
        return np.stack([routing.random_score(np.arange(len(outputs)), s, seed) for s in range(count)], axis=1)
    return np.stack([routing.compute(name, outputs[:, s], temperatures[s]) for s in range(count)], axis=1)
