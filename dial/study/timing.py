"""Models on the clock: a cascade's tiers and its Super's rivals, in turns, to every exit; and times by length."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dial.costs.times import TierTimes, TimeTable
from dial.machine import describe_machine, synchronise
from dial.tiers.tier import Encoding, Tier
from dial.tiers.tokens import Tokeniser, Tokens
from dial.tradeoff.rules import Threshold

TURN = 16  # batches that a contender runs before another one does
POINTS = 8  # lengths that a table is measured at
AGAIN, SHORT = 3, 50.0  # what takes fewer milliseconds is measured several times in a round


@dataclass(frozen=True)
class Timed:
    """One batch through one tier.

    Attributes:
        milliseconds: ``(E,)`` until the rows' answer at each exit is there, decision included.
        processor: milliseconds of processor time until the last, of all threads.
        outputs: ``(B, E, C)`` logits.
    """

    milliseconds: np.ndarray
    processor: float
    outputs: np.ndarray


def timed_run(tier: Tier, encoding: Encoding, score: str = "softmax") -> Timed:
    """Send a batch through a whole tier, all rows past every exit, as the executor would: with the decisions.

    Args:
        tier: in eval mode.
        encoding: tensors ``(B, T)`` on the tier's device.
        score: what the decisions compute; ``random`` where the task does not admit it.
    """
    rows = len(encoding["input_ids"])
    stages = (*tier.stage_names, "rest")
    score = score if score in tier.task.scores else "random"
    router = Threshold(score, (float("inf"),) * len(tier.exits), stages).router(np.arange(rows))
    marks: list[float] = []
    outputs: list[Tensor] = []

    def ask(exit_index: int, taken: Tensor, logits: Tensor, scores: Any = None) -> Tensor:
        keep = router(exit_index, taken, logits, scores)
        marks.append(time.perf_counter())
        outputs.append(logits)
        return keep

    with torch.inference_mode():
        synchronise(encoding["input_ids"].device)  # the encoding may still be on its way
        used, start = time.process_time(), time.perf_counter()
        tier.run(encoding, ask)
        used = time.process_time() - used
    milliseconds = 1e3 * (np.array(marks) - start)
    return Timed(milliseconds, 1e3 * used, torch.stack(outputs, dim=1).cpu().numpy())


class Contender:
    """A tier with the rows that it is timed on.

    Args:
        name: in tables.
        tier: in eval mode, on its device.
        units: texts or pairs.
        width: tokens that every row is padded to; None: a row alone is not padded.
        score: see :func:`timed_run`.

    Attributes:
        lengths: ``(N,)`` tokens of the rows.
        backend: what computes the tier.
    """

    def __init__(
        self, name: str, tier: Tier, units: Sequence[Any], width: int | None = None, score: str = "softmax"
    ) -> None:
        self.name, self.tier, self.width, self.score = name, tier.eval(), width, score
        self.device = next(tier.parameters()).device
        self.backend = tier.computed_by.split()[0]
        self.tokeniser = Tokeniser(tier)
        self.tokens: list[Tokens] = self.tokeniser(list(units))
        self.lengths = np.array([len(row.ids) for row in self.tokens])

    def encode(self, rows: Sequence[int] | np.ndarray) -> Encoding:
        """A batch of the given rows."""
        encoding = self.tokeniser.collate([self.tokens[i] for i in rows], self.device)
        return encoding if self.width is None else widened(encoding, self.width, self.tokeniser)

    def batches(self, size: int) -> list[np.ndarray]:
        """All rows, sorted by length and cut into batches."""
        order = np.argsort(self.lengths, kind="stable")
        return [order[start : start + size] for start in range(0, len(order), size)]

    def time(self, rows: Sequence[int] | np.ndarray) -> Timed:
        """One batch; encoding it is not timed."""
        return timed_run(self.tier, self.encode(rows), self.score)


def widened(encoding: Encoding, width: int, tokeniser: Tokeniser) -> Encoding:
    """An encoding padded to ``width`` tokens, as the papers' code pads every row to its maximum; longer ones stay."""
    missing = width - encoding["input_ids"].shape[1]
    if missing <= 0:
        return encoding
    encoding = {"attention_mask": torch.ones_like(encoding["input_ids"]), **encoding}
    sides = (missing, 0) if tokeniser.padding.pad_left else (0, missing)
    fill = {"input_ids": tokeniser.padding.pad_id, "token_type_ids": tokeniser.padding.pad_type}
    return {key: torch.nn.functional.pad(value, sides, value=fill.get(key, 0)) for key, value in encoding.items()}


@dataclass
class Clocked:
    """What a round took of one contender.

    Attributes:
        milliseconds: ``(N, E)`` per row to each exit: of the row alone, or its share of its batch.
        processor: milliseconds of processor time of all rows.
        outputs: ``(N, E, C)`` logits.
    """

    milliseconds: np.ndarray
    processor: float
    outputs: np.ndarray


