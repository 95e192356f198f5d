"""Foreign tables, written by anything else: their stages, costs, labels and scores as a stage table holds them.

Nothing in the numbers tells own costs from cumulative ones, or a cascade from the exits of one model, and each mistake
gives a plausible speed-up. So whoever sweeps such a table says it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.labels import ANY_TEXT, KINDS, Classes, is_free_text, number_names, number_of
from dial.stages.columns import TIER_COLUMNS, Columns, declared_ranges
from dial.stages.metrics.texts import TEXT_METRICS
from dial.stages.stage import Stage
from dial.stages.table import StageTable
from dial.stages.task import Classification, Task, Text, task_of

NOT_SCORES = ("output", "prediction", "macs", "decide_macs", "length", "padded", "text", "written", "cut_off")
COST_KINDS, STAGE_KINDS = ("own", "cumulative"), ("tiers", "exits")


def foreign_table(
    columns: Columns,
    metrics: Sequence[str] | None,
    label_names: Sequence[str] | None,
    seed: int,
    costs: str | None,
    stages: str | None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> StageTable:
    """The table of a file written by anything else; what it lacks is derived.

    See :func:`dial.stages.parquet.load_table` for the arguments.
    """
    costly = read_costs(columns, columns.names, _stages(columns), costs, stages)
    names = costly.names
    if is_written(columns, names, label_names):
        return written_table(columns, costly, metrics, seed, ranges)
    common = columns.common()
    if common.pop("references") is not None:
        costly.remarks.append("The column references was not read, as answers are no free text.")
    common["label"] = as_numbers(common["label"], label_names, "label", columns.path)
    outputs = columns.per_stage("output_{}", names) if f"output_{names[0]}" in columns.names else None
    if outputs is not None and outputs.ndim == 2:
        outputs = outputs[:, :, None]
    texts = columns.per_stage("text_{}", names) if f"text_{names[0]}" in columns.names else None
    predictions = _predictions(columns, names, label_names, outputs, texts)
    if label_names is None:
        label_names = _classes(common["label"], outputs, predictions, columns.path)
        if outputs is None and predictions is not None and label_names:
            common["label"] = _ranks(common["label"], label_names)
            predictions = _ranks(predictions, label_names)
    task = task_of(label_names)
    if predictions is None:
        assert outputs is not None
        predictions = task.predict(outputs)
    if texts is not None:
        costly.remarks.extend(_contradictions(task, names, texts, predictions))
    if outputs is not None and task.exact and outputs.shape[-1] not in (1, task.columns):
        raise ValueError(
            f"`label_names` must name the {outputs.shape[-1]} classes of the logits in {columns.path!r}, but got "
            f"{len(label_names)}: {', '.join(label_names)}."
        )
    table = StageTable(
        **common,
        **_shared(columns, costly, seed, ranges),
        outputs=outputs,
        predictions=predictions,
        texts=texts,
        statistics=_named(columns, "stat_", names),
        metrics=tuple(metrics or task.metrics),
        label_names=tuple(label_names),
    )
    wanted = [name for name in task.scores if name not in table.scores and (outputs is not None or name == "random")]
    return table.with_scores(wanted, seed)


def _predictions(
    columns: Columns,
    names: Sequence[str],
    label_names: Sequence[str] | None,
    outputs: np.ndarray | None,
    texts: np.ndarray | None,
) -> np.ndarray | None:
    """Answers ``(N, S)`` from their columns, else what texts mean; None where outputs tell."""
    if (outputs is None and texts is None) or all(f"prediction_{name}" in columns.names for name in names):
        given = [f"prediction_{name}" for name in names]
        return np.stack([as_numbers(columns(name), label_names, name, columns.path) for name in given], axis=1)
    return None if texts is None else task_of(label_names).read(texts)


def _contradictions(task: Task, names: Sequence[str], texts: np.ndarray, predictions: np.ndarray) -> Iterator[str]:
    """Say where the predictions, which count, are not what the texts beside them mean."""
    read = task.read(texts)
    for index, name in enumerate(names):
        differ = ~task.unread(texts[:, index]) & (read[:, index] != predictions[:, index])
        if differ.any():
            row = int(np.flatnonzero(differ)[0])
            yield (
                f"The column prediction_{name} counts, not text_{name}, which means another answer in "
                f"{differ.sum():,} of {len(texts):,} rows, first {texts[row, index]!r} in row {row}."
            )


def _shared(
    columns: Columns, costly: ForeignCosts, seed: int, ranges: Mapping[str, tuple[float, float]] | None
) -> dict[str, Any]:
    """What tables of all tasks hold."""
    return {
        "stages": tuple(Stage(name, name) for name in costly.names),
        "scores": _named(columns, "", costly.names),
        "decide_macs": costly.decide,
        "macs": costly.macs,
        "macs_reference": costly.reference,
        **{field: columns.by_tier(kind, costly.names) for kind, field in TIER_COLUMNS.items()},
        "settings": {"seed": seed, "foreign": True, "remarks": costly.remarks} | declared_ranges(ranges),
    }


def is_written(columns: Columns, names: Sequence[str], label_names: Sequence[str] | None) -> bool:
    """Whether a table's answers are free text: texts, or nothing but sums of a metric, and no class.

    Raises:
        ValueError: texts have neither references nor label words to be compared with.
    """
    texts = f"text_{names[0]}" in columns.names
    classes = label_names is not None or f"output_{names[0]}" in columns.names
    if is_free_text(label_names) or ("references" in columns.names and not classes):
        return True
    if texts and label_names is None:
        raise ValueError(
            f"`table` must have a column 'references' beside texts (one or a list of texts for each row), but "
            f"{columns.path!r} has {', '.join(columns.names)}. Add it, or give `--label-names` if texts name classes."
        )
    kinds = ("output", "prediction", "text")
    return not any(f"{kind}_{names[0]}" in columns.names for kind in kinds)


def written_table(
    columns: Columns,
    costly: ForeignCosts,
    metrics: Sequence[str] | None,
    seed: int,
    ranges: Mapping[str, tuple[float, float]] | None,
) -> StageTable:
    """The table of a file of texts with references, or of the sums of metrics that somebody computed from such.

    See :func:`dial.stages.parquet.load_table` for the arguments.

    Raises:
        ValueError: a metric is asked for, or none is, that neither texts nor sums give.
    """
    names = costly.names
    texts = columns.per_stage("text_{}", names) if f"text_{names[0]}" in columns.names else None
    statistics = _named(columns, "stat_", names)
    if metrics is None:
        whole = [each.name for each in TEXT_METRICS if set(each.sums) <= set(statistics)]
        metrics = Text.metrics if texts is not None else whole or list(statistics)
    table = StageTable(
        **columns.common(labelled=False),
        **_shared(columns, costly, seed, ranges),
        predictions=np.zeros(costly.macs.shape, np.int64) if texts is None else Text().read(texts),
        texts=texts,
        statistics=statistics,
        metrics=tuple(metrics),
        label_names=(ANY_TEXT,),
    )
    return table if "random" in table.scores else table.with_scores(["random"], seed)


def _stages(columns: Columns) -> list[str]:
    """Return stage names from the column names, in order of appearance."""
    outputs, predictions, texts, costs = (
        [name.removeprefix(prefix) for name in columns.names if name.startswith(prefix)]
        for prefix in ("output_", "prediction_", "text_", "macs_")
    )
    sums = [name for name in costs if name != "reference" and any(f.endswith(f"_{name}") for f in _sums(columns))]
    stages = outputs or predictions or texts or sums
    if not stages:
        raise ValueError(
            f"`table` must have a column 'output_<stage>', 'prediction_<stage>' or 'text_<stage>' for every stage, "
            f"but {columns.path!r} has {', '.join(columns.names)}. Add one of them per stage."
        )
    kind = "output" if outputs else "prediction" if predictions else "text" if texts else "macs"
    for name in dict.fromkeys([*predictions, *texts, *costs]):
        if name not in stages and name != "reference":  # left out, it would be missing from every figure
            raise ValueError(
                f"`table` must have a column '{kind}_{name}', as it has others of the stage {name!r}, "
                f"but {columns.path!r} has {', '.join(columns.names)}. Add the column, or drop the stage's others."
            )
    return stages


def _sums(columns: Columns) -> list[str]:
    """Names of the columns of statistics."""
    return [name for name in columns.names if name.startswith("stat_")]


def _named(columns: Columns, prefix: str, stages: Sequence[str]) -> dict[str, np.ndarray]:
    """Return ``(N, S)`` by name for the columns ``<prefix><name>_<stage>`` that a foreign table has.

    The last stage decides nothing: where it alone has no column its entries are NaN.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for column in columns.names:
        stage = max((name for name in stages if column.endswith(f"_{name}")), key=len, default=None)
        if stage is None or not column.startswith(prefix):
            continue
        name = column[len(prefix) : -len(stage) - 1]
        reserved = name in NOT_SCORES or name.startswith("stat_") or not name
        if not reserved and pa.types.is_floating(columns.schema.field(column).type):
            found.setdefault(name, {})[stage] = columns(column)
    result = {}
    for name, by_stage in found.items():
        missing = [stage for stage in stages if stage not in by_stage]
        if missing == [stages[-1]] and not prefix:
            by_stage[stages[-1]] = np.full(columns.rows, np.nan)
        elif missing and not prefix and name in Classification.scores:
            continue  # computed anew for all stages
        elif missing:
            columns(f"{prefix}{name}_{missing[0]}")  # raises, naming the column
        result[name] = np.stack([by_stage[stage] for stage in stages], axis=1)
    return result


