"""What measured times say of operating points: speed-up in time, latency, throughput (TangoBERT, Tables 2 and 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_modules.adaptive.calibration import Chooser, OperatingPoint, crossfit
from lightning_modules.adaptive.metrics import evaluate
from lightning_modules.adaptive.paths import quality_at
from lightning_modules.adaptive.table import StageTable
from lightning_modules.adaptive.thinning import thin
from lightning_modules.adaptive.tradeoff import curve

Float = NDArray[np.float64]
RESAMPLES = 1000
QUANTILES = (0.5, 0.95, 0.99)
DRAWN = 200  # points of a curve


@dataclass(frozen=True)
class Times:
    """Measured times of one model over the sampled rows, in milliseconds.

    Attributes:
        rows: ``(R, N, E)`` of each repetition and row until the answer of each exit: alone, or its share of its batch.
        processor: ``(R,)`` of processor time of all rows.
    """

    rows: Float
    processor: Float

    def last(self) -> Float:
        """Until the last exit, ``(R, N)``."""
        return self.rows[:, :, -1]


@dataclass(frozen=True)
class Point:
    """An operating point with the stages that it takes.

    Attributes:
        method: ``cascade``, ``random``, ``oracle`` or ``exits`` (another model with exits, such as DeeBERT).
        reading: ``expected``, chosen on calibration rows, or ``in_sample``, on the reported ones, as the papers do.
        target: share of the Super's quality.
        stages: of every reported row ``(M,)``.
        thresholds: raw, one for each stage but the last; empty for the oracle.
        reached: whether the rows that it was chosen on reach the target.
    """

    method: str
    reading: str
    target: float
    stages: NDArray[np.int64]
    thresholds: tuple[float, ...]
    reached: bool


@dataclass(frozen=True)
class Measured:
    """Everything that a study has measured.

    Attributes:
        rows: reported split, all rows.
        sampled: positions ``(N,)`` in ``rows`` of those that were timed.
        score: decides.
        points: of the cascade, random routing and the oracle.
        single: by model the times of rows one by one.
        batched: by model the times of rows in batches of its best size.
        outputs: by model logits of its last exit ``(N, C)``.
        about: by model what is known: dtype, padding, batch size, throughput by batch size.
        padded: name of the Super padded to its maximum length.
        exits: table of another model with exits on the same rows, its points, and its name among the times.
        runs: what the executor took, see :func:`lightning_modules.inference.study.Study.run`.
        predicted: milliseconds per row by target and batch size, from the table of times.
    """

    rows: StageTable
    sampled: NDArray[np.int64]
    score: str
    points: Sequence[Point]
    single: Mapping[str, Times]
    batched: Mapping[str, Times]
    outputs: Mapping[str, NDArray[np.float32]]
    about: Mapping[str, Mapping[str, Any]]
    padded: str
    exits: tuple[StageTable, Sequence[Point], str] | None = None
    runs: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def super(self) -> str:
        """Name of the last tier."""
        return self.rows.stages[-1].tier


def choose_points(
    rows: StageTable, held_out: StageTable | None, score: str, targets: Sequence[float], folds: int = 5
) -> list[Point]:
    """Points of a score, of random routing and of the oracle at each target.

    Args:
        rows: reported split, with scores.
        held_out: calibration rows; None to cross-fit on the reported ones.
        score: decides.
        targets: shares of the Super's quality.
        folds: of cross-fitting.
    """
    points = []
    for target in targets:
        for method, name in (("cascade", score), ("random", "random")):
            if held_out is not None:
                chosen = Chooser(held_out, name).expected(target)
                stages = chosen.stages(rows)
            else:
                chosen = Chooser(rows, name).expected(target)
                stages, _ = crossfit(rows, _expected(name, target), folds)
            points.append(_point(method, "expected", target, stages, chosen))
            chosen = Chooser(rows, name).expected(target)
            points.append(_point(method, "in_sample", target, chosen.stages(rows), chosen))
        oracle = Chooser(rows, "oracle", "oracle")
        chosen = oracle.expected(target)
        stages = oracle.path.events.stages(chosen.thresholds[0])
        points.append(dataclasses.replace(_point("oracle", "in_sample", target, stages, chosen), thresholds=()))
    return points


def choose_exits(
    rows: StageTable,
    held_out: StageTable | None,
    score: str,
    targets: Sequence[float],
    reference: Mapping[str, float],
) -> list[Point]:
    """Points of another model with exits at the same qualities as the cascade's.

    Args:
        rows: that model's reported split.
        held_out: its calibration rows; None to choose on the reported ones only.
        score: decides.
        targets: shares of the cascade's Super's quality.
        reference: quality of the cascade's Super on ``rows`` and on ``held_out``.
    """
    points = []
    for target in targets:
        for reading, chosen_on in (("expected", held_out), ("in_sample", rows)):
            if chosen_on is None:
                continue
            chooser = Chooser(chosen_on, score)
            wanted = target * reference[reading]
            own = float(chooser.quality[-1])
            chosen = chooser.expected(wanted / own if own > 0 else float("inf"))
            reached = bool(chosen.quality >= wanted - 1e-12)
            found = _point("exits", reading, target, chosen.stages(rows), chosen)
            points.append(dataclasses.replace(found, reached=reached))
    return points


def _expected(score: str, target: float) -> Any:
    return lambda table: Chooser(table, score).expected(target)


def _point(method: str, reading: str, target: float, stages: Any, chosen: OperatingPoint) -> Point:
    return Point(method, reading, target, np.asarray(stages, dtype=np.int64), chosen.thresholds, True)


def stage_times(table: StageTable, times: Mapping[str, Times]) -> Float:
    """Milliseconds ``(R, N, S)`` of stopping at each stage: earlier tiers as a whole, and this one to its exit."""
    columns: list[Float] = []
    spent: Float | float = 0.0
    for position, stage in enumerate(table.stages):
        if position and stage.tier != table.stages[position - 1].tier:
            spent = columns[-1]
        columns.append(spent + times[stage.tier].rows[:, :, stage.index])
    return np.stack(columns, axis=2)


def taken_times(times: Float, stages: NDArray[np.int64]) -> Float:
    """Milliseconds ``(R, N)`` when every row stops at its stage, from ``(R, N, S)`` and ``(N,)``."""
    return np.take_along_axis(times, stages[None, :, None], axis=2)[:, :, 0]


def ratio(reference: Float, cost: Float, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Mean time of the reference over mean time, the median over repetitions, with a 95 % interval.

    The interval resamples rows (the same for both) and repetitions.

    Args:
        reference: ``(R, N)``.
        cost: ``(R, N)`` in the same repetitions.
        seed: of the resampling.
    """
    repeats, rows = cost.shape
    random = np.random.default_rng(seed)
    weights = random.multinomial(rows, np.full(rows, 1 / rows), RESAMPLES).astype(np.float64)
    ratios = (weights @ reference.T) / (weights @ cost.T)
    again = random.integers(0, repeats, (RESAMPLES, repeats))
    drawn = np.median(np.take_along_axis(ratios, again, axis=1), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.median(reference.mean(axis=1) / cost.mean(axis=1))), (float(low), float(high))


