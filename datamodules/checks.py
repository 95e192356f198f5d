"""What a data module refuses, and what it says of its rows: how many, of which classes, and which are trained on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datamodules.labels import is_free_text
from datamodules.printing import printable
from datamodules.rows import Rows

MOST_SHOWN = 20  # classes of a line


def check_max_rows(max_rows: int | dict[str, int] | None) -> None:
    """Refuse numbers of rows that are none, and names that are no role: they would have no effect.

    Raises:
        ValueError: naming the role or the number.
    """
    limits = max_rows if isinstance(max_rows, dict) else {} if max_rows is None else {"": max_rows}
    for role, limit in limits.items():
        if role not in ("", "train", "validation", "calibration") and not role.startswith("test"):
            raise ValueError(
                f"`max_rows` must name the roles train, validation, calibration or a test split, but got {role!r}."
            )
        if limit < 1:
            raise ValueError(f"`max_rows` must be at least 1{f' for {role}' if role else ''}, but got {limit}.")


def check_seed(argument: str, seed: int) -> None:
    """Refuse a seed that generators do not take.

    Raises:
        ValueError: naming ``argument``.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"`{argument}` must be a whole number from 0 to 2**63 - 1, but got {seed}.")


def check_calibration(rows: Rows, label_names: Sequence[str], minimum: int) -> None:
    """Refuse calibration rows that no operating point can be chosen on.

    Raises:
        ValueError: there are fewer than ``minimum``, or all are of one class.
    """
    remedy = "Raise `calibration_fraction`, give more rows, or take `--data.calibration crossfit`."
    if len(rows) < minimum:
        raise ValueError(f"`calibration` needs at least {minimum} rows, but got {len(rows)}. {remedy}")
    if label_names and len(np.unique(rows.label)) < 2:
        only = label_names[int(rows.label[0])]
        raise ValueError(
            f"`calibration` needs rows of at least two classes, but all {len(rows)} are {only!r}. {remedy}"
        )


def check_trainer(trainer: Any) -> None:
    """Refuse a trainer whose own sampler would split the rows among the processes once more.

    Raises:
        ValueError: ``use_distributed_sampler`` is on with several processes.
    """
    connector = getattr(trainer, "_accelerator_connector", None)
    if trainer is not None and trainer.world_size > 1 and getattr(connector, "use_distributed_sampler", False):
        raise ValueError(
            "`trainer.use_distributed_sampler` must be false with several processes, but got true: the loaders "
            "split the rows among the ranks themselves. Set `trainer.use_distributed_sampler: false`."
        )


def is_partial(trainer: Any) -> bool:
    """Whether a trainer leaves rows out of any of its loops (1 is one batch, 1.0 is all); no trainer leaves none."""
    if trainer is None:
        return False
    limits = [getattr(trainer, f"limit_{loop}_batches") for loop in ("train", "val", "test", "predict")]
    limited = any(limit != 1.0 or isinstance(limit, int) for limit in limits)
    return bool(trainer.fast_dev_run or trainer.overfit_batches or limited)


def check_ids(rows: Rows, role: str) -> None:
    """Refuse rows that share a number: all but one would be dropped as repeats of a distributed sampler.

    Raises:
        ValueError: some do.
    """
    ids, counts = np.unique(rows.sample_id, return_counts=True)
    if len(ids) < len(rows):
        twice = counts > 1
        raise ValueError(
            f"`sample_id` must be unique within `{role}`, but {int(twice.sum())} of {len(ids)} ids occur more than "
            f"once, first {ids[twice][0]}. Number the rows."
        )


def check_metrics(metrics: Sequence[str], label_names: Sequence[str]) -> list[str]:
    """The metrics, where F1 of class 1 alone is none of more than two classes.

    Raises:
        ValueError: it is.
    """
    if "f1" in metrics and len(label_names) > 2:
        raise ValueError(
            f"`metrics` must be of {len(label_names)} classes ({', '.join(label_names[:6])}"
            f"{', …' if len(label_names) > 6 else ''}), but got 'f1', which is F1 of class 1 of two; take macro_f1."
        )
    return list(metrics)


