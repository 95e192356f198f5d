"""The operating points of a measured study: of the cascade, random routing, the oracle, and a model with exits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dial.stages.table import StageTable
from dial.tradeoff.calibration import Chooser, OperatingPoint, crossfit, oracle_taken
from dial.tradeoff.taken import Taken


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
    thresholds: tuple[float, ...]
    reached: bool


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
    for target in targets:
        for method, name in (("cascade", score), ("random", "random")):
            if held_out is not None:
                chosen = Chooser(held_out, name).expected(target)
                taken = chosen.taken(rows)
            else:
                chosen = Chooser(rows, name).expected(target)
                taken, _ = crossfit(rows, _expected(name, target), folds)
            points.append(_point(method, "expected", target, taken, chosen))
            chosen = Chooser(rows, name).expected(target)
            points.append(_point(method, "in_sample", target, chosen.taken(rows), chosen))
        oracle = Chooser(rows, "oracle", "oracle")
        chosen = oracle.expected(target)
        taken = oracle_taken(oracle, chosen)
        points.append(dataclasses.replace(_point("oracle", "in_sample", target, taken, chosen), thresholds=()))
    return points


def choose_exits(
    rows: StageTable,
    held_out: StageTable | None,
    score: str,
    targets: Sequence[float],
    reference: Mapping[str, float],
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
    for target in targets:
        for reading, chosen_on in (("expected", held_out), ("in_sample", rows)):
            if chosen_on is None:
                continue
            chooser = Chooser(chosen_on, score)
            wanted = target * reference[reading]
            own = float(chooser.quality[-1])
            chosen = chooser.expected(wanted / own if own > 0 else float("inf"))
            reached = bool(chosen.quality >= wanted - 1e-12)
            found = _point("exits", reading, target, chosen.taken(rows), chosen)
            points.append(dataclasses.replace(found, reached=reached))
    return points


def _expected(score: str, target: float) -> Callable[[StageTable], OperatingPoint]:
    return lambda table: Chooser(table, score).expected(target)


def _point(method: str, reading: str, target: float, taken: Taken, chosen: OperatingPoint) -> Point:
    return Point(method, reading, target, taken, chosen.thresholds, True)


def exits_score(table: StageTable) -> str:
    """The score of a model with exits: entropy, as in DeeBERT, where the table has it, else its first."""
    return "entropy" if "entropy" in table.scores else next(iter(table.scores))