def _classes(
    label: np.ndarray, outputs: np.ndarray | None, predictions: np.ndarray | None, path: str
) -> tuple[str, ...]:
    """Return class numbers as names, or none for regression: a single output, or labels that are no whole numbers.

    Raises:
        ValueError: labels that are no whole numbers beside several logits: these are neither classes nor one answer.
    """
    fractions = np.flatnonzero(np.asarray(label) != np.round(label))
    if outputs is not None and outputs.shape[-1] > 1:
        if len(fractions):
            raise ValueError(
                f"`table` must have classes from 0 to {outputs.shape[-1] - 1} as 'label' beside {outputs.shape[-1]} "
                f"logits a row, but {path!r} has {label[fractions[0]]} in row {fractions[0]}. Correct the column, or "
                "give one output a row for a regression."
            )
        return tuple(str(index) for index in range(outputs.shape[-1]))
    if outputs is not None or predictions is None or len(fractions) or (predictions != np.round(predictions)).any():
        return ()
    present = {0} if len(label) == 0 else {int(index) for index in np.unique([label, *predictions.T])}
    # A negative number is no class, and is refused as such when the table is checked.
    return tuple(number_names(present if min(present) >= 0 else range(max(present) + 1)))


def _ranks(values: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
    """Classes whose names are numbers as positions among these names; what is none stays as it is.

    >>> _ranks(np.array([5, 900, 5]), ["5", "900"]).tolist()
    [0, 1, 0]
    """
    find = Classes(label_names)
    distinct, places = np.unique(values, return_inverse=True)
    found = [find(value) for value in distinct.tolist()]
    if None in found:
        return values
    return np.array(found, np.int64)[places].reshape(values.shape)


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
    for name, value, allowed in (("costs", costs, COST_KINDS), ("stages", kind, STAGE_KINDS)):
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


def as_numbers(values: np.ndarray, label_names: Sequence[str] | None, column: str, path: str) -> np.ndarray:
    """Classes by name where they have names, else numbers.

    Args:
        values: ``(N,)`` texts, decimals, truth values or numbers.
        label_names: of the classes in the order of the logits; empty for regression, None where nobody said.
        column: where they come from.
        path: of the file.

    Returns:
        ``(N,)`` int64, or float64 where one is no whole number. Classes that are numbers and have no names that are
        stay as they are.

    Raises:
        ValueError: a value that is no number where there are no names, or that none of the names is.

    Example:
        >>> as_numbers(np.array(["pos", "Neg"], object), ["neg", "pos"], "label", "t.parquet").tolist()
        [1, 0]
    """
    numbered = any(number_of(name) is not None for name in label_names or ())
    if values.ndim == 1 and values.dtype.kind in "iufb" and not numbered:
        return values
    distinct, places = _distinct(values)
    find: Callable[[object], Any] = Classes(label_names) if label_names else number_of
    numbers = []
    for value in distinct:
        number = find(value)
        if number is None:
            allowed, remedy = "texts or numbers", "Correct the column."
            if isinstance(value, KINDS):
                allowed = f"one of {', '.join(label_names)}" if label_names else "numbers, or have `label_names`"
                remedy = remedy if label_names else "Give `--label-names` in the order of the logits."
            shown = repr(value) if isinstance(value, str) else str(value)
            raise ValueError(f"`table` must have {allowed} as {column!r}, but {path!r} has {shown}. {remedy}")
        numbers.append(number)
    whole = all(abs(number) < 2**53 and number == int(number) for number in numbers)
    return np.array([int(n) if whole else float(n) for n in numbers], np.int64 if whole else np.float64)[places]


def _distinct(values: np.ndarray) -> tuple[list[object], np.ndarray]:
    """Values that differ, and for each row which of them it has."""
    if values.ndim == 1 and values.dtype.kind in "iufb":
        numbers, inverse = np.unique(values, return_inverse=True)
        return list(numbers), inverse
    known: dict[str, int] = {}
    distinct: list[object] = []
    places = np.empty(len(values), np.int64)
    for row, value in enumerate(values):
        place = known.setdefault(repr(value), len(distinct))
        if place == len(distinct):
            distinct.append(value)
        places[row] = place
    return distinct, places