def clock(contenders: Sequence[Contender], sizes: Mapping[str, int], seed: int) -> dict[str, Clocked]:
    """Run every contender over all of its rows once, a few batches at a time, in one random order of all.

    So a slow moment of the machine meets all of them alike, and yet a contender finds its weights in the caches, as it
    would where it runs over many rows.

    Args:
        contenders: with names of their own.
        sizes: rows per batch, by name.
        seed: of the order.
    """
    random = np.random.default_rng(seed)
    work: list[tuple[Contender, list[np.ndarray]]] = []
    for contender in contenders:
        batches = contender.batches(sizes[contender.name])
        order = random.permutation(len(batches))  # each turn meets rows of all lengths
        turns = np.array_split(order, -(-len(batches) // TURN))
        work += [(contender, [batches[i] for i in turn]) for turn in turns]
    clocked: dict[str, Clocked] = {}
    for index in random.permutation(len(work)):
        contender, mine = work[index]
        for rows in mine:
            timed = contender.time(rows)
            if contender.name not in clocked:
                shape = len(contender.tokens), *timed.outputs.shape[1:]
                clocked[contender.name] = Clocked(np.zeros(shape[:2]), 0.0, np.zeros(shape, dtype=np.float32))
            own = clocked[contender.name]
            own.milliseconds[rows] = timed.milliseconds / len(rows)
            own.outputs[rows] = timed.outputs
            own.processor += timed.processor
    return clocked


@dataclass
class TableTimer:
    """Measures a :class:`TimeTable`, a round at a time.

    Args:
        tiers: in eval mode, with names of their own.
        lengths: by tier tokens that occur; what is measured spans them.
        batch_sizes: by tier, ascending; the last is the best.
        points: lengths at most.
        seed: of token ids and of the order of measurements.
    """

    tiers: Sequence[Tier]
    lengths: Mapping[str, np.ndarray]
    batch_sizes: Mapping[str, Sequence[int]]
    points: int = POINTS
    seed: int = 0
    _milliseconds: dict[tuple[str, int, int], list[np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._grid = {tier.name: spread(self.lengths[tier.name], self.points) for tier in self.tiers}

    def round(self) -> None:
        """Every tier, batch size and length, in random order; what is quick several times in a row.

        At work, too, a tier follows now itself, its weights still in the caches, and now another one.
        """
        cells = [
            (tier, size, length)
            for tier in self.tiers
            for size in self.batch_sizes[tier.name]
            for length in self._grid[tier.name]
        ]
        for tier, size, length in cells if not self._milliseconds else ():
            timed_run(tier, self._encoding(tier, size, length))  # kernels are made for each new shape
        for index in self._random.permutation(len(cells)):
            tier, size, length = cells[index]
            measured = self._milliseconds.setdefault((tier.name, size, length), [])
            for repetition in range(AGAIN):
                if not repetition or measured[-1][-1] * size < SHORT:
                    measured.append(timed_run(tier, self._encoding(tier, size, length)).milliseconds / size)

    def table(self) -> TimeTable:
        """The means over the rounds so far: what many rows take on the machine as it is, with its slow moments."""
        times = {}
        for tier in self.tiers:
            grid = self._grid[tier.name]
            columns = {
                size: np.stack([np.mean(self._milliseconds[tier.name, size, n], axis=0) for n in grid], axis=1)
                for size in self.batch_sizes[tier.name]
            }
            times[tier.name] = TierTimes(tier.fingerprint, tuple(grid), columns)
        best = {tier.name: self.batch_sizes[tier.name][-1] for tier in self.tiers}
        device = next(self.tiers[0].parameters()).device
        return TimeTable(times, best, describe_machine(device))

    def _encoding(self, tier: Tier, size: int, length: int) -> Encoding:
        """Rows of random words, all of one length."""
        example = {key: value.expand(size, length).clone() for key, value in tier.example(length).items()}
        words = torch.from_numpy(self._random.integers(0, tier.model.config.vocab_size, (size, length)))
        ids, end = example["input_ids"], tier.batching.end_id
        if end is not None:  # a row ends once, as a text does
            place = torch.arange(length) == length - 1
            words = torch.where(place | (words == end), ids.cpu(), words)
        example["input_ids"] = words.to(ids.device)
        return example


def spread(lengths: np.ndarray, points: int) -> list[int]:
    """At most ``points`` lengths from the shortest to the longest, denser where rows are.

    Example:
        >>> spread(np.array([3, 4, 4, 5, 5, 5, 6, 20]), 4)
        [3, 4, 5, 20]
    """
    spaced = np.quantile(lengths, np.linspace(0, 1, points), method="nearest")
    return sorted({int(length) for length in spaced})
