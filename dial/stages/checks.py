"""What is asked of a stage table before anything is computed from it; each refusal names the column and the row.

``table`` is a :class:`dial.stages.table.StageTable`, which asks for these checks itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dial.stages.metrics.base import UNIT_RANGE
from dial.stages.metrics.groups import GroupAccuracy
from dial.stages.metrics.metrics import AGREEMENT, NAMED
from dial.stages.task import UNREAD
from dial.stages.texts import COUNT_RANGE, sums_of

BY_TIER = ("lengths", "padded", "written", "cut_off")
LARGEST_SCORE = 1e100  # beyond it differences and squares of scores are no numbers any more


def check_shapes(table: Any) -> None:
    """Refuse columns of unequal shapes."""
    rows, stages = len(table.split), len(table.stages)
    wanted: list[tuple[str, Any, tuple[int, ...]]] = []
    for name in ("split", "sample_id", "label", "macs_reference", "group", "references"):
        wanted.append((name, getattr(table, name), (rows,)))
    for name in ("predictions", "decide_macs", "macs", "texts"):
        wanted.append((name, getattr(table, name), (rows, stages)))
    shapes: dict[str, tuple[int, ...]] = {"scores": (rows, stages), "statistics": (rows, stages)}
    for name, shape in {**shapes, **dict.fromkeys(BY_TIER, (rows,))}.items():
        wanted += [(f"{name}[{key!r}]", value, shape) for key, value in getattr(table, name).items()]
    if table.outputs is not None:
        wanted.append(("outputs", table.outputs, (rows, stages, *table.outputs.shape[2:3])))
        if table.outputs.ndim != 3:
            wanted.append(("outputs", table.outputs, (rows, stages, table.task.columns)))
    for name, value, shape in wanted:
        if value is not None and np.shape(value) != shape:
            raise ValueError(
                f"`{name}` must have shape {shape} for {rows} examples and {stages} stages, but got {np.shape(value)}. "
                "Give every column one entry for each example and stage."
            )


def check_names(table: Any) -> None:
    """Refuse stages without a name of their own, and metrics that cannot be computed."""
    names = [stage.name for stage in table.stages]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"`stages` must be one or more, each with its own name, but got {names}. Rename the repeated one."
        )
    known = [*NAMED, AGREEMENT, *table.statistics]
    wrong = [name for name in table.metrics if name not in known]
    if wrong or not table.metrics:
        raise ValueError(
            f"`metrics` must name one or more of: {', '.join(known)}; but got {wrong[0] if wrong else 'none'!r}. "
            "Choose from these, or add the metric's statistic to the table."
        )
    for name in table.metrics:
        if name not in table.statistics:
            table.task.check_metric(name)
    if GroupAccuracy.name in table.metrics and table.group is None:
        raise ValueError(
            f"`metrics` with {GroupAccuracy.name} need a column `group`, such as the question that a row answers, but "
            "the table has none. Add it, or leave the metric out."
        )


def check_labels(table: Any) -> None:
    """Refuse labels that are no class, or not finite, and logits that do not fit the label names."""
    label = np.asarray(table.label)
    bad = ~np.isfinite(label)
    allowed = "a finite number"
    if (classes := table.task.classes) is not None:
        if table.outputs is not None and table.outputs.shape[-1] != classes:
            raise ValueError(
                f"`outputs` must have one logit for each of the {classes} labels {list(table.label_names)}, "
                f"but got {table.outputs.shape[-1]}. Check the number of labels of every tier."
            )
        allowed = f"0 to {classes - 1}, for the labels {list(table.label_names)}"
        lowest = UNREAD if AGREEMENT in table.metrics and table.texts is not None else 0  # the last stage's answers
        bad |= (label != np.floor(label)) | (label < lowest) | (label >= classes)
        _check_predictions(table, allowed)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"`label` must be {allowed}, but got {label[row]} for sample_id {table.sample_id[row]} of split "
            f"{str(table.split[row])!r}. Correct the label, or leave unlabelled rows out."
        )


def _check_predictions(table: Any, allowed: str) -> None:
    """Refuse predictions between two classes, which would be cut to the lower one."""
    values = np.asarray(table.predictions)
    between = np.isfinite(values) & (values != np.floor(values)) if values.dtype.kind == "f" else np.zeros(1, bool)
    if between.any():
        row, stage = np.argwhere(between)[0]
        raise ValueError(
            f"`prediction_{table.stages[stage].name}` must be {allowed}, but got {values[row, stage]} for sample_id "
            f"{table.sample_id[row]} of split {str(table.split[row])!r}. Give classes, or no label names for a "
            "regression."
        )


def check_scores(table: Any) -> None:
    """Refuse scores that could decide and are not finite: no threshold is above plus infinity, none fits NaN.

    Those of the last stage decide nothing and are not read.
    """
    for name, values in table.scores.items():
        bad = ~(np.abs(values[:, :-1]) <= LARGEST_SCORE)
        if bad.any():
            row, stage = np.argwhere(bad)[0]
            raise ValueError(
                f"`{name}_{table.stages[stage].name}` must be finite (at most {LARGEST_SCORE:g} in size), as "
                f"thresholds lie between scores, but got {values[row, stage]} for sample_id {table.sample_id[row]} of "
                f"split {str(table.split[row])!r}. Give a row that must stay the largest of the other scores."
            )


def check_ranges(table: Any) -> None:
    """Refuse statistics outside the range that they declare, on which every guard against an unseen loss rests."""
    ranges = table.settings.get("ranges", {})
    for name, (low, high) in ranges.items():
        if name not in table.statistics:
            raise ValueError(
                f"`ranges` must be of statistics that the table holds ({', '.join(table.statistics) or 'none'}), "
                f"but got {name!r}. Add the columns `stat_{name}_<stage>`, or leave it out."
            )
        if not -np.inf < low < high < np.inf:
            raise ValueError(f"`ranges` of {name!r} must be a lower and a higher finite number, but got {low}, {high}.")
    counts = dict.fromkeys(sums_of(table.metrics), COUNT_RANGE)
    means = {name: UNIT_RANGE for name in table.metrics if name in table.statistics}
    for name, (low, high) in {**counts, **means, **ranges}.items():
        values = table.statistics[name]
        bad = ~((values >= low) & (values <= min(high, LARGEST_SCORE)))
        if bad.any():
            row, stage = np.argwhere(bad)[0]
            raise ValueError(
                f"`stat_{name}_{table.stages[stage].name}` must lie in its range, {low:g} to {high:g}, but got "
                f"{values[row, stage]} for sample_id {table.sample_id[row]} of split {str(table.split[row])!r}. "
                f"Declare another (`dial sweep --range {name} LOW HIGH`), or correct the value."
            )


def check_finite(table: Any) -> None:
    """Refuse outputs, predictions and costs that are not finite, and costs below 0, naming tier and example."""
    for name in ("outputs", "predictions"):
        values = getattr(table, name)
        # A sum is finite only if all its terms are: one cheap pass in the usual case.
        if values is None or np.isfinite(np.sum(values, dtype=np.float64)):
            continue
        row, stage = np.argwhere(~np.isfinite(values))[0][:2]
        raise ValueError(
            f"`{name}` must be finite, but got {np.asarray(values[row, stage]).tolist()} from tier "
            f"{table.stages[stage].tier!r} (stage {table.stages[stage].name!r}) for sample_id {table.sample_id[row]} "
            f"of split {str(table.split[row])!r}. Check the tier's weights and dtype, or leave the row out."
        )
    for name in ("macs", "macs_reference", "decide_macs"):
        values, decide = getattr(table, name), name == "decide_macs"
        bad = ~np.isfinite(values) | (values < 0 if decide else values <= 0)
        if bad.any():
            place = tuple(np.argwhere(bad)[0])
            stage = f" at stage {table.stages[place[1]].name!r}" if len(place) > 1 else ""
            raise ValueError(
                f"`{name}` must be finite and {'at least' if decide else 'above'} 0, but got {values[place]}{stage} "
                f"for sample_id {table.sample_id[place[0]]} of split {str(table.split[place[0]])!r}. Correct the cost."
            )
