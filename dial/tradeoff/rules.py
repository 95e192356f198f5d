"""The kinds of rules by name, and a table's curve by the name of one.

A further kind is a subclass of :class:`Rule` in a file of its own, named in :data:`RULES`; one of a user's calls
:func:`register`, and is there as soon as its module is imported (``dial --import``).
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from dial.stages.table import StageTable
from dial.tradeoff.curve import Curve
from dial.tradeoff.oracle import Oracle
from dial.tradeoff.patience import Patience
from dial.tradeoff.per_stage import PerStage
from dial.tradeoff.quantiles import Quantiles
from dial.tradeoff.rule import Rule
from dial.tradeoff.threshold import Threshold

Kind = TypeVar("Kind", bound=type[Rule])
BUILT_IN = (Threshold, PerStage, Patience, Oracle)
RULES: dict[str, type[Rule]] = {kind.name: kind for kind in BUILT_IN}


def register(kind: Kind) -> Kind:
    """Add a kind of rule, which sweeps chart from now on; a decorator of its class.

    Raises:
        ValueError: another kind has its name.
    """
    if RULES.setdefault(kind.name, kind) is not kind:
        raise ValueError(f"`name` must be a rule's own, but {kind.name!r} is that of {RULES[kind.name].__qualname__}.")
    return kind


def routing() -> list[str]:
    """Names of the kinds that can decide on rows without labels."""
    return [name for name, kind in RULES.items() if kind.routes]


def with_dial() -> list[str]:
    """Names of those among them of which one dial gives all thresholds."""
    return [name for name in routing() if RULES[name].has_dial]


def searched() -> dict[str, type[PerStage]]:
    """Kinds whose thresholds are searched for a target, instead of being given by one dial."""
    return {name: kind for name, kind in RULES.items() if issubclass(kind, PerStage)}


def rule_named(name: str, score: str = "", among: Iterable[str] | None = None, **values: Any) -> Rule:
    """A rule of a known kind.

    Args:
        name: of the kind.
        score: what decides, where the kind reads one.
        among: names that are allowed; default: all.
        **values: see :class:`Rule`.

    Raises:
        ValueError: there is no such kind, or values that it cannot have.
    """
    allowed = list(RULES if among is None else among)
    if name not in allowed:
        raise ValueError(f"`rule` must be one of {', '.join(allowed)}, but got {name!r}; `--import` yours.")
    return RULES[name](score, **values)


def charted(table: StageTable, scores: Sequence[str]) -> list[Rule]:
    """All rules that a sweep charts on a table.

    Args:
        table: the rows.
        scores: that are looked at.
    """
    return [rule for kind in RULES.values() for rule in kind.charted(table, scores)]


def check_settings(settings: Any, stages: int, regression: bool, prefix: str = "") -> None:
    """Refuse what the user asks of a rule and cannot be; see :meth:`Rule.check_settings`."""
    for kind in RULES.values():
        kind.check_settings(settings, stages, regression, prefix)


def curve(table: StageTable, score: str, rule: str = Threshold.name, quantiles: Quantiles | None = None) -> Curve:
    """The exact curve of a score and rule on the rows of one split.

    Args:
        table: the rows.
        score: one that the table holds; ``random`` gives the expectation of random routing, ``oracle`` the oracle
            whatever the rule; not read by all rules.
        rule: name of a kind.
        quantiles: for more than two stages, fitted on the calibration rows' score; by default on ``table`` itself,
            which is right for a curve *of* calibration rows. Not used for two stages, whose dial is the score itself.

    Raises:
        ValueError: the rule is unknown, or the table does not hold the score or holds several splits.
    """
    tolerance = float(table.settings.get("tolerance") or 0.0)
    line = rule_named(Oracle.name if score == Oracle.name else rule, score, tolerance=tolerance)
    result = line.curve(table, quantiles)
    assert result.split  # of one
    return result
