"""Which steps of `make results` are due.

The models run once. Of each `dial test` a slim stage table is kept in `results/`, and everything that is said of it is
arithmetic on that table: a step that trains or tests is due only where a table that needs it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from dial.cli.steps import Step, is_complete

ROOT = Path(__file__).resolve().parent.parent
PRECISION = ("--trainer.precision", "bf16-mixed")
"""Of the steps that train encoders and writers; energy heads are trained in float32."""
ARITHMETIC = ("dial/stages", "dial/tradeoff", "dial/costs", "dial/report")


@dataclass(frozen=True)
class Derived(Step):
    """Arithmetic on stored tables: due again when they, or the arithmetic, have changed.

    Attributes:
        sources: files that it is made from.
    """

    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured(Step):
    """Times, for which nothing else may run on the machine: due only when it is asked for."""


def computed_in(steps: Sequence[Step], precision: str) -> list[Step]:
    """The steps with another precision where theirs is bf16.

    >>> fit = Step("ta", "ta/card.json", ("dial", "fit", "--trainer.precision", "bf16-mixed", "--run", "ta"))
    >>> computed_in([fit], "32-true")[0].command
    ('dial', 'fit', '--trainer.precision', '32-true', '--run', 'ta')
    """
    return [replace(step, command=_in_precision(step.command, precision)) for step in steps]


def _in_precision(command: tuple[str, ...], precision: str) -> tuple[str, ...]:
    pairs = pairwise(("", *command))
    return tuple(precision if pair == PRECISION else pair[1] for pair in pairs)


def goals(steps: Sequence[Step], only: str) -> list[Step]:
    """What is to be there in the end.

    Args:
        steps: all of them.
        only: a part of the names of those that are meant; of these what is derived, if any is, else what is measured,
            else the steps themselves.
    """
    named = [step for step in steps if only in step.name]
    for kind in (Derived, Measured, Step):
        if chosen := [step for step in named if isinstance(step, kind)]:
            return chosen
    return []


def due(steps: Sequence[Step], wanted: Sequence[Step], root: Path = ROOT) -> list[Step]:
    """The steps to run, in order: those wanted that are not done, and what they need that is not done either.

    Args:
        steps: all of them, in order: each after what it needs.
        wanted: from :func:`goals`.
        root: folder that their results lie in.
    """
    return _chain(steps, wanted, _stale(steps, root))


def chain(steps: Sequence[Step], wanted: Sequence[Step]) -> list[Step]:
    """The steps wanted and all that they need, in order, done or not."""
    return _chain(steps, wanted, {step.name for step in steps})


def _chain(steps: Sequence[Step], wanted: Sequence[Step], among: set[str]) -> list[Step]:
    """The steps wanted that are among some, by name, and those among them that these need."""
    names = {step.name for step in wanted}
    products = [_product(step) for step in steps]
    result: list[Step] = []
    for position in range(len(steps) - 1, -1, -1):
        step = steps[position]
        if step.name in names and step.name in among:
            result.insert(0, step)
            named = _named(step)
            names |= {steps[i].name for i in range(position) if products[i] in named}
    return result


def needs(step: Step, earlier: Step) -> bool:
    """Whether a step's command names what an earlier one leaves: its run, sweep or model folder, or else its very file.

    >>> fit = Step("ta", "runs/x/ta/tier/card.json", ("dial", "fit", "--run", "runs/x/ta"))
    >>> needs(Step("t", "", ("dial", "test", "--model.tiers", "[runs/x/ta/tier, runs/x/super/tier]")), fit)
    True
    >>> needs(Step("t", "", ("dial", "test", "--model.path", "runs/x/ta-large/tier")), fit)
    False
    """
    return _product(earlier) in _named(step)


def _product(step: Step) -> str:
    """What a step leaves, as later commands name it."""
    product = Path(step.result)
    if step.command[0] == "dial" and product.name in ("card.json", "summary.json", "study.json", "lengths.json"):
        product = step.folder
    elif product.name == "model.safetensors":
        product = product.parent
    return product.as_posix()


def _named(step: Step) -> set[str]:
    """All paths in a step's command, and the folders above them."""
    paths = {path for word in step.command for path in re.split(r"[\s=\[\]{},'\"]+", word) if path}
    return paths | {path[: slash.start()] for path in paths for slash in re.finditer("/", path)}


def _stale(steps: Sequence[Step], root: Path) -> set[str]:
    """Names of the steps without a result, and of those derived ones whose sources or arithmetic are newer."""
    code = max((file.stat().st_mtime for room in ARITHMETIC for file in (root / room).rglob("*.py")), default=0.0)
    names: set[str] = set()
    results: set[str] = set()
    for step in steps:
        result = root / step.result
        old = not is_complete(result)
        if isinstance(step, Derived) and not old:
            files = [root / source for source in step.sources]
            made = result.stat().st_mtime
            old = code > made or any(not file.is_file() or file.stat().st_mtime > made for file in files)
            old = old or any(source in results for source in step.sources)
        if old:
            names.add(step.name)
            results.add(step.result)
    return names
