"""Populations of rows whose true quality at every threshold is known, and stage tables drawn from them."""

from dataclasses import dataclass

import numpy as np

from dial.stages.stage import Stage
from dial.stages.table import StageTable


@dataclass(frozen=True)
class Population:
    """Two stages; a uniform surety u, and given it the chances that the Super alone or the Swift alone is right.

    The Super alone is right with chance ``lost · (1 − u)^power``, the Swift alone with ``won · (1 − u)^power``, both
    with ``both``. All integrals over u > t are closed forms.
    """

    lost: float = 0.3
    won: float = 0.05
    both: float = 0.6
    power: float = 3.0

    def margin(self, threshold: float, target: float) -> float:
        """True accuracy of "the Swift keeps u ≥ threshold" minus target times the Super's."""
        t = np.clip(threshold, 0.0, 1.0)
        mean = 1 / (self.power + 1)
        kept = (1 - t) ** (self.power + 1) / (self.power + 1)
        best = self.both + self.lost * mean
        return best + (self.won - self.lost) * kept - target * best

    def sample(self, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Suretys (N,) and whether each stage is right (N, 2)."""
        u, draw = rng.random(rows), rng.random(rows)
        decay = (1 - u) ** self.power
        lost, won = self.lost * decay, self.won * decay
        super_right = (draw < lost) | (draw > 1 - self.both)
        swift_right = ((draw >= lost) & (draw < lost + won)) | (draw > 1 - self.both)
        return u, np.stack([swift_right, super_right], axis=1)


def table_of(
    score: np.ndarray,
    right: np.ndarray,
    *,
    costs: tuple[float, ...] = (1.0, 11.0),
    split: str = "test",
    metric: str = "accuracy",
    rng: np.random.Generator | None = None,
    positives: float = 0.5,
) -> StageTable:
    """A two-class table with the given scores ``(N,)`` or ``(N, S)`` and correctness ``(N, S)``."""
    rows, stages = right.shape
    rng = rng or np.random.default_rng(0)
    label = (rng.random(rows) < positives).astype(np.int64)
    scores = np.repeat(score[:, None], stages, axis=1) if score.ndim == 1 else score
    macs = np.tile(np.array(costs), (rows, 1))
    return StageTable(
        split=np.full(rows, split),
        sample_id=np.arange(rows),
        label=label,
        stages=tuple(Stage(f"s{s}", f"s{s}") for s in range(stages)),
        predictions=np.where(right, label[:, None], 1 - label[:, None]),
        decide_macs=macs,
        macs=macs,
        macs_reference=np.full(rows, costs[-1] - costs[-2]),
        scores={"softmax": scores},
        metrics=(metric,),
        label_names=("no", "yes"),
    )


def cascade_logits(
    rows: int, seed: int, *, strengths: tuple[float, ...] = (1.2, 2.5), classes: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and logits (N, S, C) of stages that see the same evidence more and more clearly."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, rows)
    hard = rng.gamma(2.0, 0.7, rows)[:, None, None]
    truth = np.eye(classes)[label][:, None]
    shared = rng.normal(size=(rows, 1, classes))
    own = rng.normal(size=(rows, len(strengths), classes))
    strength = np.array(strengths)[None, :, None]
    return label, strength * (truth * 2.5 - hard * (0.5 * shared + own) / np.sqrt(strength)) + 0.3


def logits_table(
    rows: int,
    seed: int,
    *,
    splits: tuple[str, ...] = ("calibration", "test"),
    strengths: tuple[float, ...] = (1.2, 2.5),
    metrics: tuple[str, ...] = ("accuracy",),
    classes: int = 2,
    seeded: bool = True,
) -> StageTable:
    """A whole table with logits and every score, ``rows`` rows for each split."""
    total = rows * len(splits)
    label, logits = cascade_logits(total, seed, strengths=strengths, classes=classes)
    stages = len(strengths)
    lengths = np.random.default_rng(seed + 1).integers(5, 60, total)
    own = lengths[:, None] * 10.0 ** (6 + np.arange(stages))
    macs = np.cumsum(own, axis=1)
    names = ["swift", "super"] if stages == 2 else [f"tier{s}" for s in range(stages)]
    table = StageTable(
        split=np.repeat(np.array(splits), rows),
        sample_id=np.tile(np.arange(rows), len(splits)),
        label=label,
        stages=tuple(Stage(name, name) for name in names),
        outputs=logits.astype(np.float32),
        predictions=logits.astype(np.float32).argmax(axis=-1),
        decide_macs=macs,
        macs=macs,
        macs_reference=own[:, -1],
        lengths=dict.fromkeys(names, lengths),
        padded=dict.fromkeys(names, lengths + 3),
        metrics=metrics,
        label_names=tuple(f"class{c}" for c in range(classes)),
        settings={"task": "synthetic", "seed": seed, "partial": False},
    )
    return table.with_scores(["energy", "energy_released", "softmax", "margin", "entropy", "random"], seed=0)
