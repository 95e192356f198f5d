"""What multi-exit models are reported by beside their curve: compression, and simple instances (COST-EFF, Table 3)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dial.report.results import SplitResult, SweepResults
from dial.report.settings import SweepSettings
from dial.report.tables import amount, percent, table, with_interval
from dial.stages.table import StageTable
from dial.tradeoff.bootstrap import bootstrap, percentile_interval
from dial.tradeoff.bounds import kept_interval
from dial.tradeoff.paths import metric_of, quality_of
from dial.tradeoff.taken import Taken


def compression(rows: StageTable) -> dict[str, dict[str, Any]]:
    """Parameters of each multi-exit tier and of its encoder unpruned, with one exit behind the last layer.

    Factors are those of COST-EFF's Table 3, of all parameters; beside them those without the word embeddings.
    """
    found = {}
    for name, tier in rows.settings.get("tiers", {}).items():
        if unpruned := tier.get("unpruned"):
            found[name] = {
                "parameters": tier["parameters"],
                "unpruned": unpruned["parameters"],
                "factor": unpruned["parameters"] / tier["parameters"],
                "factor_without_embeddings": unpruned["without_embeddings"] / tier["without_embeddings"],
            }
    return found


class SimpleInstances:
    """Rows shorter than the median, by the tokens of the last tier (COST-EFF, section 4.2.1).

    Args:
        rows: one reported split, with lengths.
        settings: resamples and seed.
    """

    def __init__(self, rows: StageTable, settings: SweepSettings) -> None:
        self.tier = rows.stages[-1].tier
        lengths = rows.lengths[self.tier]
        self.median = float(np.median(lengths))
        self.mask = lengths < self.median
        self.rows, self.settings, self.metric = rows.take(self.mask), settings, metric_of(rows)

    def summary(self, decisions: Mapping[str, tuple[dict[str, Any], Taken]], charged: Mapping[str, StageTable]) -> Any:
        """Quality and cost on these rows.

        Args:
            decisions: by name what describes an operating point, and what it does with every row of the split.
            charged: all rows with the costs of each length convention.
        """
        result: dict[str, Any] = {"tier": self.tier, "median": self.median, "rows": len(self.rows)}
        if not len(self.rows):
            return result
        stages = range(len(self.rows.stages))
        taken = {key: whole.take(self.mask) for key, (_, whole) in decisions.items()}
        taken |= {f"stage/{s}": Taken.all_at(self.rows, s) for s in stages}
        resampled = bootstrap(self.rows, self.metric, taken, {}, (), self.settings.bootstrap, self.settings.seed)
        quality = {key: quality_of(each) for key, each in taken.items()}
        best = quality[f"stage/{stages[-1]}"]
        result["stages"] = [
            {"quality": quality[f"stage/{s}"], "interval": percentile_interval(resampled.quality[f"stage/{s}"])}
            for s in stages
        ]
        short = {name: table.take(self.mask) for name, table in charged.items()}
        result["points"] = [
            about
            | {
                "quality": quality[key],
                "quality_interval": percentile_interval(resampled.quality[key]),
                "kept": quality[key] / best if best > 0 else None,
                "kept_interval": kept_interval(self.rows, self.metric, taken[key], resampled.kept(key)),
                "speedup": float(self.rows.macs_reference.mean() / taken[key].macs.mean()),
                "speedup_interval": percentile_interval(resampled.speedup(key)),
                "speedup_by_length": {
                    name: float(table.macs_reference.mean() / taken[key].charged(table).mean())
                    for name, table in short.items()
                },
            }
            for key, (about, _) in decisions.items()
        ]
        return result


def compression_text(results: SweepResults) -> str:
    """Parameters against the unpruned encoder; empty without multi-exit models."""
    rows = [
        [name, amount(tier.parameters), amount(tier.unpruned)]
        + [f"{factor:.2f}×" for factor in (tier.factor, tier.factor_without_embeddings)]
        for name, tier in results.compression.items()
    ]
    header = ["tier", "parameters", "unpruned", "factor", "without word embeddings"]
    return "Compression against the unpruned encoder without exits:\n" + table(header, rows) if rows else ""


def simple_text(results: SweepResults, result: SplitResult) -> str:
    """Operating points of the first score on simple instances; empty without multi-exit models."""
    simple, score = result.simple, results.settings.scores[0]
    if simple is None or not simple.points or not results.multi_exit_tiers:
        return ""
    fixed = "128" in simple.points[0].speedup_by_length
    header = ["target %", "reading", f"{results.metric} %", "kept %", "speed-up", "speed-up of all rows"]
    header += ["both at 128 tokens"] if fixed else []
    rows = []
    for point in simple.points:
        (whole,) = result.select(score=score, kind=point.kind, target=point.target, rule="threshold")
        cells = [f"{100 * point.target:g}", whole.reading, percent(point.quality)]
        cells += [with_interval(point.kept, point.kept_interval, 100, 1)]
        cells += [with_interval(point.speedup, point.speedup_interval), f"{whole.speedup:.2f}"]
        lengths = [f"{each.speedup_by_length['128']:.2f}" for each in (point, whole)] if fixed else []
        rows.append([*cells, *([" / ".join(lengths)] if fixed else [])])
    title = (
        f"Simple instances: {simple.rows:,} rows of fewer than {simple.median:g} tokens, the median; the last "
        f"stage has {percent(simple.stages[-1].quality)} % there. Points of `{score}`:"
    )
    return title + "\n" + table(header, rows, left=2)
