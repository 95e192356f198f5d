"""What operating points and scores do on the rows of one reported split, with intervals."""

import dataclasses
from functools import cached_property, partial
from itertools import combinations
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from dial.report.choices import Choice, Choices, key_of
from dial.report.exits import SimpleInstances
from dial.report.remarks import contradictions, worthless_stages, written_answers
from dial.report.settings import SweepSettings
from dial.stages.table import StageTable
from dial.tradeoff.area import normalised_area
from dial.tradeoff.bootstrap import Interval, Resampled, bootstrap, percentile_interval
from dial.tradeoff.bounds import kept_interval
from dial.tradeoff.calibration import Chooser
from dial.tradeoff.curve import Curve
from dial.tradeoff.rules import Oracle, Rule, Threshold
from dial.tradeoff.shift import differences, sentence, visits_of
from dial.tradeoff.taken import Taken, metric_of, quality_of, super_alone

if TYPE_CHECKING:
    from dial.costs.functions import ModelCosts

FIXED_LENGTH = 128  # tokens at which the papers charge every GLUE row
RANDOM, ORACLE = Threshold("random"), Oracle()  # lines to compare with


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
        result["remarks"] = [*worthless_stages(self.rows), *written_answers(self.rows)]
        if self.last and (shift := self._shift()):
            result["shift"] = shift
            result["remarks"].append(sentence(shift, f"the {self.rows.splits[0]} rows"))
        if not self.last:
            return result
        return result | {
            "points": [*map(self._point, self._chosen), *map(self._in_sample_point, self._in_sample)],
            "scores": [self._score(rule) for rule in self.choices.rules],
            "pairs": [self._pair(*pair) for pair in combinations(self._compared, 2)],
            "crossings": self._crossings(),
            "simple": self._simple(),
            "lengths_left_out": {name: why for name, why in self._conventions.items() if isinstance(why, str)},
        }

    def _shift(self) -> dict[str, dict[str, float]]:
        """How the rows differ from held-out calibration rows, where the first score's points send rows onwards."""
        held_out, rule = self.choices.held_out, self.choices.rules[0]
        if held_out is None or not rule.by_score:
            return {}
        points = (c.point.rule.thresholds[0] for c in self._chosen if (c.rule, c.kind) == (rule, "expected"))
        threshold = next(filter(np.isfinite, points), None)
        if threshold is None:
            threshold = float(np.median(held_out.scores[rule.score][:, 0]))
        return differences(*(visits_of(table, rule.score, threshold) for table in (held_out, self.rows)))

    def curves(self) -> list[Curve]:
        """Exact curves of all rules and scores and of the oracle; none for a single stage."""
        return list(self._curves.values())

    @cached_property
    def _curves(self) -> dict[str, Curve]:
        """By key of the rule; a dial that stages share has the scale of the calibration rows."""
        if not self.last:
            return {}
        curves = {}
        for key, own in self._own.choosers.items():
            quantiles = self.choices.choosers[key].curve.quantiles
            curves[key] = own.curve if quantiles is None else own.rule.curve(self.rows, quantiles)
        return curves | {ORACLE.key: self._oracle.curve}

    @cached_property
    def _oracle(self) -> Chooser:
        return Chooser(self.rows, ORACLE)

    @cached_property
    def _own(self) -> Choices:
        """The same choices on the reported rows themselves: what choosing there would claim, and what cross-fitting."""
        choices = self.choices
        return choices if choices.held_out is None else dataclasses.replace(choices, held_out=None, partial=True)

    @property
    def _compared(self) -> list[Rule]:
        return [rule for rule in self.choices.rules if not rule.random]

    @cached_property
    def _chosen(self) -> list[Choice]:
        return list(self.choices.all())

    @cached_property
    def _resampled(self) -> Resampled:
        """Every quantity of the report on the same resamples of rows, so that differences are paired."""
        decisions = {choice.key: choice.taken for choice in self._chosen}  # folds come before the curves of all rows
        own = {**self._own.choosers, ORACLE.key: self._oracle}
        curves = {f"in_sample/{key}": chooser.curve for key, chooser in own.items()} | self._curves
        curves |= {"random": curves[RANDOM.key], "oracle": curves[ORACLE.key]}
        decisions |= {choice.key: choice.taken for choice in self._in_sample}
        decisions |= {f"stage/{s}": Taken.all_at(self.rows, s) for s in range(self.last + 1)}
        settings = self.settings
        return bootstrap(self.rows, self.metric, decisions, curves, settings.targets, settings.bootstrap, settings.seed)

    @cached_property
    def _measured(self) -> WeakKeyDictionary[Taken, dict[str, Any]]:
        return WeakKeyDictionary()

    def _measure(self, taken: Taken) -> dict[str, Any]:
        """Quality, cost and shares of a decision; computed once, as pairs ask for the same decisions."""
        if taken not in self._measured:
            self._measured[taken] = self._computed(taken)
        return self._measured[taken]

    def _computed(self, taken: Taken) -> dict[str, Any]:
        """Quality, cost and shares of a decision, without intervals."""
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
        """What the report says of one operating point: what was promised, what was measured, and whether it held."""
        rule, promise, measured = choice.point.rule, choice.point.promise, self._measure(choice.taken)
        entry: dict[str, Any] = {"score": rule.score, "rule": rule.name, "kind": choice.kind, "target": choice.target}
        entry |= {"thresholds": list(rule.thresholds), "calibration": promise.measured()}
        if promise.certified is not None:
            entry["certified_shares"] = list(promise.certified)
        entry |= rule.details()
        entry |= {"only_super": rule.only_super, "rows_needed": promise.rows_needed, "note": promise.note}
        if choice.folds:
            entry["folds"] = [{"thresholds": list(p.rule.thresholds), **p.promise.measured()} for p in choice.folds]
            words, count = "only the Super", sum(p.rule.only_super for p in choice.folds)
            if choice.kind == "budget":
                words, count = "not reached", sum(bool(p.promise.note) for p in choice.folds)
            if choice.kind in ("confident", "budget") and count:
                counted = f"{words} in {count} of {len(choice.folds)} folds"
                entry["note"] = "; ".join(filter(None, [promise.note, counted]))
        entry |= measured | {
            "kept_interval": self._kept_interval(choice.key, choice.taken),
            "quality_interval": percentile_interval(self._resampled.quality[choice.key]),
            "speedup_interval": percentile_interval(self._resampled.speedup(choice.key)),
            "held": self._held(choice.kind, choice.target, measured),
        }
        entry |= self._other_lengths(choice.taken)
        if not rule.has_dial:
            entry["exploratory"] = True
        if choice.kind == "expected":
            entry |= self._inflation(choice, measured["speedup"])
        return entry

    def _inflation(self, choice: Choice, speedup: float) -> dict[str, Any]:
        """What choosing on the reported rows themselves adds, and what calibrating on other rows changes.

        ``selection_inflation`` is the in-sample speed-up minus the cross-fitted one, both on the reported rows, so that
        nothing but the selection differs. ``calibration_shift`` is the reported speed-up minus the cross-fitted one:
        how far rows of another kind moved the threshold (0 where the point itself is cross-fitted).
        """
        own = next(c for c in self._in_sample if (c.rule, c.target) == (choice.rule, choice.target))
        if (fitted := self._crossfitted[choice.key]) is None:
            return {"selection_inflation": None, "calibration_shift": None}
        inside = self.reference / fitted
        return {
            "selection_inflation": self.reference / float(own.taken.macs.mean()) - inside,
            "calibration_shift": speedup - inside,
        }

    @cached_property
    def _crossfitted(self) -> dict[str, float | None]:
        """Mean cost of the expected points, cross-fitted on the reported rows; None where folds would be empty."""
        if self.choices.held_out is None:
            return {c.key: float(c.taken.macs.mean()) if c.folds else None for c in self._chosen}
        wanted = {
            key_of(rule, "expected", target): (rule, partial(Chooser.expected, target=target))
            for rule in self.choices.rules
            for target in self.settings.targets
        }
        if not (fitted := self._own.crossfitted(wanted)):
            return dict.fromkeys([c.key for c in self._chosen])
        return {key: float(taken.macs.mean()) for key, (taken, _) in fitted.items()}

    def _held(self, kind: str, target: float | None, measured: dict[str, Any]) -> bool | None:
        if target is None or kind == "fixed":
            return None
        if kind != "budget" and self.super_quality <= 0:
            return None  # any share of nothing is kept
        if kind == "budget":
            return bool(measured["macs"] <= target * (1 + 1e-9))
        return bool(measured["quality"][self.metric.name] >= target * self.super_quality - 1e-12)

    @cached_property
    def _in_sample(self) -> list[Choice]:
        """Points chosen on the reported rows themselves, as the papers do."""
        choosers = [*self._own.choosers.values(), self._oracle]
        return [
            Choice(chooser.rule, "in_sample", point, point.rule.taken(self.rows))
            for chooser in choosers
            for point in map(chooser.expected, self.settings.targets)
        ]

    def _in_sample_point(self, choice: Choice) -> dict[str, Any]:
        """The same of a point chosen on the reported rows, whose interval chooses again on each resample."""
        rule, target, taken = choice.point.rule, choice.target, choice.taken
        entry: dict[str, Any] = {"score": rule.score, "rule": rule.name, "kind": choice.kind, "target": target}
        entry["thresholds"] = list(rule.thresholds) if rule.routes else []
        measured = self._measure(taken)
        entry |= measured | {"held": self._held(choice.kind, target, measured)}
        entry["kept_interval"] = self._kept_interval(choice.key, taken)
        again = self._resampled.chosen[f"in_sample/{rule.key}"][self.settings.targets.index(target)]
        entry["speedup_interval"] = percentile_interval(again)  # chosen again on every resample
        return entry | self._other_lengths(taken)

    def _area(self, rule: Rule) -> float | None:
        return normalised_area(self._curves[rule.key], self._curves[RANDOM.key], self._curves[ORACLE.key])

    def _score(self, rule: Rule) -> dict[str, Any]:
        """Normalised area of one score, and which earlier score routes identically."""
        area, areas = self._area(rule), self._resampled.areas
        interval = None if area is None else percentile_interval(self._resampled.normalised_area(rule.key))
        same = [
            other.key
            for other in self._compared
            if other.key != rule.key and np.array_equal(areas[other.key], areas[rule.key])
        ]
        remarks = list(contradictions(self.rows, rule.score)) if rule.reads_score else []
        if interval is not None and interval[1] < 0:
            remarks.append(f"`{rule.score}` routes worse than a coin does; higher must mean surer")
        return {
            "score": rule.score,
            "rule": rule.name,
            "normalised_area": area,
            "normalised_area_interval": interval,
            "same_as": same,
            "remarks": remarks,
        }

    def _pair(self, first: Rule, second: Rule) -> dict[str, Any]:
        """First minus second on the same resamples: normalised area, speed-up and quality of the expected points."""
        resampled, name = self._resampled, self.metric.name
        entry: dict[str, Any] = {"first": first.score, "second": second.score}
        areas = [self._area(rule) for rule in (first, second)]
        if areas[0] is not None and areas[1] is not None:
            entry["normalised_area"] = areas[0] - areas[1]
            entry["normalised_area_interval"] = percentile_interval(
                resampled.normalised_area(first.key) - resampled.normalised_area(second.key)
            )
        entry["targets"] = []
        taken = {choice.key: choice.taken for choice in self._chosen}
        for target in self.settings.targets:
            keys = [key_of(rule, "expected", target) for rule in (first, second)]
            one, two = (self._measure(taken[key]) for key in keys)
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
        """Where the densities of right and wrong rows cross, by score and stage."""
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
        decisions = {
            c.key: ({"kind": c.kind, "target": c.target}, c.taken)
            for c in self._chosen
            if c.rule == self.choices.rules[0] and c.kind in ("expected", "confident")
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
                rows = self.rows
                spent = self.costs.columns(rows.stages, rows.lengths, rows.padded, convention, reference, rows.written)
                result[str(convention)] = dataclasses.replace(self.rows, **spent)
            except ValueError as error:  # such as a piecewise cost that was never counted at this length
                result[str(convention)] = str(error).rstrip(".")
        return result

    @property
    def _tiers(self) -> list[str]:
        return list(dict.fromkeys(stage.tier for stage in self.rows.stages))
