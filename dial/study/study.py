"""What measured times say of operating points: speed-up in time, latency, throughput (TangoBERT, Tables 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dial.stages.metrics.metrics import evaluate
from dial.stages.table import StageTable
from dial.study.points import Point, exits_score
from dial.study.times import Times, latency, ratio, spread, taken_times, timed_table
from dial.tradeoff.curve import curve, thin
from dial.tradeoff.paths import quality_of
from dial.tradeoff.taken import super_alone

DRAWN = 200  # points of a curve


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
        runs: what the executor took, see :func:`dial.study.measure.Study.run`.
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


def analyse(measured: Measured) -> dict[str, Any]:
    """All results as plain values: ``contenders``, ``points``, ``throughput``, ``prediction``, ``curves``."""
    return {
        "metric": measured.rows.metrics[0],
        "split": measured.rows.splits[0],
        "score": measured.score,
        "rows": len(measured.sampled),
        "rows_of_split": len(measured.rows),
        "super": measured.super,
        "super_quality": quality_of(super_alone(measured.rows)),
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
    best = quality_of(super_alone(measured.rows))
    groups = [(measured.rows, measured.points, measured.single)]
    if measured.exits is not None:
        table, points, name = measured.exits
        groups.append((table, points, {table.stages[0].tier: measured.single[name]}))
    found = []
    for table, points, times in groups:
        for point in points:
            cost = taken_times(table, times, point.taken.take(measured.sampled))
            quality = quality_of(point.taken)
            middle, interval = ratio(alone, cost)
            over_padded, over_interval = ratio(padded, cost)
            shares = dict(zip(table.stage_names, point.taken.shares.tolist(), strict=True))
            found.append(
                {key: getattr(point, key) for key in ("method", "reading", "target", "reached", "thresholds")}
                | {"quality": quality, "kept": quality / best if best > 0 else None}
                | {"speedup": middle, "speedup_interval": interval}
                | {"over_padded": over_padded, "over_padded_interval": over_interval}
                | {"shares": shares, "latency": latency(cost)}
            )
    return found


def _throughput(measured: Measured) -> list[dict[str, Any]]:
    """TangoBERT's Table 3: what the executor did at each target, at batch 1 and at the best batch sizes."""
    best = quality_of(super_alone(measured.rows))
    expected = {p.target: p for p in measured.points if (p.method, p.reading) == ("cascade", "expected")}
    count, found = len(measured.sampled), []
    for run in measured.runs:
        point = expected[run["target"]]
        quality = quality_of(point.taken)
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