def spread(values: Any) -> dict[str, float]:
    """Median over repetitions, with the lowest and the highest.

    Example:
        >>> spread([3.0, 1.0, 2.0])
        {'median': 2.0, 'low': 1.0, 'high': 3.0}
    """
    values = np.asarray(values, dtype=np.float64)
    return {"median": float(np.median(values)), "low": float(values.min()), "high": float(values.max())}


def latency(milliseconds: Float) -> dict[str, Any]:
    """Mean and quantiles over rows of times ``(R, N)``, each as the median over repetitions."""
    found = {"mean": spread(milliseconds.mean(axis=1))}
    return found | {f"p{100 * q:g}": spread(np.quantile(milliseconds, q, axis=1)) for q in QUANTILES}


def analyse(measured: Measured) -> dict[str, Any]:
    """All results as plain values: ``contenders``, ``points``, ``throughput``, ``prediction``, ``curves``."""
    return {
        "metric": measured.rows.metrics[0],
        "split": measured.rows.splits[0],
        "score": measured.score,
        "rows": len(measured.sampled),
        "rows_of_split": len(measured.rows),
        "super": measured.super,
        "super_quality": _quality(measured.rows, np.full(len(measured.rows), len(measured.rows.stages) - 1)),
        "contenders": [_contender(measured, name) for name in measured.single],
        "points": _points(measured),
        "throughput": _throughput(measured),
        "prediction": [
            {key: run[key] for key in ("target", "batch", "predicted_ms")}
            | {"measured_ms": (own := spread(run["model_ms"]))["median"], "ratio": run["predicted_ms"] / own["median"]}
            for run in measured.runs
        ],
        "curves": _curves(measured),
    }


