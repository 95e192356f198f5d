"""What measured times say of operating points: speed-up in time, latency, throughput (TangoBERT, Tables 2 and 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dial.costs.times import accumulated
from dial.stages.metrics.metrics import evaluate
from dial.stages.table import StageTable
from dial.tradeoff.calibration import Chooser, crossfit
from dial.tradeoff.rules import Oracle, Threshold, curve
from dial.tradeoff.taken import Taken, quality_of, super_alone
from dial.tradeoff.thinning import thin

Float = NDArray[np.float64]
RESAMPLES = 1000
QUANTILES = (0.5, 0.95, 0.99)
DRAWN = 200  # points of a curve


@dataclass(frozen=True)
class Point:
    """An operating point with the stages that it takes.

    Attributes:
        method: ``cascade``, ``random``, ``oracle`` or ``exits`` (another model with exits, such as DeeBERT).
        reading: ``expected``, chosen on calibration rows, or ``in_sample``, on the reported ones, as the papers do.
        target: share of the Super's quality.
        taken: what is done with every reported row; of random routing the expectation over draws.
        thresholds: raw, one for each stage but the last; empty for the oracle.
        reached: whether the rows that it was chosen on reach the target.
    """

    method: str
    reading: str
    target: float
    taken: Taken
    thresholds: tuple[float, ...] = ()
    reached: bool = True


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
    rules = {"cascade": Threshold(score), "random": Threshold("random")}
    for target in targets:
        choose = partial(Chooser.expected, target=target)
        for method, rule in rules.items():
            in_sample = choose(Chooser(rows, rule)).rule
            if held_out is not None:
                chosen = choose(Chooser(held_out, rule)).rule
                taken = chosen.taken(rows)
            else:
                chosen = in_sample
                taken, _ = crossfit(rows, folds, {method: (rule, choose)})[method]
            points.append(Point(method, "expected", target, taken, chosen.thresholds))
            points.append(Point(method, "in_sample", target, in_sample.taken(rows), in_sample.thresholds))
        points.append(Point("oracle", "in_sample", target, choose(Chooser(rows, Oracle())).rule.taken(rows)))
    return points


def rule_at(rows: StageTable, score: str, thresholds: Sequence[float]) -> Threshold:
    """What the executor runs thresholds of a score by, with the temperatures and the seed of a table."""
    known = rows.settings.get("temperatures", {})
    temperatures = tuple(float(known.get(name, 1.0)) for name in rows.stage_names)
    return Threshold(score, tuple(thresholds), rows.stage_names, temperatures, int(rows.settings.get("seed") or 0))


def choose_exits(
    rows: StageTable, held_out: StageTable | None, score: str, targets: Sequence[float], reference: Mapping[str, float]
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
    tables = {"expected": held_out, "in_sample": rows}
    choosers = {reading: Chooser(table, Threshold(score)) for reading, table in tables.items() if table is not None}
    for target in targets:
        for reading, chooser in choosers.items():
            least, own = target * reference[reading], float(chooser.quality[-1])
            chosen = chooser.expected(least / own if own > 0 else float("inf"))
            reached = bool(chosen.promise.quality >= least - 1e-12)
            points.append(Point("exits", reading, target, chosen.rule.taken(rows), chosen.rule.thresholds, reached))
    return points


def exits_score(table: StageTable) -> str:
    """The score of a model with exits: entropy, as in DeeBERT, where the table has it, else its first."""
    return "entropy" if "entropy" in table.scores else next(iter(table.scores))


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


def stage_times(table: StageTable, times: Mapping[str, Times]) -> Float:
    """Milliseconds ``(R, N, S)`` of stopping at each stage: earlier tiers as a whole, and this one to its exit."""
    return np.stack(accumulated(table.stages, lambda tier, index: times[tier].rows[:, :, index]), axis=2)


def taken_times(times: Mapping[str, Times], taken: Taken) -> Float:
    """Milliseconds ``(R, N)`` of a decision over the rows that were timed; expectations where a coin decides."""
    repetitions = stage_times(taken.table, times)
    return np.stack([taken.charged(_in_milliseconds(taken.table, each)) for each in repetitions])


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
    return _in_milliseconds(table, stage_times(table, filled)[0])


def _in_milliseconds(table: StageTable, milliseconds: Float) -> StageTable:
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
    positions: NDArray[np.int64] = order[first + turn]
    return positions


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
    repetitions = random.integers(0, repeats, (RESAMPLES, repeats))
    drawn = np.median(np.take_along_axis(ratios, repetitions, axis=1), axis=1)
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
    return {"mean": spread(milliseconds.mean(axis=1))} | {
        f"p{100 * q:g}": spread(np.quantile(milliseconds, q, axis=1)) for q in QUANTILES
    }


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
        models: by model its dtype, padding, batch size, and throughput by batch size.
        padded: name of the Super padded to its maximum length.
        exits: table of another model with exits on the same rows, its points, and its name among the times.
        runs: what the executor took, see :meth:`dial.study.study.Study.run`.
    """

    rows: StageTable
    sampled: NDArray[np.int64]
    score: str
    points: Sequence[Point]
    single: Mapping[str, Times]
    batched: Mapping[str, Times]
    outputs: Mapping[str, NDArray[np.float32]]
    models: Mapping[str, Mapping[str, Any]]
    padded: str
    exits: tuple[StageTable, Sequence[Point], str] | None = None
    runs: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def super(self) -> str:
        """Name of the last tier."""
        return self.rows.stages[-1].tier

    @cached_property
    def super_quality(self) -> float:
        """Quality of the last tier on all rows."""
        return quality_of(super_alone(self.rows))

    def times_of(self, table: StageTable, kind: str) -> Mapping[str, Times]:
        """Times of a table's tiers, of rows ``single`` or ``batched``."""
        times = self.single if kind == "single" else self.batched
        if self.exits is not None and table is self.exits[0]:
            return {table.stages[0].tier: times[self.exits[2]]}
        return times

    def kept(self, point: Point) -> dict[str, float | None]:
        """Quality of a point, and its share of the Super's."""
        quality, best = quality_of(point.taken), self.super_quality
        return {"quality": quality, "kept": quality / best if best > 0 else None}


