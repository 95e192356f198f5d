"""How far a row's score depends on the batch that it is in, and how many rows that can move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dial.inference.router import Decision, replayed
from dial.inference.staged import StagedModel
from dial.tiers.tokens import Tokeniser, Tokens, Unit

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
    decision: Decision,
    units: Sequence[Unit],
    layouts: Sequence[tuple[int, bool]] = LAYOUTS,
) -> Epsilon:
    """Compute every stage of every row in several batch layouts and compare the scores.

    In float32 the differences are below 1e-5; bf16 and int8 have their own, which depends on the model.

    Args:
        network: on the device where it is to run.
        decision: what decides, with its thresholds; ``patience`` has no score, and only ``moved``.
        units: texts or pairs, at least two.
        layouts: batch sizes, and whether rows are sorted by length.

    Raises:
        ValueError: too few rows.
    """
    if len(units) < 2:
        raise ValueError(f"`units` must be at least two texts, so that there are batches, but got {len(units)}.")
    tokens = [tokeniser(units) for tokeniser in map(Tokeniser, network.tiers)]
    found = [_layout(network, decision, tokens, size, grouped) for size, grouped in layouts]
    scores, predictions = np.stack([one for one, _ in found]), np.stack([other for _, other in found])
    stages = np.stack([replayed(decision, s, p) for s, p in zip(scores, predictions, strict=True)])
    moved = float((stages != stages[0]).any(axis=0).mean())
    deciding = scores[..., :-1]
    spread = np.ptp(deciding, axis=0) if decision.rule != "patience" else np.zeros(deciding.shape[1:])
    largest = float(spread.max(initial=0.0))
    near = np.abs(deciding[0] - np.asarray(decision.thresholds)) <= largest
    inside = float(near.any(axis=1).mean()) if decision.rule != "patience" else 0.0
    by_stage = dict(zip(decision.stages, spread.max(axis=0, initial=0.0).tolist(), strict=False))
    return Epsilon(largest, by_stage, inside, moved, len(units))


def _layout(
    network: StagedModel, decision: Decision, tokens: list[list[Tokens]], size: int, grouped: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and predictions ``(N, S)`` of all stages where rows are computed in batches of one size."""
    rows = len(tokens[0])
    order = sorted(range(rows), key=lambda i: len(tokens[0][i].ids)) if grouped else list(range(rows))
    device = next(network.parameters()).device
    count = len(decision.stages)
    scores, predictions = np.zeros((rows, count)), np.zeros((rows, count))
    tokenisers = [Tokeniser(tier) for tier in network.tiers]
    for start in range(0, rows, size):
        batch = order[start : start + size]
        encodings = {
            tier.encoding_key: tokeniser.collate([own[i] for i in batch], device)
            for tier, tokeniser, own in zip(network.tiers, tokenisers, tokens, strict=True)
        }
        outputs, given = network.decide(encodings)
        logits = outputs.float().cpu().numpy()
        predictions[batch] = network.task.predict(logits)
        for stage in range(count - 1 if decision.rule != "patience" else 0):
            own_scores = {name: values[:, stage] for name, values in given.items()}
            scores[batch, stage] = decision.scores(stage, np.asarray(batch), logits[:, stage], own_scores)
    return scores, predictions
