"""What operating points and scores do on the rows of one reported split, with intervals."""

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from dial.report.choices import Choice, Choices, key_of
from dial.report.exits import SimpleInstances
from dial.report.remarks import contradictions, worthless_stages
from dial.report.settings import SweepSettings
from dial.stages.table import StageTable
from dial.tradeoff.bootstrap import Interval, Resampled, bootstrap, percentile_interval
from dial.tradeoff.bounds import kept_interval
from dial.tradeoff.calibration import Chooser, OperatingPoint, folds_of, oracle_taken
from dial.tradeoff.curve import Curve, curve, normalised_area
from dial.tradeoff.paths import Path, metric_of, quality_of
from dial.tradeoff.shift import differences, sentence, visits_of
from dial.tradeoff.taken import Taken, super_alone

if TYPE_CHECKING:
    from dial.costs.functions import ModelCosts

FIXED_LENGTH = 128  # tokens at which the papers charge every GLUE row


class Analysis:
    """Figures of one reported split.

    Args:
        rows: the split.
        choices: operating points chosen for it.
        settings: targets, resamples, seed.
        costs: cost functions, for other length conventions.
    """

    def __init__(self, rows: StageTable, choices: Choices, settings: SweepSettings, costs: "ModelCosts | None") -> None:
        self.rows, self.choices, self.settings, self.costs = rows, choices, settings, costs
        self.metric = metric_of(rows)
        self.last = len(rows.stages) - 1
        self.super_quality = quality_of(super_alone(rows))
        self.reference = float(rows.macs_reference.mean())

    def summary(self) -> dict[str, Any]:
        """The split's part of ``summary.json``."""
        result: dict[str, Any] = {"rows": len(self.rows), "reference_macs": self.reference, "stages": self._stages()}
        result["remarks"] = list(worthless_stages(self.rows))
        if self.last and (shift := self._shift()):
            result["shift"] = shift
            result["remarks"].append(sentence(shift, f"the {self.rows.splits[0]} rows"))
        if not self.last:
            return result
        return result | {
            "points": [self._point(choice) for choice in self._chosen] + list(self._in_sample()),
            "scores": [self._score(rule, score) for rule, score in self.choices.rules],
            "pairs": [self._pair(*pair) for pair in combinations(self._areas_of, 2)],
            "crossings": self._crossings(),
            "simple": self._simple(),
            "lengths_left_out": {name: why for name, why in self._conventions.items() if isinstance(why, str)},
        }

    def _shift(self) -> dict[str, dict[str, float]]:
        """How the rows differ from held-out calibration rows, where the first score's points send rows onwards."""
        held_out, (rule, score) = self.choices.held_out, self.choices.rules[0]
        if held_out is None or rule != "threshold" or score == "random":
            return {}
        points = (c.point for c in self._chosen if c.key.startswith(f"{rule}/{score}/expected/"))
        threshold = next((p.thresholds[0] for p in points if np.isfinite(p.thresholds[0])), None)
        if threshold is None:
            threshold = float(np.median(held_out.scores[score][:, 0]))
        return differences(*(visits_of(table, score, threshold) for table in (held_out, self.rows)))

    def curves(self) -> list[Curve]:
        """Exact curves of all rules and scores and of the oracle; none for a single stage."""
        return list(self._curves.values())

    @cached_property
    def _curves(self) -> dict[str, Curve]:
        if not self.last:
            return {}
        pairs = self.choices.rules
        found = {
            f"{rule}/{score}": curve(self.rows, score, rule, self.choices.quantiles(rule, score))
            for rule, score in pairs
        }
        return found | {"oracle": curve(self.rows, "oracle")}

    @cached_property
    def _areas_of(self) -> list[str]:
        return [f"{rule}/{score}" for rule, score in self.choices.rules if score != "random"]

    @cached_property
    def _chosen(self) -> list[Choice]:
        return list(self.choices.all())

    @cached_property
    def _choosers(self) -> dict[str, Chooser]:
        """Choosers on the reported rows themselves, for what choosing there would claim."""
        return {f"{rule}/{score}": Chooser(self.rows, score, rule) for rule, score in self.choices.rules}

    @cached_property
    def _resampled(self) -> Resampled:
        paths = {f"in_sample/{key}": chooser.path for key, chooser in self._choosers.items()}
        for rule, score in self.choices.rules:
            paths[f"{rule}/{score}"] = Path.of(self.rows, score, rule, self.choices.quantiles(rule, score))
        paths["random"] = paths["threshold/random"]
        paths["oracle"] = paths["in_sample/oracle"] = Path.of(self.rows, "oracle", "oracle")
        decisions = {choice.key: choice.taken for choice in self._chosen}
        decisions |= {f"in_sample/{key}/{target!r}": taken for (key, target), (_, taken) in self._again.items()}
        decisions |= {f"stage/{s}": Taken.all_at(self.rows, s) for s in range(self.last + 1)}
        settings = self.settings
        return bootstrap(self.rows, self.metric, decisions, paths, settings.targets, settings.bootstrap, settings.seed)

    def _measure(self, taken: Taken) -> dict[str, Any]:
        """Quality, cost and shares of a decision."""
        quality = {name: quality_of(taken, name) for name in self.rows.metrics}
        macs, shares = float(taken.macs.mean()), taken.shares
        return {
            "quality": quality,
            "kept": quality[self.metric.name] / self.super_quality if self.super_quality > 0 else None,
            "macs": macs,
            "flops": 2 * macs,
            "speedup": self.reference / macs,
            "shares": dict(zip(self.rows.stage_names, shares.tolist(), strict=True)),
            "swift_ratio": float(shares[0]),
        }

    def _kept_interval(self, key: str, taken: Taken) -> Interval | None:
        return kept_interval(self.rows, self.metric, taken, self._resampled.kept(key))

    def _stages(self) -> list[dict[str, Any]]:
        """Every stage answering all rows, at the cost of all that runs before it."""
        result = []
        for s, stage in enumerate(self.rows.stages):
            taken = Taken.all_at(self.rows, s)
            measured = self._measure(taken)
            entry = {"name": stage.name} | {key: measured[key] for key in ("quality", "kept", "macs", "speedup")}
            if self.last:
                entry["quality_interval"] = percentile_interval(self._resampled.quality[f"stage/{s}"])
                entry["kept_interval"] = self._kept_interval(f"stage/{s}", taken)
            result.append(entry)
        return result

    def _point(self, choice: Choice) -> dict[str, Any]:
        point, measured = choice.point, self._measure(choice.taken)
        intervals = {
            "kept_interval": self._kept_interval(choice.key, choice.taken),
            "quality_interval": percentile_interval(self._resampled.quality[choice.key]),
            "speedup_interval": percentile_interval(self._resampled.speedup(choice.key)),
        }
        kind = choice.key.split("/")[2]
        entry: dict[str, Any] = {"score": point.score, "rule": point.rule, "kind": kind, "target": point.target}
        entry |= {"thresholds": list(point.thresholds), "calibration": self._promised(point)}
        if point.certified is not None:
            entry["certified_shares"] = list(point.certified)
        if point.rule == "patience":
            entry["tolerance"] = point.tolerance
        entry |= {"only_super": point.only_super, "rows_needed": point.rows_needed, "note": point.note}
        if choice.folds:
            entry["folds"] = [{"thresholds": list(p.thresholds), **self._promised(p)} for p in choice.folds]
            words, count = "only the Super", sum(p.only_super for p in choice.folds)
            if kind == "budget":
                words, count = "not reached", sum(bool(p.note) for p in choice.folds)
            if kind in ("confident", "budget") and count:
                counted = f"{words} in {count} of {len(choice.folds)} folds"
                entry["note"] = "; ".join(filter(None, [point.note, counted]))
        entry |= measured | intervals | {"held": self._held(kind, point.target, measured)}
        entry |= self._other_lengths(choice.taken)
        if kind == "per_stage":
            entry["exploratory"] = True
        if kind == "expected" and point.target is not None:
            entry |= self._inflation(point, measured["speedup"])
        return entry

    def _inflation(self, point: OperatingPoint, speedup: float) -> dict[str, Any]:
        """What choosing on the reported rows themselves adds, and what calibrating on other rows changes.

        ``selection_inflation`` is the in-sample speed-up minus the cross-fitted one, both on the reported rows, so that
        nothing but the selection differs. ``calibration_shift`` is the reported speed-up minus the cross-fitted one:
        how far rows of another kind moved the threshold (0 where the point itself is cross-fitted).
        """
        key = f"{point.rule}/{point.score}", float(point.target or 0.0)
        _, again = self._again[key]
        if (fitted := self._crossfitted[key]) is None:
            return {"selection_inflation": None, "calibration_shift": None}
        inside = self.reference / fitted
        return {
            "selection_inflation": self.reference / float(again.macs.mean()) - inside,
            "calibration_shift": speedup - inside,
        }

    @cached_property
    def _crossfitted(self) -> dict[tuple[str, float], float | None]:
        """Mean cost of the expected points, cross-fitted on the reported rows; None where folds would be empty."""
        costs: dict[tuple[str, float], float | None] = {}
        targets = self.settings.targets
        if self.choices.held_out is None:
            chosen = {choice.key: choice for choice in self._chosen}
            for rule, score in self.choices.rules:
                for target in targets:
                    choice = chosen[f"{rule}/{score}/{key_of('expected', target)}"]
                    costs[f"{rule}/{score}", target] = float(choice.taken.macs.mean()) if choice.folds else None
            return costs
        fold = folds_of(self.rows, self.settings.folds)
        whole = np.bincount(fold, minlength=self.settings.folds).min() > 0
        for rule, score in self.choices.rules:
            key = f"{rule}/{score}"
            if not whole:
                costs |= {(key, target): None for target in targets}
                continue
            total = dict.fromkeys(targets, 0.0)
            for k in range(self.settings.folds):
                inside = self.rows.take(fold == k)
                chooser = Chooser(self.rows.take(fold != k), score, rule)
                for target in targets:
                    total[target] += float(chooser.expected(target).taken(inside).macs.sum())
            costs |= {(key, target): cost / len(self.rows) for target, cost in total.items()}
        return costs

    def _held(self, kind: str, target: float | None, measured: dict[str, Any]) -> bool | None:
        if target is None or kind == "fixed":
            return None
        if kind != "budget" and self.super_quality <= 0:
            return None  # any share of nothing is kept
        if kind == "budget":
            return bool(measured["macs"] <= target * (1 + 1e-9))
        return bool(measured["quality"][self.metric.name] >= target * self.super_quality - 1e-12)

    @staticmethod
    def _promised(point: OperatingPoint) -> dict[str, Any]:
        """What the calibration rows said of a point."""
        kept = point.quality / point.super_quality if point.super_quality > 0 else None
        return {"quality": point.quality, "kept": kept, "macs": point.macs, "margin_bound": point.bound}

    @cached_property
    def _again(self) -> dict[tuple[str, float], tuple[OperatingPoint, Taken]]:
        """Points chosen on the reported rows themselves, as the papers do, and what they do, per path and target."""
        chosen = {}
        for key, chooser in {**self._choosers, "oracle": Chooser(self.rows, "oracle", "oracle")}.items():
            for target in self.settings.targets:
                point = chooser.expected(target, "in_sample")
                chosen[key, target] = point, oracle_taken(chooser, point) if key == "oracle" else point.taken(self.rows)
        return chosen

    def _in_sample(self) -> Iterator[dict[str, Any]]:
        for (key, target), (point, taken) in self._again.items():
            entry = {"score": point.score, "rule": point.rule, "kind": "in_sample", "target": target}
            entry |= {"thresholds": [] if key == "oracle" else list(point.thresholds)}
            measured = self._measure(taken)
            chosen = self._resampled.chosen[f"in_sample/{key}"][self.settings.targets.index(target)]
            entry |= measured | {"held": self._held("in_sample", target, measured)}
            entry["kept_interval"] = self._kept_interval(f"in_sample/{key}/{target!r}", taken)
            entry["speedup_interval"] = percentile_interval(chosen)  # chosen again on every resample
            yield entry | self._other_lengths(taken)

    def _score(self, rule: str, score: str) -> dict[str, Any]:
        """Normalised area of one score, and which earlier score routes identically."""
        key = f"{rule}/{score}"
        area = normalised_area(self._curves[key], self._curves["threshold/random"], self._curves["oracle"])
        interval = None if area is None else percentile_interval(self._resampled.normalised_area(key))
        areas = self._resampled.areas[key]
        same = [
            other for other in self._areas_of if other != key and np.array_equal(self._resampled.areas[other], areas)
        ]
        remarks = list(contradictions(self.rows, score)) if rule == "threshold" else []
        if interval is not None and interval[1] < 0:
            remarks.append(f"`{score}` routes worse than a coin does; higher must mean surer")
        return {
            "score": score,
            "rule": rule,
            "normalised_area": area,
            "normalised_area_interval": interval,
            "same_as": same,
            "remarks": remarks,
        }

    def _pair(self, first: str, second: str) -> dict[str, Any]:
        """First minus second on the same resamples: normalised area, speed-up and quality of the expected points."""
        resampled = self._resampled
        entry: dict[str, Any] = {"first": first.split("/")[1], "second": second.split("/")[1]}
        random, oracle = self._curves["threshold/random"], self._curves["oracle"]
        areas = [normalised_area(self._curves[key], random, oracle) for key in (first, second)]
        if areas[0] is not None and areas[1] is not None:
            entry["normalised_area"] = areas[0] - areas[1]
            entry["normalised_area_interval"] = percentile_interval(
                resampled.normalised_area(first) - resampled.normalised_area(second)
            )
        entry["targets"] = []
        taken = {choice.key: choice.taken for choice in self._chosen}
        for target in self.settings.targets:
            keys = [f"{key}/{key_of('expected', target)}" for key in (first, second)]
            one, two = (self._measure(taken[key]) for key in keys)
            name = self.metric.name
            entry["targets"].append(
                {
                    "target": target,
                    "speedup": one["speedup"] - two["speedup"],
                    "speedup_interval": percentile_interval(resampled.speedup(keys[0]) - resampled.speedup(keys[1])),
                    "quality": one["quality"][name] - two["quality"][name],
                    "quality_interval": percentile_interval(resampled.quality[keys[0]] - resampled.quality[keys[1]]),
                }
            )
        return entry

    def _crossings(self) -> dict[str, Any]:
        names = self.rows.stage_names
        return {
            score: {
                name: {"status": d.status, "crossings": list(d.crossings)}
                for name, d in zip(names, found, strict=False)
            }
            for score, found in self.choices.densities().items()
        }

    def _simple(self) -> dict[str, Any]:
        """What the expected and confident points of the first score do on rows shorter than the median."""
        if self.rows.stages[-1].tier not in self.rows.lengths:
            return {}
        rule, score = self.choices.rules[0]
        kinds = ("expected", "confident")
        decisions = {
            c.key: ({"kind": c.key.split("/")[2], "target": c.point.target}, c.taken)
            for c in self._chosen
            if (c.point.rule, c.point.score) == (rule, score) and c.key.split("/")[2] in kinds
        }
        return SimpleInstances(self.rows, self.settings).summary(decisions, self._charged)

    def _other_lengths(self, taken: Taken) -> dict[str, Any]:
        """Speed-up when rows are charged by true, padded and fixed length; empty without cost functions."""
        if not self._charged:
            return {}
        return {
            "speedup_by_length": {
                name: table.macs_reference.mean() / taken.charged(table).mean() for name, table in self._charged.items()
            }
        }

    @property
    def _charged(self) -> dict[str, StageTable]:
        """The rows with the costs of each length convention, without those that cannot be stated."""
        return {name: table for name, table in self._conventions.items() if not isinstance(table, str)}

    @cached_property
    def _conventions(self) -> dict[str, StageTable | str]:
        """By length convention the rows with its costs, or why there are none; empty without cost functions."""
        if self.costs is None:
            return {}
        from dial.costs.functions import charged_lengths

        reference = self.rows.settings.get("reference") or self.rows.stages[-1].tier
        result: dict[str, StageTable | str] = {}
        for convention in ("true", "padded", FIXED_LENGTH):
            lengths = charged_lengths(convention, self.rows.lengths, self.rows.padded)
            column = "padded" if convention == "padded" else "length"
            missing = [f"{column}_{tier}" for tier in (*self._tiers, reference) if tier not in lengths]
            if missing:
                result[str(convention)] = f"the table lacks {missing[0]}"
                continue
            try:
                spent = self.costs.columns(self.rows.stages, self.rows.lengths, self.rows.padded, convention, reference)
                result[str(convention)] = dataclasses.replace(self.rows, **spent)
            except ValueError as error:  # such as a piecewise cost that was never counted at this length
                result[str(convention)] = str(error).rstrip(".")
        return result

    @property
    def _tiers(self) -> list[str]:
        return list(dict.fromkeys(stage.tier for stage in self.rows.stages))
