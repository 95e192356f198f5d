"""Search for length configurations on the front of MACs and quality (Kim and Cho 2021, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dial.costs.dropping import LayerCosts
from dial.models.lengths import Lengths
from dial.stages.metrics.metrics import evaluate
from dial.tiers.batching import Encoding
from dial.tiers.fronts import Individual, pareto
from dial.tiers.tier import Tier
from dial.tiers.tokens import Unit

DIGITS = 3  # of shares
LEAST = 0.001  # share: the first token alone
Evaluate = Callable[[Lengths], tuple[float, float]]


@dataclass(frozen=True)
class Evolution:
    """An evolutionary search.

    The first generation keeps one ratio from layer to layer, from all tokens down to ``1 - length_drop`` of those of
    the layer before. Each later one has as many configurations again, made of those on the front so far: one half by
    mutation, where each layer's share is drawn anew with a probability, evenly between the parent's next layer and the
    child's layer before; the other by crossover, the mean of two parents. Each generation draws from its own seed, so
    that a search that goes on ends as one in a piece.

    Args:
        depth: layers of the model.
        population: configurations of a generation, from 2.
        generations: after the first, from 0.
        mutation: probability with which a layer is drawn anew, above 0 up to 1.
        length_drop: share of its tokens that a layer drops at most in the first generation.
        seed: of all draws.

    Raises:
        ValueError: an argument is outside its range.
    """

    depth: int
    population: int = 20
    generations: int = 15
    mutation: float = 0.5
    length_drop: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("population", 2), ("generations", 0), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"`{name}` must be at least {low}, but got {getattr(self, name)}.")
        if not 0 < self.mutation <= 1:
            raise ValueError(f"`mutation` must be a probability above 0, but got {self.mutation}.")
        if not 0 < self.length_drop < 1:
            raise ValueError(f"`length_drop` must be above 0 and below 1, but got {self.length_drop}.")

    def run(self, evaluate: Evaluate, done: Sequence[Individual], first: int = 0) -> Iterator[list[Individual]]:
        """All individuals so far, after each generation from ``first`` on.

        Args:
            evaluate: gives MACs and quality of a configuration; asked once for each.
            done: individuals of the generations before ``first``.
            first: generation to start with.
        """
        known = {one.lengths: one for one in done}
        for generation in range(first, self.generations + 1):
            for lengths in self._generation(generation, pareto(list(known.values()))):
                if lengths not in known:
                    known[lengths] = Individual(lengths, *evaluate(lengths))
            yield list(known.values())

    def _generation(self, number: int, front: Sequence[Individual]) -> list[Lengths]:
        """Length configurations to look at next: an even spread first, then mutants and means of the front's."""
        if number == 0:
            ratios = 1 - np.linspace(0, self.length_drop, self.population)
            return [_lengths(ratio ** np.arange(1, self.depth + 1)) for ratio in ratios]
        random = np.random.default_rng([self.seed, number])
        parents = [np.array(one.lengths.values) for one in front]
        half = self.population // 2
        mutants = [self._mutated(parents[random.integers(len(parents))], random) for _ in range(self.population - half)]
        crossed = [np.mean([parents[i] for i in random.integers(len(parents), size=2)], axis=0) for _ in range(half)]
        return [_lengths(values) for values in (*mutants, *crossed)]

    def _mutated(self, parent: np.ndarray, random: np.random.Generator) -> np.ndarray:
        child, before = parent.copy(), 1.0
        for layer, following in enumerate([*parent[1:], LEAST]):
            if random.random() < self.mutation:
                child[layer] = random.uniform(following, before)
            child[layer] = before = min(child[layer], before)
        return child


def _lengths(values: np.ndarray) -> Lengths:
    return Lengths(tuple(float(max(LEAST, round(value, DIGITS))) for value in values))


class Evaluation:
    """MACs and quality of a tier with a length configuration on some rows.

    Args:
        tier: in eval mode.
        units: texts, or pairs of texts; for a tier that answers by spans questions and their contexts.
        label: ``(N,)``; for such a tier the right answers to each question.
        metric: name.
        batch_size: rows computed at once.
    """

    def __init__(
        self, tier: Tier, units: Sequence[Unit], label: Sequence[Any] | np.ndarray, metric: str, batch_size: int = 32
    ) -> None:
        self.tier, self.metric = tier, metric
        tokeniser = tier.tokeniser()
        tokens = tokeniser(units)
        order = np.argsort([len(row.ids) for row in tokens], kind="stable")
        self.label = [label[row] for row in order]
        windows = [getattr(row, "sizes", [len(row.ids)]) for row in tokens]  # what the model reads at once
        self.length = np.concatenate(windows).astype(np.int64)
        device = next(tier.parameters()).device
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        self.batches = [tokeniser.collate([tokens[row] for row in rows], device) for rows in batches]
        whole = Lengths((1.0,) * int(tier.model.config.num_hidden_layers))
        with tier.at_lengths(whole):
            self.costs = LayerCosts(tier, tier.path(len(tier.exits) - 1))
        self._whole = float(self.costs(self.length, whole).sum())

    def __call__(self, lengths: Lengths) -> tuple[float, float]:
        """MACs of all rows, as a share of those of all tokens, and the quality."""
        with self.tier.at_lengths(lengths), torch.inference_mode():
            answers = np.concatenate([self._answers(batch) for batch in self.batches])
        label: Any = self.label if self.tier.writes else self.tier.task.labels(np.array(self.label))
        quality = evaluate(self.metric, label, answers)
        return float(self.costs(self.length, lengths).sum()) / self._whole, float(quality)

    def _answers(self, batch: Encoding) -> np.ndarray:
        if self.tier.writes:
            rows = torch.arange(self.tier.rows_in(batch), device=batch["input_ids"].device)
            return np.array(self.tier.write(batch, rows).texts, dtype=object)
        return self.tier.task.predict(self.tier(batch)[:, -1:].float().cpu().numpy())[:, 0]
