"""What a sweep chooses and how it states it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SweepSettings:
    """What to choose and how to state it.

    Attributes:
        scores: which scores route; () takes those in the table. ``random`` is always added as a line to compare with.
        targets: shares of the Super's quality.
        confidence: one-sided, of the ``confident`` reading.
        budgets: mean MACs per row.
        bootstrap: resamples behind each interval.
        seed: of the resampling and of random routing.
        folds: of cross-fitting.
        patience: numbers of agreements (PABEE) to report as they are, beside those that are chosen for the targets.
        tolerance: for regression: two answers agree if they differ by less; None: patience is left out there.
        calibration: "split" chooses on the split called calibration, "crossfit" on the other folds of each reported
            split.
    """

    scores: Sequence[str] = ()
    targets: Sequence[float] = (1.0, 0.995, 0.99, 0.98)
    confidence: float = 0.9
    budgets: Sequence[float] = ()
    bootstrap: int = 1000
    seed: int = 0
    folds: int = 5
    calibration: str = "split"
    patience: Sequence[int] = ()
    tolerance: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", tuple(self.scores))
        object.__setattr__(self, "patience", tuple(dict.fromkeys(int(value) for value in self.patience)))
        for name in ("targets", "budgets"):
            object.__setattr__(self, name, tuple(dict.fromkeys(float(value) for value in getattr(self, name))))
        checks = [
            (
                "targets",
                "shares of the Super's quality in (0, 1.5]",
                self.targets,
                all(0 < t <= 1.5 for t in self.targets),
            ),
            ("confidence", "in (0.5, 1)", self.confidence, 0.5 < self.confidence < 1),
            ("budgets", "positive mean MACs per row", self.budgets, all(budget > 0 for budget in self.budgets)),
            ("bootstrap", "at least 100 resamples", self.bootstrap, self.bootstrap >= 100),
            ("seed", "a whole number from 0 to 2**63 - 1", self.seed, 0 <= self.seed < 2**63),
            ("folds", "at least 2", self.folds, self.folds >= 2),
            ("patience", "at least 1", list(self.patience), all(value >= 1 for value in self.patience)),
            ("tolerance", "0 or more", self.tolerance, self.tolerance is None or 0 <= self.tolerance < math.inf),
            ("calibration", "'split' or 'crossfit'", self.calibration, self.calibration in ("split", "crossfit")),
        ]
        for name, allowed, got, fine in checks:
            if not fine:
                raise ValueError(f"`{name}` must be {allowed}, but got {got!r}.")