def _quality(table: StageTable, stages: NDArray[np.int64]) -> float:
    return quality_at(table, table.metrics[0], stages)


def _contender(measured: Measured, name: str) -> dict[str, Any]:
    """One model alone on every row."""
    single, batched = measured.single[name], measured.batched[name]
    rows, count = measured.rows.take(measured.sampled), len(measured.sampled)
    speed = count / (batched.last().sum(axis=1) / 1e3)
    found: dict[str, Any] = {"name": name, **measured.about[name]}
    found["single"] = latency(single.last()) | {"processor": spread(single.processor / count)}
    found["batched"] = {"rows_per_second": spread(speed), "processor": spread(batched.processor / count)}
    for kind, times in (("single", measured.single), ("batched", measured.batched)):
        middle, interval = ratio(times[measured.super].last(), times[name].last())
        found[kind] |= {"speedup": middle, "speedup_interval": interval}
    if name in measured.outputs:
        outputs = measured.outputs[name]
        predictions = outputs[:, 0] if rows.regression else outputs.argmax(axis=1)
        own = rows.predictions[:, -1]
        found["quality"] = evaluate(rows.metrics[0], rows.label, predictions)
        found["quality_of_super"] = evaluate(rows.metrics[0], rows.label, own)
        if not rows.regression:
            found["agrees"] = float((predictions == own).mean())
    return found


def _points(measured: Measured) -> list[dict[str, Any]]:
    """TangoBERT's Table 2: every method and target, one row at a time."""
    alone, padded = measured.single[measured.super].last(), measured.single[measured.padded].last()
    best = _quality(measured.rows, np.full(len(measured.rows), len(measured.rows.stages) - 1))
    groups = [(measured.rows, measured.points, measured.single)]
    if measured.exits is not None:
        table, points, name = measured.exits
        groups.append((table, points, {table.stages[0].tier: measured.single[name]}))
    found = []
    for table, points, times in groups:
        by_stage = stage_times(table, times)
        for point in points:
            cost = taken_times(by_stage, point.stages[measured.sampled])
            quality = _quality(table, point.stages)
            middle, interval = ratio(alone, cost)
            over_padded, over_interval = ratio(padded, cost)
            shares = np.bincount(point.stages, minlength=len(table.stages)) / len(point.stages)
            found.append(
                {key: getattr(point, key) for key in ("method", "reading", "target", "reached", "thresholds")}
                | {"quality": quality, "kept": quality / best if best > 0 else None}
                | {"speedup": middle, "speedup_interval": interval}
                | {"over_padded": over_padded, "over_padded_interval": over_interval}
                | {"shares": dict(zip(table.stage_names, shares.tolist(), strict=True)), "latency": latency(cost)}
            )
    return found


