"""A model that gives itself a score, in one file: how few tokens a text has, negated, as if shorter ones were surer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from dial.stages.scores import MODEL_SCORES
from dial.tiers.batching import Encoding
from dial.tiers.contract import GoOn, Scores
from dial.tiers.loading import KINDS
from dial.tiers.tier import Tier


class BrevityConfig(BertConfig):
    """BERT under another name."""

    model_type = "brevity"


class BrevityModel(BertForSequenceClassification):
    """BERT under another name."""

    config_class = BrevityConfig


class BrevityTier(Tier):
    """Gives the score ``brevity`` beside its logits."""

    model_scores = ("brevity",)

    def decide(self, encoding: Encoding) -> tuple[Tensor, Scores]:
        """See :class:`~dial.tiers.contract.TierContract`."""
        return self(encoding), {"brevity": brevity(encoding)[:, None]}

    def run(self, encoding: Encoding, go_on: GoOn, scores: bool = False) -> Any:
        """See :class:`~dial.tiers.contract.TierContract`."""
        outputs = self(encoding)[:, 0]
        more = ({"brevity": brevity(encoding)},) if scores else ()
        go_on(0, torch.arange(len(outputs)), outputs, *more)


def brevity(encoding: Encoding) -> Tensor:
    """Minus the tokens of each row, ``(B,)``."""
    mask = encoding.get("attention_mask", torch.ones_like(encoding["input_ids"]))
    return -mask.sum(dim=1).double()


AutoConfig.register(BrevityConfig.model_type, BrevityConfig, exist_ok=True)
AutoModelForSequenceClassification.register(BrevityConfig, BrevityModel, exist_ok=True)
KINDS[BrevityConfig.model_type] = BrevityTier
MODEL_SCORES["brevity"] = "which only brevity models give"
