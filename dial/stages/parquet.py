"""The file of a stage table: parquet, a public format.

Columns: ``split``, ``sample_id``, optional ``group``, ``label``; per tier ``length_<tier>`` and ``padded_<tier>``; per
stage ``output_<stage>`` (list of ``C`` raw logits, fp32), ``prediction_<stage>``, ``<score>_<stage>``,
``stat_<name>_<stage>``, ``decide_macs_<stage>``, ``macs_<stage>``; and ``macs_reference``. Where decoders answer, per
stage ``text_<stage>``, per tier ``written_<tier>`` (tokens) and ``cut_off_<tier>`` (0 or 1), and for free text
``references`` (list of texts). What is no column (schema
version, stages with their tiers, metrics, label names, settings) is JSON in the metadata under the key ``dial``. A
*slim* table has its cost functions there, and lacks the scores, predictions and costs that follow from the rest.

A *foreign* table, written by anything else, needs ``split``, ``sample_id``, ``label`` and per stage ``macs_<stage>``
with ``output_<stage>``, ``prediction_<stage>`` or ``text_<stage>``; the rest is derived, but what the costs are must be
said. Free text needs ``references`` instead of ``label``; or, without texts, the sums ``stat_<name>_<stage>`` of a
metric.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dial.costs.functions import ModelCosts
from dial.files import atomic_write, plain, readable
from dial.parquet_checks import KEY, check_about
from dial.stages.columns import TIER_COLUMNS, Columns, declared_ranges
from dial.stages.foreign import foreign_table
from dial.stages.stage import Stage
from dial.stages.table import SCHEMA, SLIM, WHOLE, StageTable
from dial.stages.task import Classification, Task, task_of

ROW_GROUP = 2**20


def save_table(table: StageTable, path: str | Path) -> None:
    """Write a table; a file that is there is replaced in one step, or stays if writing fails.

    Raises:
        ValueError: two columns would have one name (score ``a`` of stage ``b_c`` and score ``a_b`` of stage ``c``).
    """
    about = {"schema": _schema(table, WHOLE)}
    groups = (table.take(slice(begin, begin + ROW_GROUP)) for begin in range(0, max(len(table), 1), ROW_GROUP))
    first = _arrow(next(groups), frozenset(), about)
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, first.schema) as writer:
        writer.write_table(first)
        for group in groups:  # one is copied at a time
            writer.write_table(_arrow(group, frozenset(), about))


def save_slim(table: StageTable, path: str | Path, costs: ModelCosts | None) -> None:
    """Write a table without what :func:`load_table` computes exactly as it is from the rest.

    Args:
        table: the whole table.
        path: the file.
        costs: cost functions, which go into the file; None leaves the costs of the rows in it.

    Raises:
        ValueError: as for :func:`save_table`.
    """
    about = {"schema": _schema(table, SLIM)} | ({} if costs is None else {"costs": costs.to_json()})
    arrow = _arrow(table, redundant(table, costs), about)
    floats = [field.name for field in arrow.schema if pa.types.is_floating(field.type)]
    logits = [field.name for field in arrow.schema if pa.types.is_fixed_size_list(field.type)]
    texts = [field.name for field in arrow.schema if pa.types.is_list(field.type)]
    repeated = [name for name in arrow.column_names if name not in (*floats, *logits, *texts, "sample_id")]
    with atomic_write(path) as temporary:
        pq.write_table(
            arrow,
            temporary,
            compression="zstd",
            compression_level=19,
            use_dictionary=repeated,
            use_byte_stream_split=[*floats, *(f"{name}.list.element" for name in logits)],
        )


def _schema(table: StageTable, least: int) -> int:
    """Version of the file: readers that do not know texts must not read one that holds them."""
    return least if table.texts is None and table.references is None and not table.task.written else SCHEMA


def _arrow(table: StageTable, omitted: Collection[str], more: dict[str, Any]) -> pa.Table:
    """Columns and metadata of a table, without the columns of what is omitted."""
    columns = dict(named := list(_columns(table, omitted)))
    if len(columns) < len(named):
        names = [name for name, _ in named]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"`stages` must have names whose columns differ from all others, but {twice!r} would be two of them; "
            "rename the stage or the score."
        )
    about = {
        **more,
        "stages": [{"name": stage.name, "tier": stage.tier, "index": stage.index} for stage in table.stages],
        "scores": list(table.scores),
        "statistics": list(table.statistics),
        "metrics": list(table.metrics),
        "label_names": list(table.label_names),
        "settings": plain(table.settings),
    }
    return pa.table(columns).replace_schema_metadata({KEY: json.dumps(about, ensure_ascii=False).encode()})


def _columns(table: StageTable, omitted: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Names and values of the columns, in the order of the file."""
    yield "split", pa.array(table.split).dictionary_encode()
    yield "sample_id", table.sample_id
    if table.group is not None:
        yield "group", table.group
    yield "label", table.label
    if table.references is not None:
        yield "references", pa.array([list(row) for row in table.references], pa.list_(pa.string()))
    for kind, field in TIER_COLUMNS.items():
        yield from ((f"{kind}_{tier}", values) for tier, values in getattr(table, field).items())
    scores = {name: values for name, values in table.scores.items() if name not in omitted}
    for index, stage in enumerate(table.stage_names):
        if table.outputs is not None:
            flat = pa.array(np.ascontiguousarray(table.outputs[:, index]).reshape(-1))
            yield f"output_{stage}", pa.FixedSizeListArray.from_arrays(flat, table.outputs.shape[-1])
        if table.texts is not None:
            yield f"text_{stage}", pa.array(table.texts[:, index].tolist(), pa.string())
        if "prediction" not in omitted:
            yield f"prediction_{stage}", table.predictions[:, index]
        yield from ((f"{name}_{stage}", values[:, index]) for name, values in scores.items())
        yield from ((f"stat_{name}_{stage}", values[:, index]) for name, values in table.statistics.items())
        if "macs" not in omitted:
            yield f"decide_macs_{stage}", table.decide_macs[:, index]
            yield f"macs_{stage}", table.macs[:, index]
    if "macs" not in omitted:
        yield "macs_reference", table.macs_reference


