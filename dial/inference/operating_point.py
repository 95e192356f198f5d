"""Operating points of a run: read from what ``dial test`` left, or chosen on its calibration rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dial.costs.functions import ModelCosts
from dial.costs.times import TimeTable
from dial.files import readable
from dial.inference.calibrated import Calibration
from dial.inference.staged import StagedModel
from dial.stages.parquet import load_table
from dial.stages.table import StageTable
from dial.tradeoff.calibration import Chooser
from dial.tradeoff.point import SCHEMA, OperatingPoint, Promise
from dial.tradeoff.rules import PerStage, Rule, Threshold, routing, rule_named, searched, with_dial

TIMES = "times.json"
Timed = Callable[[StageTable], StageTable]


class Sweep:
    """What ``dial test`` left in a run folder, as far as running the model needs it.

    Points are chosen on the rows that ``dial calibrate`` left there, or else on those of the test itself.

    Args:
        run: the run folder, or its ``sweep`` folder.
        calibrated: whether to look for rows of ``dial calibrate``.

    Raises:
        ValueError: there is no sweep, or it was made from a table alone.
    """

    def __init__(self, run: str | Path, calibrated: bool = True) -> None:
        run = Path(run).expanduser()
        found = [folder for folder in (run / "sweep", run) if (folder / "summary.json").is_file()]
        if not found:
            raise ValueError(
                f"`run` must be a folder that `dial test` left, with sweep/summary.json, but {run} has none."
            )
        self.run, self.folder = run, found[0]
        path = self.folder / "summary.json"
        with readable(path, "run"):
            self.summary: dict[str, Any] = json.loads(path.read_text())
            self.settings: dict[str, Any] = self.summary["table"]
            if not self.settings.get("tiers"):
                raise ValueError(f"`run` must hold a sweep of models, but {self.folder} was made from a table alone.")
            self._check()
        self.home = self.folder.parent if self.folder.name == "sweep" else run
        self.calibration = Calibration.read(self.home) if calibrated else None
        if self.calibration is not None:
            tested = {name: str(tier["fingerprint"]) for name, tier in self.settings["tiers"].items()}
            if self.calibration.about["tiers"] != tested:
                raise ValueError(
                    f"`run` {run} was calibrated with other tiers than it was tested with; run `dial calibrate` again, "
                    f"or remove {self.calibration.folder}."
                )

    def _check(self) -> None:
        """Read once what every user of a sweep relies on, so that a damaged one is refused as a whole."""
        if not self.stages or not all(
            isinstance(name, str) for name in (*self.stages, *self.scores, *self.label_names)
        ):
            raise TypeError("its stages, scores and label names are no names")
        for tier in self.settings["tiers"].values():
            str(tier["fingerprint"]), dict(tier["view"])
        dict(self.settings["temperatures"]), bool(self.summary["partial"]), self.summary["calibration"]["method"]
        for split in self.summary["splits"].values():
            list(split.get("points", []))
        self.split()

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of all stages, in order."""
        return tuple(stage["name"] for stage in self.summary["stages"])

    @property
    def label_names(self) -> list[str]:
        """The data's names in the order of its integers; empty for regression."""
        return list(self.summary["label_names"])

    @property
    def scores(self) -> list[str]:
        """Scores that the sweep looked at."""
        return list(self.summary["settings"]["scores"])

    @cached_property
    def table(self) -> StageTable:
        """All rows."""
        table = load_table(self.folder / "stages.parquet")
        if not len(table):
            raise ValueError(f"`run` must hold rows, but {self.folder / 'stages.parquet'} has none; test it again.")
        return table

    @property
    def costs(self) -> ModelCosts:
        """Cost functions of all tiers."""
        return ModelCosts.load(self.folder / "costs.json")

    @cached_property
    def times(self) -> TimeTable | None:
        """Measured times of the tiers, where ``dial test --study.rows`` left some."""
        places = [folder / "study" / TIMES for folder in (self.run, self.folder.parent)]
        found = [place for place in places if place.is_file()]
        return TimeTable.load(found[0]) if found else None

    def split(self, name: str | None = None) -> str:
        """The reported split to read points from: the named one, else the first.

        Raises:
            ValueError: there is no such split.
        """
        known = list(self.summary["splits"])
        if name is not None and name not in known:
            raise ValueError(f"`split` must be one of {', '.join(known)}, but got {name!r}.")
        return name or known[0]

    def choosing_rows(self, split: str | None = None) -> StageTable:
        """The rows that points are chosen on.

        Those of ``dial calibrate``, else the calibration split, or with cross-fitting the reported one.
        """
        if self.calibration is not None:
            return self.calibration.table
        held_out = self.summary["calibration"]["method"] == "split"
        return self.table.of_split("calibration" if held_out else self.split(split))

    def point(self, rule: Rule, promise: Promise) -> OperatingPoint:
        """An operating point of this run's tiers by a rule with its thresholds."""
        temperatures = tuple(float(self.settings["temperatures"].get(name, 1.0)) for name in self.stages)
        complete = dataclasses.replace(
            rule,
            stages=self.stages,
            temperatures=temperatures,
            seed=int(self.settings.get("seed", 0)),
            tolerance=self._tolerance,
        )
        tiers = {name: str(tier["fingerprint"]) for name, tier in self.settings["tiers"].items()}
        about: dict[str, Any] = {"run": str(self.run), "metric": self.summary["metrics"][0]}
        if self.calibration is not None:
            about |= {"metric": self.calibration.about["metric"], "calibrated_on": dict(self.calibration.about)}
        return OperatingPoint(complete, promise, tiers, tuple(self.label_names), about)

    @property
    def _tolerance(self) -> float:
        return float(self.settings.get("tolerance") or 0.0)

    def at_threshold(
        self, threshold: float | Sequence[float], score: str | None = None, rule: str = Threshold.name
    ) -> OperatingPoint:
        """The point with a threshold of the user's, for all stages or one for each but the last.

        Raises:
            ValueError: no score, an unknown one, or another number of thresholds than stages that decide.
        """
        count = len(self.stages) - 1
        values = [float(t) for t in threshold] if isinstance(threshold, Sequence) else [float(threshold)] * count
        if len(values) == 1:
            values *= count
        if len(values) != count:
            raise ValueError(
                f"`threshold` must be one number, or one for each of {', '.join(self.stages[:-1])}, but got {values}."
            )
        chosen = rule_named(rule, score or "", with_dial())
        if chosen.reads_score:
            if score is None:
                raise ValueError(f"`score` must say what the threshold is of: one of {', '.join(self.scores)}.")
            self._check_score(score)
            if len(set(values)) > 1:
                chosen = PerStage(score)
        return self.point(chosen.at(values), Promise("threshold"))

    def for_target(
        self,
        target: float,
        reading: str = "expected",
        score: str | None = None,
        rule: str = Threshold.name,
        split: str | None = None,
    ) -> OperatingPoint:
        """The cheapest point that keeps a share of the Super's quality on the calibration rows.

        What ``dial test`` chose is taken as it is; another target is looked up on the same curve.

        Args:
            target: share of the Super's quality.
            reading: ``expected`` (the point estimate), ``confident`` (a lower bound), or ``per_stage`` (exploratory:
                nothing is promised of it).
            score: what decides; default: the sweep's first. The cheapest of several would be chosen on the rows that
                its promise rests on, and hold less often than it says.
            rule: name of a rule with one dial, such as ``threshold`` or ``patience``.
            split: the reported split whose points to read, where there are several.

        Raises:
            ValueError: an unknown reading, score or split, or a target that no point reaches; says the best.
        """
        self._check_whole()
        readings = ("expected", "confident", *searched())
        if reading not in readings:
            raise ValueError(f"`reading` must be one of {', '.join(readings)}, but got {reading!r}.")
        return self._targeted(float(target), reading, self._deciding(score, rule), split)

    def for_budget(
        self,
        budget: float,
        score: str | None = None,
        rule: str = Threshold.name,
        split: str | None = None,
        timed: Timed | None = None,
    ) -> OperatingPoint:
        """The point of best quality whose mean cost on the calibration rows is at most a budget.

        Args:
            budget: MACs per row, or milliseconds where ``timed`` is given.
            score: what decides; default: the sweep's first.
            rule: name of a rule with one dial, such as ``threshold`` or ``patience``.
            split: as for :meth:`for_target`.
            timed: puts milliseconds in place of a table's MACs (:meth:`TimeTable.timed`).

        Raises:
            ValueError: even the cheapest point costs more; says how much.
        """
        self._check_whole()
        rows = self.choosing_rows(split)
        argument, unit = ("budget", "MACs") if timed is None else ("ms", "ms")
        rows = rows if timed is None else timed(rows)
        chooser = Chooser(rows, self._deciding(score, rule))
        least = float(chooser.macs.min())
        if least > budget * (1 + 1e-12):
            raise ValueError(
                f"`{argument}` must be at least {least:.6g} {unit} per row, which the cheapest point costs on the "
                f"calibration rows, but got {budget:.6g}."
            )
        chosen = chooser.budget(budget)
        promise = dataclasses.replace(chosen.promise, unit=unit.lower())
        return self.point(chosen.rule, promise)

    def _targeted(self, target: float, reading: str, rule: Rule, split: str | None) -> OperatingPoint:
        """The point of a target: the stored one where the sweep chose it, else chosen now on the same rows."""
        stored_points = [] if self.calibration else self.summary["splits"][self.split(split)].get("points", [])
        for stored in stored_points:
            key = (stored["score"], stored["kind"], stored["target"])
            # A point whose thresholds were searched carries the rule of its own name, which is the reading.
            if key == (rule.score, reading, target) and stored["rule"] in (rule.name, reading):
                return self._stored(stored)
        chooser = Chooser(self.choosing_rows(split), rule)
        if reading in searched():
            chosen = searched()[reading].searched(chooser, target)
        elif reading == "confident":
            chosen = chooser.confident(target, float(self.summary["settings"]["confidence"]))
        else:
            chosen = chooser.expected(target)
        self._check_best(target, chooser)
        return self.point(chosen.rule, chosen.promise)

    def _stored(self, stored: Mapping[str, Any]) -> OperatingPoint:
        """A point of the sweep's summary."""
        target, kept = stored["target"], stored["calibration"].get("kept")
        if target > 1 and kept is not None and kept < target - 1e-12:
            raise ValueError(
                f"`target` {target:g} is reached nowhere on the curve: the best of its points keeps {kept:.4f} of the "
                "Super's quality; lower it."
            )
        rule = rule_named(stored["rule"], stored["score"], routing())
        return self.point(rule.at(stored["thresholds"]), Promise.from_json(dict(stored)))

    def _check_best(self, target: float, chooser: Chooser) -> None:
        """Refuse a target above everything on the curve; the Super itself has a share of 1."""
        best = int(np.nanargmax(chooser.quality))
        share = float(chooser.quality[best] / chooser.quality[-1]) if chooser.quality[-1] > 0 else 1.0
        if target > max(1.0, share) + 1e-12:
            raise ValueError(
                f"`target` {target:g} is reached nowhere on the curve of {chooser.rule.score}: the best there is "
                f"{share:.4f} of the Super's quality, at {chooser.macs[best]:.4g} MACs per row; lower it."
            )

    def _deciding(self, score: str | None, rule: str) -> Rule:
        """A rule by the score asked for, else by the sweep's first, which was fixed before looking."""
        first = next((name for name in self.scores if name != "random"), self.scores[0])
        chosen = rule_named(rule, score or first, with_dial(), tolerance=self._tolerance)
        if chosen.reads_score:
            self._check_score(chosen.score)
        return chosen

    def _check_score(self, score: str) -> None:
        if score not in self.scores:
            raise ValueError(
                f"`score` must be one that the sweep of this run looked at ({', '.join(self.scores)}), "
                f"but got {score!r}; run `dial test` with --sweep.scores."
            )

    def _check_whole(self) -> None:
        """Refuses sweeps of trial runs and of a single stage, where nothing can be chosen."""
        if self.summary["partial"]:
            raise ValueError(
                f"`run` must hold a whole sweep, but {self.folder} is of a trial run over a part of the rows, whose "
                "curve means nothing; run `dial test` without limits, or give a `threshold`."
            )
        if len(self.stages) == 1:
            raise ValueError(
                f"`target` and `budget` choose between stages, but {self.run} has one, {self.stages[0]}; "
                "leave them out."
            )