def _throughput(measured: Measured) -> list[dict[str, Any]]:
    """TangoBERT's Table 3: what the executor did at each target, at batch 1 and at the best batch sizes."""
    best = _quality(measured.rows, np.full(len(measured.rows), len(measured.rows.stages) - 1))
    expected = {p.target: p for p in measured.points if (p.method, p.reading) == ("cascade", "expected")}
    count, found = len(measured.sampled), []
    for run in measured.runs:
        point = expected[run["target"]]
        quality = _quality(measured.rows, point.stages)
        times = measured.single if run["batch"] == "1" else measured.batched
        alone = times[measured.super].last().sum(axis=1)
        padded = times[measured.padded].last().sum(axis=1)
        own = np.asarray(run["model_ms"]) * count
        entry = {key: run[key] for key in ("target", "batch", "batch_sizes", "shares")}
        entry |= {"quality": quality, "kept": quality / best if best > 0 else None}
        entry |= {
            "rows_per_second": spread(1e3 / np.asarray(run["model_ms"])),
            "rows_per_second_with_texts": spread(1e3 / np.asarray(run["wall_ms"])),
            "processor": spread(run["processor_ms"]),
            "speedup": spread(alone / own),
            "over_padded": spread(padded / own),
        }
        found.append(entry)
    return found


def _curves(measured: Measured) -> list[dict[str, Any]]:
    """Quality over mean milliseconds at every threshold, on all rows: of rows alone, and in batches."""
    found = []
    sets: list[tuple[str, StageTable, Mapping[str, Times], str, tuple[str, ...]]] = []
    lines = (measured.score, "random", "oracle")
    sets.append(("single", measured.rows, measured.single, "cascade", lines))
    sets.append(("batched", measured.rows, measured.batched, "cascade", lines[:1]))
    if measured.exits is not None:
        table, _, name = measured.exits
        own = exits_score(table)
        for kind, times in (("single", measured.single), ("batched", measured.batched)):
            sets.append((kind, table, {table.stages[0].tier: times[name]}, "exits", (own,)))
    for kind, table, times, name, scores in sets:
        timed = timed_table(table, measured.sampled, times)
        for score in scores:
            line = thin(curve(timed, score, "oracle" if score == "oracle" else "threshold"), DRAWN)
            label = score if score in ("random", "oracle") else name
            quality = line.quality[table.metrics[0]]
            known = np.isfinite(quality)
            points = {"ms": line.macs[known].tolist(), "quality": quality[known].tolist()}
            found.append({"kind": kind, "method": label, **points})
    return found


def timed_table(table: StageTable, sampled: NDArray[np.int64], times: Mapping[str, Times]) -> StageTable:
    """A table whose costs are milliseconds, medians over repetitions.

    A row that was not timed takes the times of a timed one that is nearest in length.

    Args:
        table: all rows.
        sampled: positions of those that were timed.
        times: of its tiers.
    """
    filled = {}
    for tier in dict.fromkeys(stage.tier for stage in table.stages):
        median = np.median(times[tier].rows, axis=0, keepdims=True)
        near = nearest(table.lengths[tier], sampled) if tier in table.lengths else np.arange(len(table)) % len(sampled)
        near[sampled] = np.arange(len(sampled))
        filled[tier] = Times(median[:, near], times[tier].processor)
    milliseconds = stage_times(table, filled)[0]
    return dataclasses.replace(table, macs=milliseconds, decide_macs=milliseconds)


def nearest(lengths: NDArray[np.int64], sampled: NDArray[np.int64]) -> NDArray[np.int64]:
    """For every row ``(M,)`` which of the sampled ones ``(N,)`` is nearest to it in length.

    Of several at the same distance they take turns, so that no single one stands for many.

    Example:
        >>> nearest(np.array([3, 9, 4, 3, 8]), np.array([0, 1])).tolist()
        [0, 1, 0, 0, 1]
    """
    order = np.argsort(lengths[sampled], kind="stable")
    known = lengths[sampled][order]
    after = np.searchsorted(known, lengths).clip(max=len(known) - 1)
    before = (after - 1).clip(min=0)
    closer = np.where(lengths - known[before] <= known[after] - lengths, known[before], known[after])
    first, count = np.searchsorted(known, closer), np.searchsorted(known, closer, "right")
    turn = np.arange(len(lengths)) % (count - first)
    found: NDArray[np.int64] = order[first + turn]
    return found


def exits_score(table: StageTable) -> str:
    """The score of a model with exits: entropy, as in DeeBERT, where the table has it, else its first."""
    return "entropy" if "entropy" in table.scores else next(iter(table.scores))
