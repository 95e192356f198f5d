"""What the costs of a foreign table mean, in which order its stages run, and what the last of them costs alone.

Nothing in the numbers tells own costs from cumulative ones, or a cascade from the exits of one model, and each mistake
gives a plausible speed-up. So whoever sweeps such a table says it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

COSTS, KINDS = ("own", "cumulative"), ("tiers", "exits")


@dataclass(frozen=True)
class ForeignCosts:
    """Costs of a foreign table, as a stage table holds them.

    Attributes:
        names: of the stages, cheapest first.
        decide: ``(N, S)`` MACs up to the decision at a stage.
        macs: ``(N, S)`` MACs of stopping at a stage, earlier stages included.
        reference: ``(N,)`` MACs of the reference alone.
        remarks: how the columns were read.
    """

    names: list[str]
    decide: np.ndarray
    macs: np.ndarray
    reference: np.ndarray
    remarks: list[str] = field(default_factory=list)


def read_costs(
    column: Callable[[str], np.ndarray],
    present: Collection[str],
    names: Sequence[str],
    costs: str | None,
    kind: str | None,
) -> ForeignCosts:
    """Read ``macs_<stage>``, ``decide_macs_<stage>`` and ``macs_reference``.

    Args:
        column: gives a column ``(N,)`` by name.
        present: names of all columns.
        names: of the stages, in order of their columns.
        costs: ``own`` (of each stage's model alone) or ``cumulative`` (with what ran before it); None only where there
            is one stage.
        kind: for cumulative costs without ``macs_reference``: whether the stages are ``tiers``, models one after the
            other, or ``exits`` of one model.

    Raises:
        ValueError: it is not said what the costs are, or they contradict it.
    """
    check_said(len(names), costs, kind, "macs_reference" in present)
    means = [float(np.mean(column(f"macs_{name}"))) if len(column(f"macs_{name}")) else 0.0 for name in names]
    ordered = [names[index] for index in np.argsort(means, kind="stable")]
    macs = np.stack([column(f"macs_{name}") for name in ordered], axis=1).astype(np.float64)
    has_decide = any(f"decide_macs_{name}" in present for name in names)
    decide = np.stack([column(f"decide_macs_{name}") for name in ordered], axis=1) if has_decide else macs
    decide = decide.astype(np.float64)
    given = column("macs_reference") if "macs_reference" in present else None
    if costs == "own":
        _check_positive(macs, ordered, column("sample_id"))
        reference = macs[:, -1]
        before = np.cumsum(decide, axis=1) - decide
        macs, decide = before + macs, before + decide
    else:
        _check_rising(macs, decide, ordered, column("sample_id"))
        reference = macs[:, -1] - (decide[:, -2] if kind == "tiers" and len(names) > 1 else 0.0)
    remarks = [] if len(names) == 1 else [reading(costs, kind, ordered[-1], given is not None)]
    if ordered != list(names):
        remarks.append(
            f"Stages are in order of their mean {costs} cost ({', '.join(ordered)}), not of their columns "
            f"({', '.join(names)})."
        )
    return ForeignCosts(ordered, decide, macs, reference if given is None else given, remarks)


def check_said(stages: int, costs: str | None, kind: str | None, has_reference: bool) -> None:
    """Refuse a table whose costs can be read in two ways.

    Raises:
        ValueError: naming what is to be said.
    """
    for name, value, allowed in (("costs", costs, COSTS), ("stages", kind, KINDS)):
        if value is not None and value not in allowed:
            raise ValueError(f"`{name}` must be {' or '.join(allowed)}, but got {value!r}.")
    if stages > 1 and costs is None:
        raise ValueError(
            "`costs` must be said for a table of several stages, but got none: give `--costs own` where macs_<stage> "
            "is what the stage's own model costs, or `--costs cumulative` where it holds what ran before, too."
        )
    if costs == "own" and kind == "exits":
        raise ValueError(
            "`costs` of exits must be cumulative, as an exit runs all layers before it, but got 'own'. Add them up."
        )
    if stages > 1 and costs == "cumulative" and kind is None and not has_reference:
        raise ValueError(
            "`table` must have a column 'macs_reference' where costs are cumulative, what the last stage costs alone, "
            "but it has none. Add it, or give `--stages tiers` (models one after the other: the last one's cost is the "
            "difference) or `--stages exits` (of one model: it is the last cost)."
        )


def reading(costs: str | None, kind: str | None, last: str, has_reference: bool) -> str:
    """How costs were read, in one sentence.

    >>> reading("own", None, "large", False)
    'Costs were read as own (a stage costs the sum up to it); the reference is large alone.'
    """
    what = "own (a stage costs the sum up to it)" if costs == "own" else "cumulative"
    if has_reference:
        return f"Costs were read as {what}; the reference is the column macs_reference."
    alone = f"{last}, the last exit" if kind == "exits" else f"{last} alone"
    return f"Costs were read as {what}; the reference is {alone}."


def _check_positive(macs: np.ndarray, names: Sequence[str], sample_id: np.ndarray) -> None:
    """Refuse own costs that a sum would hide."""
    wrong = np.argwhere(~(np.isfinite(macs) & (macs > 0)))
    if len(wrong):
        row, stage = wrong[0]
        raise ValueError(
            f"`macs_{names[stage]}` must be finite and above 0, but got {macs[row, stage]} for sample_id "
            f"{sample_id[row]}. Correct the cost."
        )


def _check_rising(macs: np.ndarray, decide: np.ndarray, names: Sequence[str], sample_id: np.ndarray) -> None:
    """Refuse cumulative costs that are less than what ran before."""
    fallen = np.argwhere(macs[:, 1:] < decide[:, :-1])
    if len(fallen):
        row, stage = fallen[0]
        raise ValueError(
            f"`macs_{names[stage + 1]}` must be at least what {names[stage]!r} took where costs are cumulative, but "
            f"got {macs[row, stage + 1]:g} after {decide[row, stage]:g} for sample_id {sample_id[row]}. "
            "Give `--costs own` if they are."
        )