def read_point(value: Mapping[str, Any]) -> OperatingPoint:
    """Read what :meth:`OperatingPoint.to_json` gave.

    Raises:
        ValueError: another schema, an unknown rule, or something missing.
    """
    what = "`point` must be a file that `dial predict` left as `point` in its manifest"
    if not isinstance(value, Mapping) or value.get("schema") != SCHEMA or "decision" not in value:
        raise ValueError(f"{what}.")
    try:
        decision = value["decision"]
        rule = rule_named(
            decision["rule"],
            decision["score"],
            routing(),
            thresholds=tuple(map(float, decision["thresholds"])),
            stages=tuple(decision["stages"]),
            temperatures=tuple(map(float, decision["temperatures"])),
            seed=int(decision["seed"]),
            tolerance=float(decision.get("tolerance", 0.0)),
        )
        about = dict(value.get("about", {}))
        promise = Promise.from_json(about)
        return OperatingPoint(rule, promise, dict(value["tiers"]), tuple(value["label_names"]), about)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{what}, but it is damaged: {type(error).__name__}: {error}.") from error


def check_point(point: OperatingPoint, network: StagedModel, argument: str = "point") -> None:
    """Refuse a model that a point was not chosen for: its scores would mean something else.

    Args:
        point: that is to be run.
        network: the model to run.
        argument: how the user calls the operating point.

    Raises:
        ValueError: other stages, labels, tiers or views, or a score that they do not have.
    """
    stages = tuple(stage.name for stage in network.stages)
    if stages != point.rule.stages:
        raise ValueError(
            f"`{argument}` is for the stages {', '.join(point.rule.stages)}, but the model has "
            f"{', '.join(stages)}; choose one from a sweep of this model (`dial test`)."
        )
    names = tuple(network.tiers[0].label_names)
    if names != point.label_names:
        raise ValueError(
            f"`{argument}` is for the labels {', '.join(point.label_names) or 'of a regression'}, but the model has "
            f"{', '.join(names) or 'a regression'}; choose one from a sweep of this model (`dial test`)."
        )
    point.rule.check_scores((*network.model_scores, *network.late_scores), argument)
    for tier in network.tiers:
        wanted, found = point.tiers.get(tier.name), tier.fingerprint
        if wanted != found:
            raise ValueError(
                f"`{argument}` was chosen for a tier {tier.name} with the fingerprint {wanted}, but "
                f"{tier.view.path} has {found} (other weights, another view or other labels); "
                "run `dial test` again with this tier, or give the one that was tested."
            )