def role_line(role: str, rows: Rows, label_names: Sequence[str]) -> str:
    """Number of a role's rows, and what their labels are.

    Args:
        role: name of the role.
        rows: its rows.
        label_names: of the classes in order; empty for regression, ``*`` for free text.

    >>> rows = Rows(["a", "b", "c"], None, np.array([1, 0, 1]), np.arange(3))
    >>> role_line("train", rows, ["no", "yes"])
    'train: 3 rows (no: 1, yes: 2)'
    """
    if is_free_text(label_names):
        about = _written(rows)
    else:
        about = _class_counts(rows.label, label_names) if label_names else _values(rows.label)
    return f"{role}: {len(rows)} rows{f' ({about})' if about else ''}"


def _class_counts(label: np.ndarray, label_names: Sequence[str]) -> str:
    """Rows by class in words, empty where no row has a label."""
    counts = np.bincount(label[label >= 0], minlength=len(label_names))
    if not counts.sum():
        return ""
    shown = [f"{printable(name)}: {count}" for name, count in zip(label_names[:MOST_SHOWN], counts, strict=False)]
    if len(label_names) > MOST_SHOWN:
        rest = counts[MOST_SHOWN:]
        shown.append(f"{len(rest)} more classes of {rest.min()} to {rest.max()} rows")
    return ", ".join(shown)


def _written(rows: Rows) -> str:
    lengths = [len(references[0].split()) for references in rows.targets or () if references]
    return f"{np.mean(lengths):.1f} words in an answer on average" if lengths else ""


def _values(label: np.ndarray) -> str:
    given = label[~np.isnan(label)]
    return f"from {given.min():g} to {given.max():g}, mean {given.mean():g}" if len(given) else ""


def leakage_lines(parts: Mapping[str, Rows]) -> list[str]:
    """One line for each other role some of whose texts are training rows too, letter by letter.

    Args:
        parts: rows by role.

    >>> one, two = (Rows(texts, None, np.zeros(2, int), np.arange(2)) for texts in (["a", "b"], ["b", "c"]))
    >>> leakage_lines({"train": one, "test": two})
    ['leakage: 1 of 2 test rows are training rows too (the same text); quality on those says nothing about new rows']
    """
    others = {role: rows for role, rows in parts.items() if role != "train" and "train" in parts}
    tested = {unit for rows in others.values() for unit in rows.units()}
    # Training rows are read as a stream: there may be far more of them than are held in memory.
    known = {unit for unit in parts["train"].units() if unit in tested} if tested else set()
    lines = []
    for role, rows in others.items():
        shared = sum(unit in known for unit in rows.units())
        if shared:
            lines.append(
                f"leakage: {shared} of {len(rows)} {role} rows are training rows too (the same text); quality on those "
                "says nothing about new rows"
            )
    return lines


def majority(label: np.ndarray) -> tuple[int, float]:
    """The most frequent class of ``(N,)`` labels, and its share; the first of several.

    >>> majority(np.array([2, 0, 2, 1]))
    (2, 0.5)
    """
    (largest, count), *_ = sorted(Counter(label.tolist()).items(), key=lambda item: (-item[1], item[0]))
    return int(largest), count / len(label)


def check_generated(shares: Sequence[float], levels: int, sizes: Mapping[str, int], data_seed: int) -> None:
    """Refuse what rows cannot be generated by.

    Args:
        shares: parts of the levels among the rows.
        levels: how many there are.
        sizes: rows of each role.
        data_seed: of the rows.

    Raises:
        ValueError: naming the argument.
    """
    if len(shares) != levels or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"`shares` must be {levels} parts of at least 0, not all 0, but got {list(shares)}.")
    for role, size in sizes.items():
        if size < 1:
            raise ValueError(f"`{role}_rows` must be at least 1, but got {size}.")
    check_seed("data_seed", data_seed)
