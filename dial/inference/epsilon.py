"""How far a row's score depends on the batch that it is in, and how many rows that can move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dial.inference.staged import StagedModel
from dial.tiers.tokens import Tokens, Unit
from dial.tradeoff.events import replay
from dial.tradeoff.rule import Reached, Rule

LAYOUTS = ((1, True), (7, False), (7, True), (64, False), (64, True))


FLOAT32 = 1e-5
"""How far scores of float32 tiers differ at most between batches of other rows."""


@dataclass(frozen=True)
class Epsilon:
    """Differences between batch layouts.

    Attributes:
        value: the largest difference between two layouts' scores of one row at one stage that decides.
        by_stage: the same for each stage that decides, by name.
        inside: share of rows of which a stage that decides lies no farther than that from its threshold: only these
            can be answered by another stage in another batch.
        moved: share of rows that some layout sends to another stage than another layout does.
        rows: how many were looked at.
    """

    value: float
    by_stage: dict[str, float]
    inside: float
    moved: float
    rows: int


@torch.inference_mode()
def measure_epsilon(
    network: StagedModel,
    rule: Rule,
    units: Sequence[Unit],
    layouts: Sequence[tuple[int, bool]] = LAYOUTS,
) -> Epsilon:
    """Compute every stage of every row in several batch layouts and compare the scores.

    In float32 the differences are below 1e-5; bf16 and int8 have their own, which depends on the model.

    Args:
        network: on the device where it is to run.
        rule: with its thresholds; one that counts instead of reading scores has no differences, and only ``moved``.
        units: texts or pairs, at least two.
        layouts: batch sizes, and whether rows are sorted by length.

    Raises:
        ValueError: too few rows.
    """
    if len(units) < 2:
        raise ValueError(f"`units` must be at least two texts, so that there are batches, but got {len(units)}.")
    tokens = [tier.tokeniser()(units) for tier in network.tiers]
    values = np.stack([_layout(network, rule, tokens, size, grouped) for size, grouped in layouts])
    thresholds = np.asarray(rule.thresholds)
    stages = np.stack([replay(each, thresholds) for each in values])
    moved = float((stages != stages[0]).any(axis=0).mean())
    deciding = values[..., :-1] if rule.reads_score else np.zeros_like(values[..., :-1])
    spread = np.ptp(deciding, axis=0)
    largest = float(spread.max(initial=0.0))
    near = np.abs(deciding[0] - thresholds) <= largest if rule.reads_score else np.zeros(deciding.shape[1:], dtype=bool)
    by_stage = dict(zip(rule.stages, spread.max(axis=0, initial=0.0).tolist(), strict=False))
    return Epsilon(largest, by_stage, float(near.any(axis=1).mean()), moved, len(units))


def _layout(network: StagedModel, rule: Rule, tokens: list[list[Tokens]], size: int, grouped: bool) -> np.ndarray:
    """What is compared with thresholds at all stages, ``(N, S)``, where rows are computed in batches of one size."""
    rows = len(tokens[0])
    order = sorted(range(rows), key=lambda i: len(tokens[0][i].ids)) if grouped else list(range(rows))
    device = next(network.parameters()).device
    values = np.zeros((rows, len(rule.stages)))
    tokenisers = [tier.tokeniser() for tier in network.tiers]
    for start in range(0, rows, size):
        batch = order[start : start + size]
        encodings = {
            tier.encoding_key: tokeniser.collate([own[i] for i in batch], device)
            for tier, tokeniser, own in zip(network.tiers, tokenisers, tokens, strict=True)
        }
        outputs, given = network.decide(encodings)
        if rule.reads_score and rule.score in network.late_scores:
            given = network.answered(encodings, (rule.score,)).scores
        logits, memory = outputs.float().cpu().numpy(), np.tile(np.array(rule.memory), (len(batch), 1))
        for stage in range(len(rule.stages) - 1):
            own_scores = {name: scores[:, stage] for name, scores in given.items()}
            values[batch, stage] = rule.confidence(
                Reached(stage, np.asarray(batch), logits[:, stage], own_scores, memory)
            )
    return values
