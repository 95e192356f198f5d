"""Which output of a tier means which class of the data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from datamodules.labels import plain_name

GENERIC = re.compile(r"(label[\W_]*)?\d+", re.IGNORECASE)


def is_generic(names: Sequence[str] | None) -> bool:
    """Whether names say nothing about the classes: none, or only numbers (``LABEL_0``, ``1``).

    Example:
        >>> is_generic(["LABEL_0", "LABEL_1"]), is_generic(["negative", "positive"])
        (True, False)
    """
    return not names or all(GENERIC.fullmatch(name.strip()) for name in names)


def match_labels(names: Sequence[str] | None, data: Sequence[str], argument: str) -> tuple[list[int], bool]:
    """Find for each class of the data the tier's output of the same name.

    Names are compared without case and punctuation. Generic names on either side count as the data's order.

    Args:
        names: the tier's names in the order of its outputs.
        data: the data's names in the order of its integers.
        argument: how the user calls the tier.

    Returns:
        The outputs' positions in the data's order, and whether this order is only assumed.

    Raises:
        ValueError: the numbers of labels or the names differ; names ``argument`` and the remedy.

    Example:
        >>> match_labels(["Positive", "NEGATIVE"], ["negative", "positive"], "tier")
        ([1, 0], False)
    """
    if names and len(names) != len(data):
        raise ValueError(
            f"`{argument}` must have the data's {len(data)} labels ({', '.join(data)}), "
            f"but it has {len(names)} ({', '.join(names)}); {remedy_of_numbers(names, data)}"
        )
    own, wanted = _comparable(names or [], data)
    if sorted(own) == sorted(wanted):
        return [own.index(name) for name in wanted], False
    if (is_generic(names) or is_generic(data)) and not _other_numbers(own, wanted):
        return list(range(len(data))), True
    raise ValueError(
        f"`{argument}` must have the data's labels {', '.join(data)} (in any order or case), but it has "
        f"{', '.join(names or [])}; if they mean the same, give its `label_names`, the data's names in its order."
    )


def remedy_of_numbers(names: Sequence[str], data: Sequence[str]) -> str:
    """What to do where a tier and the data have different numbers of labels.

    A file by itself may lack a class that the tier was trained on.

    >>> remedy_of_numbers(["1", "2", "3"], ["3", "1"])
    'if the file has rows of some of the classes only, give the data all of them: `label_names: [1, 2, 3]`.'
    """
    own, wanted = _comparable(names, data)
    default = [str(index) for index in range(len(names))]
    generic = is_generic(names) and set(data) <= set(default)
    if len(names) > len(data) and (set(wanted) <= set(own) or generic):
        every = ", ".join(names if set(wanted) <= set(own) else default)
        return f"if the file has rows of some of the classes only, give the data all of them: `label_names: [{every}]`."
    return "give a tier that was trained on this task."


def _other_numbers(own: Sequence[str], data: Sequence[str]) -> bool:
    """Whether both name their classes by numbers that are no mere indices: 1 and 5 are not 1 and 3."""
    default = [str(index) for index in range(len(data))]
    return all(all(name.isdecimal() for name in side) and sorted(side) != sorted(default) for side in (own, data))


def _comparable(names: Sequence[str], data: Sequence[str]) -> tuple[list[str], list[str]]:
    """Both lists without case and punctuation, unless names (such as ``+`` and ``-``) would no longer differ."""
    both = [[plain_name(name) for name in side] for side in (names, data)]
    if any("" in side or len(set(side)) < len(side) for side in both):
        both = [[name.strip().casefold() for name in side] for side in (names, data)]
    return both[0], both[1]


def check_tiers_agree(names: Mapping[str, Sequence[str] | None]) -> None:
    """Refuse tiers whose own names contradict each other, as can happen where the data's names are generic.

    Args:
        names: for each tier its names, already in the data's order.

    Raises:
        ValueError: two tiers with real names call the same class differently.
    """
    known = {tier: list(own) for tier, own in names.items() if own and not is_generic(own)}
    for tier, own in known.items():
        first = next(iter(known))
        left, right = _comparable(own, known[first])
        if left != right:
            raise ValueError(
                f"`tiers` must mean the same classes, but {first} has {', '.join(known[first])} and {tier} has "
                f"{', '.join(own)}; give the data's label names, or `label_names` on one of them."
            )


def check_targets_agree(targets: Mapping[str, str | None], data: str | None = None, argument: str = "tiers") -> None:
    """Refuse tiers that write something else, such as another language, than each other or than the data wants.

    Args:
        targets: for each tier that writes what it was trained to write; None where nobody says.
        data: what the data wants.
        argument: how the user calls the tiers.

    Raises:
        ValueError: two of them differ.

    Example:
        >>> check_targets_agree({"swift": "de", "super": None}, "ro")
        Traceback (most recent call last):
            ...
        ValueError: `tiers` must write what the data holds, which is 'ro', but swift was trained to write 'de'; give ...
    """
    known = {name: target for name, target in targets.items() if target is not None}
    for name, target in known.items():
        first = next(iter(known))
        if data is not None and target != data:
            raise ValueError(
                f"`{argument}` must write what the data holds, which is {data!r}, but {name} was trained to write "
                f"{target!r}; give a tier or data of the other target."
            )
        if target != known[first]:
            raise ValueError(
                f"`{argument}` must write the same, but {first} was trained to write {known[first]!r} and {name} to "
                f"write {target!r}; give tiers of one target."
            )


def check_permutation(
    predictions: ArrayLike, labels: ArrayLike, label_names: Sequence[str], argument: str, significance: float = 1e-3
) -> None:
    """Refuse an assumed order of labels where another one fits held-out rows better by more than its noise.

    The best other order is the assignment of outputs to classes with the most correct rows. Only rows that exactly one
    of the two orders gets right tell them apart (McNemar); their exact one-sided binomial probability is
    compared with ``significance`` divided by the number of other orders.

    Args:
        predictions: ``(N,)`` classes of held-out rows, in the assumed order.
        labels: ``(N,)`` classes; a row whose label or prediction is none (below 0) tells nothing.
        label_names: the data's names.
        argument: how the user calls the tier.
        significance: chance of refusing a right order.

    Raises:
        ValueError: another order is better; names it.
    """
    predicted, gold = (np.asarray(values, dtype=np.int64) for values in (predictions, labels))
    known = (predicted >= 0) & (gold >= 0)
    predicted, gold, classes = predicted[known], gold[known], len(label_names)
    if classes < 2 or len(gold) == 0:
        return
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (predicted, gold), 1)
    order = linear_sum_assignment(counts, maximize=True)[1]  # order[output] = the class that it stands for
    better = int(((order[predicted] == gold) & (predicted != gold)).sum())
    worse = int(((order[predicted] != gold) & (predicted == gold)).sum())
    chance = binom.sf(better - 1, better + worse, 0.5) if better > worse else 1.0
    if chance < significance / (math.factorial(classes) - 1):
        names = ", ".join(label_names[i] for i in order)
        raise ValueError(
            f"`{argument}` has no label names, so its outputs were taken as {', '.join(label_names)}; "
            f"but as {names} they fit {better - worse} more of {len(gold)} held-out rows; "
            f"settle it with `label_names: [{names}]` on the tier."
        )
