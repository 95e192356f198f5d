"""E-LANG's Table 1 of tiers that write, measured: answers, speed-up in FLOPs and in time, share of the Swift.

Every row of the table is the executor at work: with thresholds that let all rows stay it is the Swift alone, with such
that let none stay the Super alone, for which the Swift does not run. So all pay for the same queues and decisions.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dial.files import atomic_write, write_json
from dial.inference.batch_size import best_batch_size
from dial.inference.executor import Executor
from dial.inference.staged import StagedModel
from dial.machine import describe_machine, synchronise
from dial.report.tables import percent, table, with_interval
from dial.stages.table import StageTable
from dial.study.analysis import choose_points, rule_at, spread
from dial.study.parts import Parts
from dial.study.study import SEARCHED_ROWS, StudySettings, chosen_score, spread_evenly
from dial.tradeoff.taken import Taken, quality_of, super_alone

NO_SCORE = (
    "`{}` must be one that looks at the rows, but got 'random'; train an energy head, or name a score of finished "
    "answers (--sweep.scores '[answer_log_probability]')."
)
logger = logging.getLogger(__name__)


@dataclass
class Arm:
    """One way to answer the rows, and what it took.

    Attributes:
        name: in the table.
        target: share of the Super's quality, where there is one.
        taken: what it does with every reported row; where it was cross-fitted, chosen without that row.
        thresholds: that the executor runs with.
        replayed: ``(N,)`` stage of every reported row at these thresholds.
        seconds: by kind of batches (``1``, ``best``), of each repetition: of the models, of all with tokenising, and of
            the processor.
        otherwise: by kind of batches, rows that were not answered as the replay says.
    """

    name: str
    target: float | None
    taken: Taken
    thresholds: tuple[float, ...]
    replayed: NDArray[np.int16]
    seconds: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)
    otherwise: dict[str, int] = field(default_factory=dict)


class WrittenStudy:
    """Measures, and keeps what it measured.

    Args:
        network: cascade with tiers that write, in eval mode on its device.
        table: its stage table, reported split and calibration rows.
        split: the reported split.
        units: source of each of its rows as the tiers read it, by ``sample_id``.
        settings: what to measure.
        cache_dir: where best batch sizes are kept.

    Raises:
        ValueError: a score that the table does not hold.
    """

    def __init__(
        self,
        network: StagedModel,
        table: StageTable,
        split: str,
        units: Mapping[Any, Any],
        settings: StudySettings,
        cache_dir: str | Path,
    ) -> None:
        self.network, self.settings, self.cache_dir = network.eval(), settings, cache_dir
        self.rows = table.of_split(split)
        held_out = table.of_split("calibration") if "calibration" in table.splits else None
        self.score = chosen_score(table, settings)
        if self.score == "random":
            raise ValueError(NO_SCORE.format("score"))
        self.sampled = spread_evenly(settings.rows, len(self.rows))
        identities = self.rows.sample_id[self.sampled].tolist()
        whole = isinstance(identities[0], int)
        self.units = [(one if whole else i, units[one]) for i, one in enumerate(identities)]
        points = choose_points(self.rows, held_out, self.score, settings.targets, settings.folds)
        points = [p for p in points if (p.method, p.reading) == ("cascade", "expected")]
        self.crossfit = held_out is None
        self.arms = self._alone() + [self._arm(p.method, p.target, p.taken, p.thresholds) for p in points]

    def _alone(self) -> list[Arm]:
        """The first stage and the last, each for all rows."""
        below = len(self.rows.stages) - 1
        arms = []
        for stage, threshold in ((0, -np.inf), (below, np.inf)):
            taken = rule_at(self.rows, self.score, (threshold,) * below).taken(self.rows)
            arms.append(self._arm(self.rows.stage_names[stage], None, taken, (threshold,) * below))
        return arms

    def _arm(self, name: str, target: float | None, taken: Taken, thresholds: tuple[float, ...]) -> Arm:
        """One whose decisions are told, with the thresholds that the executor runs with and what these come to.

        Cross-fitted decisions have thresholds of their own in each fold; the executor runs with those of all rows, of
        which the table tells times alone.
        """
        replayed = rule_at(self.rows, self.score, thresholds).taken(self.rows).stages
        assert replayed is not None  # thresholds decide, and no coin
        return Arm(name, target, taken, thresholds, replayed)

    def run(self, say: Callable[[str], None] = logger.info) -> dict[str, Any]:
        """Measure everything in turns, ``repeats`` times, after a round that does not count.

        Args:
            say: gets a line on the progress, as it takes minutes.

        Returns:
            Results as plain values.
        """
        sizes = self._best_sizes(say)
        kinds: dict[str, dict[str, int]] = {"1": dict.fromkeys(sizes, 1), "best": sizes}
        work = [(arm, kind) for arm in self.arms for kind in kinds]
        parts = Parts((1 + self.settings.repeats) * len(work), say)
        for arm, kind in work:
            arm.otherwise[kind] = self._execute(arm, kinds[kind])[1]
            parts.done()
        for repeat in range(self.settings.repeats):
            for index in np.random.default_rng(self.settings.seed + repeat).permutation(len(work)):
                arm, kind = work[index]
                arm.seconds.setdefault(kind, []).append(self._execute(arm, kinds[kind])[0])
                parts.done()
        head = {"schema": 1, "task": self.rows.settings.get("task"), "split": self.rows.splits[0]}
        return head | {
            "machine": describe_machine(next(self.network.parameters()).device),
            "settings": dataclasses.asdict(self.settings),
            "metric": self.rows.metrics[0],
            "score": self.score,
            "crossfit": self.crossfit,
            "rows": len(self.units),
            "rows_of_split": len(self.rows),
            "batch_sizes": sizes,
            "arms": [self._described(arm, kind) for kind in kinds for arm in self.arms],
        }

    def _best_sizes(self, say: Callable[[str], None]) -> dict[str, int]:
        """The best batch size of each tier, searched or known, or the one that is set; says each that was searched."""
        if self.settings.batch_size is not None:
            return {tier.name: self.settings.batch_size for tier in self.network.tiers}
        spaced = np.unique(np.linspace(0, len(self.units) - 1, SEARCHED_ROWS).round().astype(int))
        some = [self.units[i][1] for i in spaced]
        found = {}
        for tier in self.network.tiers:
            found[tier.name] = best_batch_size(tier, tier.tokeniser()(some), self.cache_dir).best
            say(f"study: best batch size of {tier.name}: {found[tier.name]}")
        return found

    def _execute(self, arm: Arm, sizes: Mapping[str, int]) -> tuple[tuple[float, float, float], int]:
        """Seconds of the models, of all, and of the processor; and rows not answered as the replay says."""
        rule = rule_at(self.rows, self.score, arm.thresholds)
        executor = Executor(self.network, rule, batch_sizes=sizes)
        synchronise(executor.device)
        used, start = time.process_time(), time.perf_counter()
        answers = list(executor.run(self.units, numbered=True))
        wall, used = time.perf_counter() - start, time.process_time() - used
        stages = arm.replayed[self.sampled]
        otherwise = 0
        for answer, stage, row in zip(answers, stages.tolist(), self.sampled.tolist(), strict=True):
            same = answer.stage == stage and answer.prediction == self.rows.predictions[row, stage]
            if answer.text is not None and self.rows.texts is not None:
                same = answer.stage == stage and answer.text == self.rows.texts[row, stage]
            otherwise += not same
        return (sum(work.seconds for work in executor.work.values()), wall, used), otherwise

    def _described(self, arm: Arm, kind: str) -> dict[str, Any]:
        """A row of the table: quality of all reported rows, FLOPs of all of them, time of those that were timed."""
        quality, best = quality_of(arm.taken), quality_of(super_alone(self.rows))
        reference = np.array(self.arms[1].seconds[kind])
        own, count = np.array(arm.seconds[kind]), len(self.units)
        return {
            "name": arm.name,
            "target": arm.target,
            "batch": kind,
            "thresholds": arm.thresholds,
            "quality": quality,
            "kept": quality / best if best > 0 else None,
            "swift_ratio": float(arm.taken.shares[0]),
            "flops_speedup": float(self.rows.macs_reference.mean() / arm.taken.macs.mean()),
            "time_speedup": spread(reference[:, 0] / own[:, 0]),
            "processor_speedup": spread(reference[:, 2] / own[:, 2]),
            "model_ms": spread(1e3 * own[:, 0] / count),
            "wall_ms": spread(1e3 * own[:, 1] / count),
            "processor_ms": spread(1e3 * own[:, 2] / count),
            "otherwise": arm.otherwise[kind],
        }


def write_written_study(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``study.md`` and, last, ``study.json``, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "study.md") as temporary:
        temporary.write_text(render_written(results), encoding="utf-8")
    write_json(folder / "study.json", dict(results))


def render_written(results: Mapping[str, Any]) -> str:
    """Plain text that is also Markdown: tables are indented as code."""
    machine, settings = results["machine"], results["settings"]
    task = f" of {results['task']}" if results.get("task") else ""
    lines = [
        f"# Measured study{task}",
        *(
            ["", "PARTIAL: a trial run on few rows; none of these numbers means anything."]
            * bool(results.get("partial"))
        ),
        "",
        f"{results['rows']} of {results['rows_of_split']:,} rows of {results['split']}, {settings['repeats']} "
        f"repetitions in turns; {machine['processor']}, {machine['threads']} thread(s), {machine['device']}, torch "
        f"{machine['torch']}. Quality ({results['metric']}, %), the Swift's share and FLOPs are of all reported rows, "
        f"at points of `{results['score']}` chosen on {CHOSEN[results['crossfit']]}. Speed-ups in time, and in "
        "processor time, are over the Super alone: medians with the lowest and the highest. Each row of the table is "
        "the executor at work; "
        "the last column counts rows that it answered otherwise than the replay.",
    ]
    sizes = ", ".join(f"{name} {size}" for name, size in results["batch_sizes"].items())
    for kind, title in (("1", "One row at a time"), ("best", f"In batches of the best size ({sizes})")):
        rows = [_line(arm) for arm in results["arms"] if arm["batch"] == kind]
        text = table(HEADER, rows, left=2)
        lines += ["", f"{title} (E-LANG, Table 1):", "", *(f"  {line}" for line in text.split("\n"))]
    return "\n".join(lines) + "\n"


CHOSEN = {
    False: "held-out rows",
    True: "the other folds of these rows (cross-fitted), and times at thresholds chosen on all of them",
}
HEADER = [
    *("model", "target %", "quality", "kept %", "swift %", "speed-up, FLOPs", "time", "CPU time", "ms/row"),
    *("with tokenising", "CPU ms/row", "otherwise"),
]


def _line(arm: Mapping[str, Any]) -> list[str]:
    """One arm of the table: quality, shares, speed-ups with intervals, times."""
    speedups = [
        (arm[name]["median"], (arm[name]["low"], arm[name]["high"])) for name in ("time_speedup", "processor_speedup")
    ]
    return [
        *(arm["name"], "–" if arm["target"] is None else f"{100 * arm['target']:g}"),
        *(percent(arm["quality"]), "–" if arm["kept"] is None else percent(arm["kept"])),
        *(f"{100 * arm['swift_ratio']:.0f}", f"{arm['flops_speedup']:.2f}"),
        *(with_interval(*each) for each in speedups),
        *(f"{arm[name]['median']:.2f}" for name in ("model_ms", "wall_ms", "processor_ms")),
        str(arm["otherwise"]),
    ]
