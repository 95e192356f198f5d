"""Operating points that can be kept, and that know the tiers they were chosen for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dial.files import plain
from dial.inference.router import Decision
from dial.inference.staged import StagedModel
from dial.stages.scores import SCORES

SCHEMA = 1


@dataclass(frozen=True)
class OperatingPoint:
    """A rule with its values, and the tiers that it was chosen for.

    Attributes:
        decision: what the executor runs by.
        tiers: fingerprint of each tier by name, in order; it covers weights, view and labels.
        label_names: the data's names in the order of its integers; empty for regression.
        about: how it was chosen and what it promised, for reports.
    """

    decision: Decision
    tiers: dict[str, str]
    label_names: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)

    def check(self, network: StagedModel, argument: str = "point") -> None:
        """Refuse a model that the point was not chosen for: its scores would mean something else.

        Args:
            network: the model to run.
            argument: how the user calls the operating point.

        Raises:
            ValueError: other stages, labels, tiers or views, or a score that they do not have.
        """
        stages = tuple(stage.name for stage in network.stages)
        if stages != self.decision.stages:
            raise ValueError(
                f"`{argument}` is for the stages {', '.join(self.decision.stages)}, but the model has "
                f"{', '.join(stages)}; choose one from a sweep of this model (`dial test`)."
            )
        names = tuple(network.tiers[0].label_names)
        if names != self.label_names:
            raise ValueError(
                f"`{argument}` is for the labels {', '.join(self.label_names) or 'of a regression'}, but the model has "
                f"{', '.join(names) or 'a regression'}; choose one from a sweep of this model (`dial test`)."
            )
        if self.decision.rule != "patience" and self.decision.score not in (*SCORES, "random", *network.model_scores):
            raise ValueError(
                f"`{argument}` decides by the score {self.decision.score!r}, which the model does not have; "
                "choose one from a sweep of this model (`dial test`)."
            )
        for tier in network.tiers:
            wanted, found = self.tiers.get(tier.name), tier.fingerprint
            if wanted != found:
                raise ValueError(
                    f"`{argument}` was chosen for a tier {tier.name} with the fingerprint {wanted}, but "
                    f"{tier.view.path} has {found} (other weights, another view or other labels); "
                    "run `dial test` again with this tier, or give the one that was tested."
                )

    def to_json(self) -> dict[str, Any]:
        """A value that ``json`` writes and :meth:`from_json` reads back unchanged."""
        decision = dataclasses.asdict(self.decision)
        record = {"schema": SCHEMA, "decision": decision, "tiers": self.tiers}
        answer: dict[str, Any] = plain(record | {"label_names": self.label_names, "about": self.about})
        return answer

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OperatingPoint:
        """Read what :meth:`to_json` gave.

        Raises:
            ValueError: another schema, or something missing.
        """
        what = "`point` must be a file that `dial predict` left as `point` in its manifest"
        if not isinstance(value, Mapping) or value.get("schema") != SCHEMA or "decision" not in value:
            raise ValueError(f"{what}.")
        try:
            decision = value["decision"]
            made = Decision(
                stages=tuple(decision["stages"]),
                rule=decision["rule"],
                score=decision["score"],
                thresholds=tuple(map(float, decision["thresholds"])),
                temperatures=tuple(map(float, decision["temperatures"])),
                seed=int(decision["seed"]),
                tolerance=float(decision.get("tolerance", 0.0)),
            )
            return cls(made, dict(value["tiers"]), tuple(value["label_names"]), dict(value.get("about", {})))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{what}, but it is damaged: {type(error).__name__}: {error}.") from error
