"""The measured study: a cascade and its rivals on the clock, in turns, on the rows of one split."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dial.costs.times import TimeTable
from dial.inference.batch_size import BatchSizes, best_batch_size
from dial.inference.executor import Executor
from dial.inference.staged import StagedModel
from dial.machine import describe_machine, instruction_sets
from dial.stages.table import StageTable
from dial.study.analysis import Measured, Point, Times, analyse, choose_exits, choose_points, exits_score, rule_at
from dial.study.parts import Parts
from dial.study.rivals import check_names, rivals
from dial.study.timing import Clocked, Contender, TableTimer, clock
from dial.tradeoff.rules import Rule
from dial.tradeoff.taken import quality_of, super_alone

SEARCHED_ROWS = 256
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudySettings:
    """What to measure.

    Attributes:
        rows: of the reported split that are timed, spread evenly.
        repeats: of everything.
        targets: shares of the Super's quality.
        pad_to: tokens that the papers pad every row to.
        score: decides; None: the table's first that is not random.
        folds: of cross-fitting, where there are no calibration rows.
        seed: of orders and resamples.
        compiled: whether the Super is compiled ahead of time as a rival, too.
        batch_size: rows of the batches of all models; None: the best of each is searched for, which takes minutes.
    """

    rows: int = 500
    repeats: int = 5
    targets: tuple[float, ...] = (0.99, 0.98)
    pad_to: int = 128
    score: str | None = None
    folds: int = 5
    seed: int = 0
    compiled: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("repeats", 1), ("pad_to", 1), ("folds", 2), ("batch_size", 1)):
            value = getattr(self, name)
            if name == "batch_size" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"`{name}` must be a whole number from {least} up, but got {value!r}.")
        if not self.targets or not all(0 < target <= 1 for target in self.targets):
            raise ValueError(f"`targets` must be shares of the Super's quality in (0, 1], but got {self.targets!r}.")


def chosen_score(table: StageTable, settings: StudySettings) -> str:
    """The score that decides.

    Raises:
        ValueError: the table does not hold the one that was asked for.
    """
    score = settings.score or next((name for name in table.scores if name != "random"), "random")
    if score not in table.scores:
        raise ValueError(f"`score` must be one of {', '.join(table.scores)}, but got {score!r}.")
    return score


def spread_evenly(count: int, rows: int) -> np.ndarray:
    """Positions of so many of the rows, or of all of them, ``(N,)`` ascending."""
    return np.unique(np.linspace(0, rows - 1, min(count, rows)).round().astype(np.int64))


class Study:
    """Measures, and keeps what it measured.

    Args:
        network: the cascade (or model with exits), in eval mode on its device.
        table: its stage table, reported split and calibration rows.
        split: the reported split.
        units: text or pair of each of its rows, by ``sample_id``.
        settings: what to measure.
        cache_dir: where best batch sizes are kept.
        exits: another model with exits (DeeBERT) and its stage table, with the same rows.

    Raises:
        ValueError: a single stage, a tier called like a rival, a score that the table does not hold, or an exits table
            of other rows.
    """

    def __init__(
        self,
        network: StagedModel,
        table: StageTable,
        split: str,
        units: Mapping[Any, Any],
        settings: StudySettings,
        cache_dir: str | Path,
        exits: tuple[StagedModel, StageTable] | None = None,
    ) -> None:
        self.network, self.settings, self.cache_dir = network.eval(), settings, cache_dir
        if len(network.stages) < 2:
            raise ValueError(
                "`study` compares stages, but the model has one; give a cascade, or a model with several exits."
            )
        check_names(list(network.tiers), exits is not None, settings.compiled)
        self.rows = table.of_split(split)
        self.held_out = table.of_split("calibration") if "calibration" in table.splits else None
        self.score = chosen_score(table, settings)
        self.sampled = spread_evenly(settings.rows, len(self.rows))
        self.everything = [units[identity] for identity in self.rows.sample_id.tolist()]
        self.units = [self.everything[i] for i in self.sampled.tolist()]
        self.points = choose_points(self.rows, self.held_out, self.score, settings.targets, settings.folds)
        self.exits = None if exits is None else (exits[0].eval(), *self._exits_points(exits[1]))
        self.contenders = self._contenders()
        self.times: TimeTable | None = None

    def _exits_points(self, table: StageTable) -> tuple[StageTable, list[Point]]:
        """Rows and chosen points of the run with exits, which must be over the rows of this one."""
        rows = table.of_split(self.rows.splits[0])
        if not np.array_equal(rows.sample_id, self.rows.sample_id) or not np.array_equal(rows.label, self.rows.label):
            raise ValueError(
                f"`exits` must be a run over the same rows, but its split {rows.splits[0]} has {len(rows)} rows "
                f"and other ids or labels than the {len(self.rows)} of this one; test both on the same data."
            )
        held_out = table.of_split("calibration") if "calibration" in table.splits else None
        if self.held_out is None:
            held_out = None
        tables = {"in_sample": self.rows, "expected": self.held_out}
        reference = {name: quality_of(super_alone(rows)) for name, rows in tables.items() if rows is not None}
        points = choose_exits(rows, held_out, exits_score(rows), self.settings.targets, reference)
        return rows, points

    def _contenders(self) -> list[Contender]:
        """The cascade's tiers, the Super's rivals, and the model with exits."""
        contenders = [Contender(tier.name, tier, self.units) for tier in self.network.tiers]
        others, self.skipped = rivals(self.network.tiers[-1], self.units, self.settings.pad_to, self.settings.compiled)
        exits = () if self.exits is None else self.exits[0].tiers
        return contenders + others + [Contender("exits", tier, self.units) for tier in exits]

    def run(self, say: Callable[[str], None] = logger.info) -> dict[str, Any]:
        """Measure everything, ``repeats`` times in turns.

        Args:
            say: gets a line on the progress, as it takes minutes.

        Returns:
            Results as plain values (see :func:`dial.study.analysis.analyse`), with machine and settings.
        """
        sizes = self._batch_sizes(say)
        ones = dict.fromkeys(sizes, 1)
        batches = {"1": ones, "best": sizes}
        points = [p for p in self.points if (p.method, p.reading) == ("cascade", "expected")]
        runs: list[dict[str, Any]] = [
            {"target": p.target, "point": p, "batch": name, "batch_sizes": self._own(chosen)}
            for p in points
            for name, chosen in batches.items()
        ]
        for run in runs:
            run |= {"model_ms": [], "wall_ms": [], "processor_ms": []}
        lengths = {c.name: c.lengths for c in self.contenders}
        timer = TableTimer(
            self.network.tiers,
            lengths,
            {tier.name: sorted({1, sizes[tier.name]}) for tier in self.network.tiers},
            seed=self.settings.seed,
        )
        rounds: dict[str, list[dict[str, Clocked]]] = {name: [] for name in batches}
        self._warm_up(sizes)
        parts = Parts(self.settings.repeats * (len(batches) + len(runs) + 1), say)
        for repeat in range(self.settings.repeats):
            for name, chosen in batches.items():
                rounds[name].append(clock(self.contenders, chosen, self.settings.seed + repeat))
                parts.done()
            for index in np.random.default_rng(self.settings.seed + repeat).permutation(len(runs)):
                self._execute(runs[index])
                parts.done()
            timer.round()
            parts.done()
        self.times = timer.table()
        self._predict(runs)
        measured = self._measured(rounds, runs, sizes)
        machine = describe_machine(next(self.network.parameters()).device) | {"instruction_sets": instruction_sets()}
        settings = dataclasses.asdict(self.settings)
        head = {"schema": 1, "task": self.rows.settings.get("task"), "machine": machine, "settings": settings}
        return head | {"skipped": self.skipped} | analyse(measured)

    def _own(self, sizes: Mapping[str, int]) -> dict[str, int]:
        return {tier.name: sizes[tier.name] for tier in self.network.tiers}

    def _batch_sizes(self, say: Callable[[str], None]) -> dict[str, int]:
        """The best batch size of every contender, searched or known, or the one that is set.

        The padded Super takes the Super's.

        Args:
            say: gets a line on each, as a search takes minutes where models are large.
        """
        self._batch_size: dict[str, BatchSizes] = {}
        if (size := self.settings.batch_size) is not None:
            self._batch_size = {contender.name: BatchSizes(size, {}) for contender in self.contenders}
            return dict.fromkeys(self._batch_size, size)
        last = self.network.tiers[-1].name
        spaced = np.unique(np.linspace(0, len(self.everything) - 1, SEARCHED_ROWS).round().astype(int))
        for contender in self.contenders:
            if contender.width is None:
                tokens = contender.tokeniser([self.everything[i] for i in spaced])
                found = self._batch_size[contender.name] = best_batch_size(contender.tier, tokens, self.cache_dir)
                say(f"study: best batch size of {contender.name}: {found.best}")
        self._batch_size[f"{last}-padded"] = self._batch_size[last]
        return {name: sizes.best for name, sizes in self._batch_size.items()}

    def _warm_up(self, sizes: Mapping[str, int]) -> None:
        """One batch of each kind that does not count."""
        for contender in self.contenders:
            contender.time(contender.batches(sizes[contender.name])[0])
            contender.time([0])

    def _execute(self, run: dict[str, Any]) -> None:
        """The executor on the timed rows' texts, at one point and in batches of one kind."""
        executor = Executor(self.network, self.rule(run["point"]), batch_sizes=run["batch_sizes"])
        ids = self.rows.sample_id[self.sampled].tolist()
        numbered = list(zip(ids if isinstance(ids[0], int) else range(len(ids)), self.units, strict=True))
        used, start = time.process_time(), time.perf_counter()
        answers = list(executor.run(numbered, numbered=True))
        wall, used = time.perf_counter() - start, time.process_time() - used
        count = len(answers)
        run["model_ms"].append(1e3 * sum(work.seconds for work in executor.work.values()) / count)
        run["wall_ms"].append(1e3 * wall / count)
        run["processor_ms"].append(1e3 * used / count)
        taken = np.bincount([answer.stage for answer in answers], minlength=len(self.network.stages)) / count
        run["shares"] = dict(zip(self.rows.stage_names, taken.tolist(), strict=True))
        run["taken"] = np.array([answer.stage for answer in answers])

    def rule(self, point: Point) -> Rule:
        """What the executor runs a point by."""
        return rule_at(self.rows, self.score, point.thresholds)

    def _predict(self, runs: Sequence[dict[str, Any]]) -> None:
        """What the table of times says of each run, from the rows' lengths and stages alone."""
        assert self.times is not None
        lengths = {contender.name: contender.lengths for contender in self.contenders}
        for run in runs:
            left_out = self.rule(run["point"]).left_out([stage.tier for stage in self.rows.stages])
            run["predicted_ms"] = self.times.mean_time(
                self.rows.stages, lengths, run["taken"], run["batch_sizes"], left_out
            )

    def _measured(
        self,
        rounds: Mapping[str, Sequence[Mapping[str, Clocked]]],
        runs: Sequence[Mapping[str, Any]],
        sizes: Mapping[str, int],
    ) -> Measured:
        """What the clock gave, as the analysis reads it."""
        times = {
            kind: {
                c.name: Times(
                    np.stack([clocked[c.name].milliseconds for clocked in each]),
                    np.array([clocked[c.name].processor for clocked in each]),
                )
                for c in self.contenders
            }
            for kind, each in rounds.items()
        }
        last = self.network.tiers[-1].name
        throughput = {c.name: self._batch_size[c.name].throughput for c in self.contenders}
        for name, own in throughput.items():  # where none was searched for, what the rounds took
            own.setdefault(sizes[name], 1e3 / float(np.median(times["best"][name].last().mean(axis=1))))
        models = {
            c.name: {
                "dtype": c.tier.view.dtype,
                "backend": c.backend,
                "padded_to": c.width,
                "batch_size": sizes[c.name],
                "throughput": {str(size): rows for size, rows in throughput[c.name].items()},
            }
            for c in self.contenders
        }
        outputs = {name: clocked.outputs[:, -1] for name, clocked in rounds["1"][0].items()}
        exits = None if self.exits is None else (self.exits[1], self.exits[2], "exits")
        kinds = times["1"], times["best"]
        head = self.rows, self.sampled, self.score, self.points
        return Measured(*head, *kinds, outputs, models, f"{last}-padded", exits, runs)
