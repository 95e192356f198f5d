"""Operating points: a rule with its values, what it promised where it was chosen, and the tiers that it is for."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any

from dial.files import plain
from dial.tradeoff.rule import Rule

SCHEMA = 1


@dataclass(frozen=True)
class Promise:
    """How a point was chosen, and what the calibration rows said of it.

    Attributes:
        kind: how it was chosen; "threshold" where the user gives the values, of which nothing more is known, empty
            where there is nothing to choose.
        target: share of the Super's quality; for a budget the cost per row; for "fixed" the threshold; None at the
            crossing.
        quality: on the calibration rows; NaN where nothing is known.
        kept: quality as a share of that of the Super; None where that is not above zero.
        macs: mean cost per row there.
        margin_bound: one-sided lower bound of quality − target · Super there; only for "confident".
        certified: for "confident": lowest and highest share of rows that stop before the last stage among the points
            that were tested and passed. Points with a lower share were not tested.
        rows_needed: calibration rows that a first saving would need, where only the Super qualifies.
        note: what a reader must know, empty where nothing.
        unit: of the cost.
    """

    kind: str = ""
    target: float | None = None
    quality: float = nan
    kept: float | None = None
    macs: float = nan
    margin_bound: float | None = None
    certified: tuple[float, float] | None = None
    rows_needed: int | None = None
    note: str = ""
    unit: str = "macs"

    def measured(self) -> dict[str, Any]:
        """What the calibration rows said, as reports hold it."""
        return {"quality": self.quality, "kept": self.kept, self.unit: self.macs, "margin_bound": self.margin_bound}

    def to_json(self) -> dict[str, Any]:
        """Plain values for files."""
        if isnan(self.quality):
            return {"kind": self.kind} if self.kind else {}
        certified = {} if self.certified is None else {"certified_shares": list(self.certified)}
        calibration = self.measured() | certified
        return {"kind": self.kind, "target": self.target, "calibration": calibration, "note": self.note}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Promise:
        """What :meth:`to_json` gave; it is taken out of ``values``, which may hold more."""
        kind, calibration = values.pop("kind", ""), values.pop("calibration", None)
        if calibration is None:
            return cls(kind)
        unit = "ms" if "ms" in calibration else "macs"
        certified = calibration.get("certified_shares")
        return cls(
            kind,
            values.pop("target"),
            quality=calibration["quality"],
            kept=calibration["kept"],
            macs=calibration[unit],
            margin_bound=calibration["margin_bound"],
            certified=None if certified is None else tuple(certified),
            note=values.pop("note", ""),
            unit=unit,
        )


@dataclass(frozen=True)
class OperatingPoint:
    """A rule with its values, and the tiers that it was chosen for.

    Attributes:
        rule: with its thresholds.
        promise: how it was chosen, and what it keeps and costs where it was chosen.
        tiers: fingerprint of each tier by name, in order; it covers weights, view and labels. Empty on a table.
        label_names: the data's names in the order of its integers; empty for regression.
        about: where it comes from, for reports.
    """

    rule: Rule
    promise: Promise
    tiers: dict[str, str] = field(default_factory=dict)
    label_names: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A value that ``json`` writes and :func:`dial.inference.operating_point.read_point` reads back unchanged."""
        names = ("stages", "score", "thresholds", "temperatures", "seed", "tolerance")
        decision = {"rule": self.rule.name} | {name: getattr(self.rule, name) for name in names}
        record = {"schema": SCHEMA, "decision": decision, "tiers": self.tiers, "label_names": self.label_names}
        answer: dict[str, Any] = plain(record | {"about": self.about | self.promise.to_json()})
        return answer
