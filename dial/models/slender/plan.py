"""How slender a model is to become, and in which steps."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from dial.models.slender.embeddings import FactorisedEmbedding, word_embedding
from dial.models.slender.structures import Kind, of_kind, structures

Course = Literal["linear", "cubic"]


@dataclass(frozen=True)
class Target:
    """Sizes of a slender model.

    Args:
        heads: attention heads kept per layer (on average, under global ranking).
        neurons: width of the feed-forward network kept per layer.
        rank: of the word embeddings; None leaves them as they are.
    """

    heads: int
    neurons: int
    rank: int | None

    def of(self, kind: Kind) -> int:
        """Structures of a kind kept per layer."""
        return self.heads if kind == "heads" else self.neurons


class Sizes:
    """Parameters of a model as a function of its target.

    Args:
        model: an encoder whose layers are equally wide, or a model with one inside.

    Raises:
        ValueError: widths differ between layers.
    """

    def __init__(self, model: nn.Module) -> None:
        axes = structures(model)
        self.total = sum(parameter.numel() for parameter in model.parameters())
        self.layers = len(of_kind(axes, "heads"))
        self.count: dict[Kind, int] = {}
        self.each: dict[Kind, int] = {}
        kinds: tuple[Kind, Kind] = ("heads", "neurons")
        for kind in kinds:
            counts = [axis.count for axis in of_kind(axes, kind)]
            if len(set(counts)) > 1:
                raise ValueError(
                    f"`model` must have equally many {kind} in all layers, but has {counts}; start from the model "
                    "before it was made slender."
                )
            self.count[kind], self.each[kind] = counts[0], of_kind(axes, kind)[0].parameters_each
        embedding = word_embedding(model)
        self.words, self.width = embedding.num_embeddings, embedding.embedding_dim
        self.rank = embedding.rank if isinstance(embedding, FactorisedEmbedding) else None

    def parameters(self, target: Target) -> int:
        """All parameters of the slender model."""
        lost = sum((count - target.of(kind)) * self.each[kind] for kind, count in self.count.items())
        table = self.words * self.width
        if target.rank is not None and self.rank is None:
            table -= target.rank * (self.words + self.width)
            return self.total - self.layers * lost - table
        return self.total - self.layers * lost

    def check(self, target: Target) -> None:
        """Raise a ValueError if the model cannot be cut to the target."""
        for name, value, high in (
            ("heads", target.heads, self.count["heads"]),
            ("intermediate", target.neurons, self.count["neurons"]),
            ("embedding_rank", target.rank, min(self.words, self.width)),
        ):
            if value is not None and not 1 <= value <= high:
                raise ValueError(f"`{name}` must lie between 1 and {high}, the model's own, but got {value}.")
        if self.rank is not None and target.rank not in (None, self.rank):
            raise ValueError(
                f"`embedding_rank` must be {self.rank}, to which the embeddings are factorised, but got {target.rank}."
            )

    def target(self, compression: float) -> Target:
        """The sizes that reach a compression factor of all parameters.

        Heads and rank keep the same share of the model, as in COST-EFF's Table 2 (2 of 12 heads at 8 times, 6 at 2
        times); the feed-forward networks take what is left.

        Args:
            compression: parameters before over parameters after, above 1; the result reaches it and hardly more.

        Raises:
            ValueError: no sizes reach it.
        """
        if not compression > 1:
            raise ValueError(f"`compression` must be above 1, but got {compression}.")
        budget = self.total / compression
        rank = None if self.rank is not None else 1
        smallest = self.parameters(Target(1, 1, rank))
        if smallest > budget:
            raise ValueError(
                f"`compression` must be at most {int(100 * self.total / smallest) / 100:g} for this model of "
                f"{self.total:,} parameters, but got {compression:g}."
            )
        share = self._share(budget)
        for heads in range(math.ceil(share * self.count["heads"]), 0, -1):
            rank = self._useful_rank(heads / self.count["heads"])
            neurons = self._neurons(heads, rank, budget)
            if neurons >= max(1, share * self.count["neurons"] / 2):
                return Target(heads, neurons, rank)
        # Even one head has a greater share than what is left of a very slender model; then the rank gives way too.
        while (neurons := self._neurons(1, rank := self._useful_rank(share), budget)) < 1:
            share *= 0.98
        return Target(1, neurons, rank)

    def _share(self, budget: float) -> float:
        """Share of heads, neurons and rank at which a model of the given parameters keeps equal shares of all."""
        fixed = self.total - self.layers * sum(self.count[kind] * self.each[kind] for kind in self.count)
        table = self.words * self.width
        if self.rank is None:
            fixed -= table
        whole = self.total - fixed - (table if self.rank is None else 0)
        factors = self.width * (self.words + self.width) if self.rank is None else 0
        return min(1.0, max(1e-9, (budget - fixed) / (whole + min(factors, table))))

    def _useful_rank(self, share: float) -> int | None:
        """Rank at a share of the width; None where factors are no smaller than the table, or are there already."""
        rank = max(1, round(share * self.width))
        rank = rank if rank < 16 else rank // 8 * 8
        useful = rank * (self.words + self.width) < self.words * self.width
        return rank if useful and rank <= min(self.words, self.width) and self.rank is None else None

    def _neurons(self, heads: int, rank: int | None, budget: float) -> int:
        """Widest feed-forward networks within the budget; wide ones are multiples of 8."""
        room = budget - self.parameters(Target(heads, 0, rank))
        neurons = max(0, min(self.count["neurons"], int(room // (self.layers * self.each["neurons"]))))
        return neurons if neurons < 16 else neurons // 8 * 8


@dataclass(frozen=True)
class Schedule:
    """Steps of the optimiser before which structures are removed.

    Args:
        start: step from which the first interval counts.
        stop: step before which the last structures are removed.
        prunings: how often, at equal distances.
        course: ``linear``, or ``cubic``, which removes most at first.

    Raises:
        ValueError: no interval, or fewer steps than prunings.
    """

    start: int
    stop: int
    prunings: int
    course: Course = "linear"

    def __post_init__(self) -> None:
        if self.start < 0 or self.prunings < 1 or self.stop - self.start < self.prunings:
            raise ValueError(
                f"`stop` must lie at least `prunings` = {self.prunings} steps (at least 1) after `start`, but got "
                f"steps {self.start} to {self.stop}; prune less often, or train longer."
            )

    def step(self, pruning: int) -> int:
        """Step before which a pruning (from 1) takes place."""
        return self.start + round((self.stop - self.start) * pruning / self.prunings)

    def kept(self, pruning: int, count: int, target: int) -> int:
        """Structures of a layer that a pruning (from 1) leaves.

        >>> [Schedule(0, 100, 4).kept(i, 12, 2) for i in range(1, 5)]
        [10, 7, 5, 2]
        """
        left = 1 - pruning / self.prunings
        if self.course == "cubic":
            left = left**3
        return target + int((count - target) * left + 0.5 * (left > 0))

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def to_steps(value: int | float, total: int, argument: str) -> int:
    """A step: an integer is one already, a float is a share of the run.

    Raises:
        ValueError: outside the run.

    >>> to_steps(0.5, 200, "stop"), to_steps(30, 200, "stop")
    (100, 30)
    """
    step = round(value * total) if isinstance(value, float) else value
    if not 0 <= step < total:
        raise ValueError(
            f"`{argument}` must lie before the end of the run of {total} steps (a float is a share of them), but got "
            f"{value}; train longer, or end the schedule earlier."
        )
    return step