def analyse(measured: Measured) -> dict[str, Any]:
    """All results as plain values: ``contenders``, ``points``, ``throughput``, ``prediction``, ``curves``."""
    return {
        "metric": measured.rows.metrics[0],
        "split": measured.rows.splits[0],
        "score": measured.score,
        "rows": len(measured.sampled),
        "rows_of_split": len(measured.rows),
        "super": measured.super,
        "super_quality": measured.super_quality,
        "contenders": [_model_alone(measured, name) for name in measured.single],
        "points": _points(measured),
        "throughput": [_throughput(measured, run) for run in measured.runs],
        "prediction": [
            {key: run[key] for key in ("target", "batch", "predicted_ms")}
            | {"measured_ms": (own := spread(run["model_ms"]))["median"], "ratio": run["predicted_ms"] / own["median"]}
            for run in measured.runs
        ],
        "curves": _curves(measured),
    }


def _model_alone(measured: Measured, name: str) -> dict[str, Any]:
    """One model alone on every row."""
    single, batched = measured.single[name], measured.batched[name]
    rows, count = measured.rows.take(measured.sampled), len(measured.sampled)
    speed = count / (batched.last().sum(axis=1) / 1e3)
    entry: dict[str, Any] = {"name": name, **measured.models[name]}
    entry["single"] = latency(single.last()) | {"processor": spread(single.processor / count)}
    entry["batched"] = {"rows_per_second": spread(speed), "processor": spread(batched.processor / count)}
    for kind, times in (("single", measured.single), ("batched", measured.batched)):
        entry[kind] |= _speedup(times[measured.super].last(), times[name].last())
    if name in measured.outputs:
        outputs = measured.outputs[name]
        predictions = rows.task.predict(outputs)
        own = rows.predictions[:, -1]
        entry["quality"] = evaluate(rows.metrics[0], rows.label, predictions)
        entry["quality_of_super"] = evaluate(rows.metrics[0], rows.label, own)
        if rows.task.exact:
            entry["agrees"] = float((predictions == own).mean())
    return entry


def _speedup(reference: Float, cost: Float, name: str = "speedup") -> dict[str, Any]:
    middle, interval = ratio(reference, cost)
    return {name: middle, f"{name}_interval": interval}


def _points(measured: Measured) -> list[dict[str, Any]]:
    """TangoBERT's Table 2: every method and target, one row at a time."""
    alone, padded = (measured.single[name].last() for name in (measured.super, measured.padded))
    points = [(measured.rows, point) for point in measured.points]
    points += [(measured.exits[0], point) for point in measured.exits[1]] if measured.exits else []
    entries = []
    for table, point in points:
        cost = taken_times(measured.times_of(table, "single"), point.taken.take(measured.sampled))
        entry = {key: getattr(point, key) for key in ("method", "reading", "target", "reached", "thresholds")}
        entry |= measured.kept(point) | _speedup(alone, cost) | _speedup(padded, cost, "over_padded")
        entry["shares"] = dict(zip(table.stage_names, point.taken.shares.tolist(), strict=True))
        entries.append(entry | {"latency": latency(cost)})
    return entries


def _throughput(measured: Measured, run: Mapping[str, Any]) -> dict[str, Any]:
    """TangoBERT's Table 3: what the executor did at one target, at batch 1 or at the best batch sizes."""
    times = measured.single if run["batch"] == "1" else measured.batched
    alone, padded = (times[name].last().sum(axis=1) for name in (measured.super, measured.padded))
    own = np.asarray(run["model_ms"]) * len(measured.sampled)
    return {
        **{key: run[key] for key in ("target", "batch", "batch_sizes", "shares")},
        **measured.kept(run["point"]),
        "rows_per_second": spread(1e3 / np.asarray(run["model_ms"])),
        "rows_per_second_with_texts": spread(1e3 / np.asarray(run["wall_ms"])),
        "processor": spread(run["processor_ms"]),
        "speedup": spread(alone / own),
        "over_padded": spread(padded / own),
    }


def _curves(measured: Measured) -> list[dict[str, Any]]:
    """Quality over mean milliseconds at every threshold, on all rows: of rows alone, and in batches."""
    lines = [("cascade", measured.rows, measured.score, "single")]
    lines += [(name, measured.rows, name, "single") for name in ("random", "oracle")]
    lines.append(("cascade", measured.rows, measured.score, "batched"))
    if measured.exits is not None:
        table = measured.exits[0]
        lines += [("exits", table, exits_score(table), kind) for kind in ("single", "batched")]
    entries = []
    for method, table, score, kind in lines:
        timed = timed_table(table, measured.sampled, measured.times_of(table, kind))
        line = thin(curve(timed, score), DRAWN)
        quality = line.quality[table.metrics[0]]
        known = np.isfinite(quality)
        points = {"ms": line.macs[known].tolist(), "quality": quality[known].tolist()}
        entries.append({"kind": kind, "method": method, **points})
    return entries