def load_table(
    path: str | Path,
    metrics: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    seed: int = 0,
    costs: str | None = None,
    stages: str | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> StageTable:
    """Read a table.

    In a foreign table every stage is a tier of its own, and they are ordered by mean cost. Scores that it lacks are
    computed from the logits, predictions are the argmax (or the output itself, where there is only one), and
    ``decide_macs_<stage>`` is ``macs_<stage>``. Any other column ``<name>_<stage>`` of real numbers counts as a score,
    too. How columns were read is in ``settings["remarks"]``.

    Args:
        path: the parquet file.
        metrics: for a foreign table: names, the primary first (default: accuracy, or Pearson's correlation).
        label_names: for a foreign table: names of the classes (default: their numbers); empty for regression.
        seed: for a foreign table: of the score ``random``.
        costs: for a foreign table of several stages: ``own`` or ``cumulative``.
        stages: for a foreign table with cumulative costs and no ``macs_reference``: ``tiers`` or ``exits`` (see
            :func:`dial.stages.foreign.read_costs`).
        ranges: of its statistics, lowest and highest; 0 to 1 where none is given.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no parquet file, was written by a newer version, or lacks a column; if it is not said, or
            said of a table that says it itself, what its costs are; and as for
            :class:`dial.stages.table.StageTable`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`table` must be a parquet file, but there is no file {str(path)!r}. Check the path.")
    columns = Columns(str(path))
    about = (columns.schema.metadata or {}).get(KEY)
    if about is None:
        return foreign_table(columns, metrics, label_names, seed, costs, stages, ranges)
    if costs or stages:
        raise ValueError(
            f"`{'costs' if costs else 'stages'}` is for tables of others, but {str(path)!r} is one of DIAL, which says "
            "what it holds. Leave it out."
        )
    with readable(path, "table"):
        return _own(columns, json.loads(about), ranges)


def load_costs(path: str | Path) -> ModelCosts | None:
    """Cost functions that a table itself holds; None where it holds costs of rows only."""
    about = (pq.read_schema(path).metadata or {}).get(KEY)
    with readable(path, "table"):
        costs = None if about is None else json.loads(about).get("costs")
        return None if costs is None else ModelCosts.from_json(costs)


def _own(
    columns: Columns, about: dict[str, Any], ranges: Mapping[str, tuple[float, float]] | None = None
) -> StageTable:
    """Return the table of a file of DIAL, with what its metadata says; what it leaves out is computed."""
    check_about(about)
    if about["schema"] > SCHEMA:
        raise ValueError(
            f"`table` must have a schema up to {SCHEMA}, but {columns.path!r} has {about['schema']}. Update DIAL."
        )
    stages = tuple(Stage(**stage) for stage in about["stages"])
    names, tiers = [stage.name for stage in stages], list(dict.fromkeys(stage.tier for stage in stages))
    outputs = columns.per_stage("output_{}", names) if f"output_{names[0]}" in columns.names else None
    by_tier: dict[str, Any] = {field: columns.by_tier(kind, tiers) for kind, field in TIER_COLUMNS.items()}
    table = StageTable(
        **columns.common(),
        **_costs(columns, about, stages, by_tier),
        stages=stages,
        outputs=outputs,
        predictions=_predictions(columns, names, outputs, task_of(about["label_names"])),
        scores={name: columns.per_stage(name + "_{}", names) for name in _given(columns, about["scores"], names[0])},
        statistics={name: columns.per_stage(f"stat_{name}_{{}}", names) for name in about["statistics"]},
        **by_tier,
        texts=columns.per_stage("text_{}", names) if f"text_{names[0]}" in columns.names else None,
        metrics=tuple(about["metrics"]),
        label_names=tuple(about["label_names"]),
        settings=about["settings"] | declared_ranges({**about["settings"].get("ranges", {}), **(ranges or {})}),
    )
    if len(table.scores) == len(about["scores"]):
        return table
    computed = table.with_scores([name for name in about["scores"] if name not in table.scores]).scores
    return dataclasses.replace(table, scores={name: computed[name] for name in about["scores"]})


def _given(columns: Columns, scores: Sequence[str], first: str) -> list[str]:
    """Scores that have columns, or that nothing else could give."""
    return [name for name in scores if f"{name}_{first}" in columns.names or name not in Classification.scores]


def _predictions(columns: Columns, names: Sequence[str], outputs: np.ndarray | None, task: Task) -> np.ndarray:
    """Predictions ``(N, S)``: the columns, or what follows from the outputs."""
    if outputs is None or f"prediction_{names[0]}" in columns.names:
        return columns.per_stage("prediction_{}", names)
    return task.predict(outputs)


def _costs(
    columns: Columns, about: dict[str, Any], stages: tuple[Stage, ...], by_tier: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Costs of the rows: the columns, or what the cost functions in the metadata give."""
    if "costs" in about and "macs_reference" not in columns.names:
        lengths, padded, written = (by_tier[field] for field in ("lengths", "padded", "written"))
        return _derived(ModelCosts.from_json(about["costs"]), stages, lengths, padded, about["settings"], written)
    names = [stage.name for stage in stages]
    return {
        **{name: columns.per_stage(name + "_{}", names) for name in ("decide_macs", "macs")},
        "macs_reference": columns("macs_reference"),
    }


def _derived(
    costs: ModelCosts,
    stages: tuple[Stage, ...],
    lengths: Mapping[str, np.ndarray],
    padded: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    written: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Costs at the length convention and for the reference that a table's settings name."""
    convention, reference = settings.get("length", "true"), settings.get("reference")
    return costs.columns(stages, lengths, padded, convention, reference, written)


def redundant(table: StageTable, costs: ModelCosts | None) -> set[str]:
    """Names of scores, ``prediction`` and ``macs``: what comes back exactly as it is from the rest of the table.

    A table without them is a tenth as large, and a change of statistics needs no model to run again.

    Args:
        table: the whole table.
        costs: cost functions; without them costs stay.
    """
    found: set[str] = set()
    outputs = table.outputs
    if outputs is not None and np.array_equal(table.task.predict(outputs), table.predictions):
        found.add("prediction")
    names = [n for n in table.task.scores if n in table.scores and (outputs is not None or n == "random")]
    computed = table.with_scores(names)
    found |= {name for name in names if np.array_equal(computed.scores[name], table.scores[name])}
    if costs is None:
        return found
    try:
        derived = _derived(costs, table.stages, table.lengths, table.padded, table.settings, table.written)
    except (KeyError, ValueError):  # a tier without lengths: the columns stay
        return found
    same = all(np.array_equal(values, getattr(table, name)) for name, values in derived.items())
    return found | ({"macs"} if same else set())
