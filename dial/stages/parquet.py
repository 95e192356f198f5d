"""The file of a stage table: parquet, a public format.

Columns: ``split``, ``sample_id``, optional ``group``, ``label``; per tier ``length_<tier>`` and ``padded_<tier>``; per
stage ``output_<stage>`` (list of ``C`` raw logits, fp32), ``prediction_<stage>``, ``<score>_<stage>``,
``stat_<name>_<stage>``, ``decide_macs_<stage>``, ``macs_<stage>``; and ``macs_reference``. What is no column (schema
version, stages with their tiers, metrics, label names, settings) is JSON in the metadata under the key ``dial``. A
*slim* table has its cost functions there, and lacks the scores, predictions and costs that follow from the rest.

A *foreign* table, written by anything else, needs ``split``, ``sample_id``, ``label`` and per stage ``macs_<stage>``
with ``output_<stage>`` or ``prediction_<stage>``; the rest is derived, but what the costs are must be said.
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

from datamodules.labels import Classes, number_names
from dial.costs.functions import ModelCosts
from dial.files import atomic_write, plain, readable
from dial.parquet_checks import KEY, check_about, whole_parquet
from dial.stages.foreign import read_costs
from dial.stages.labels import as_numbers
from dial.stages.scores import ROUTING_SCORES
from dial.stages.slim import costs_of, predictions_of, redundant
from dial.stages.stage import Stage
from dial.stages.table import SCHEMA, WHOLE, StageTable

COMPUTED = ROUTING_SCORES["classification"]
NOT_SCORES = ("output", "prediction", "macs", "decide_macs", "length", "padded")


def save_table(table: StageTable, path: str | Path) -> None:
    """Write a table; a file that is there is replaced in one step, or stays if writing fails.

    Raises:
        ValueError: two columns would have one name (score ``a`` of stage ``b_c`` and score ``a_b`` of stage ``c``).
    """
    arrow = _arrow(table, frozenset(), {"schema": WHOLE})
    with atomic_write(path) as temporary:
        pq.write_table(arrow, temporary)


def save_slim(table: StageTable, path: str | Path, costs: ModelCosts | None) -> None:
    """Write a table without what :func:`load_table` computes exactly as it is from the rest.

    Args:
        table: the whole table.
        path: the file.
        costs: cost functions, which go into the file; None leaves the costs of the rows in it.

    Raises:
        ValueError: as for :func:`save_table`.
    """
    about = {"schema": SCHEMA} | ({} if costs is None else {"costs": costs.to_json()})
    arrow = _arrow(table, redundant(table, costs), about)
    floats = [field.name for field in arrow.schema if pa.types.is_floating(field.type)]
    logits = [field.name for field in arrow.schema if pa.types.is_fixed_size_list(field.type)]
    repeated = [name for name in arrow.column_names if name not in (*floats, *logits, "sample_id")]
    with atomic_write(path) as temporary:
        pq.write_table(
            arrow,
            temporary,
            compression="zstd",
            compression_level=19,
            use_dictionary=repeated,
            use_byte_stream_split=[*floats, *(f"{name}.list.element" for name in logits)],
        )


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
    for kind, by_tier in (("length", table.lengths), ("padded", table.padded)):
        yield from ((f"{kind}_{tier}", values) for tier, values in by_tier.items())
    scores = {name: values for name, values in table.scores.items() if name not in omitted}
    for index, stage in enumerate(table.stage_names):
        if table.outputs is not None:
            flat = pa.array(np.ascontiguousarray(table.outputs[:, index]).reshape(-1))
            yield f"output_{stage}", pa.FixedSizeListArray.from_arrays(flat, table.outputs.shape[-1])
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
    with whole_parquet(path, "table"):
        arrow = pq.ParquetFile(path).read()  # the file alone, whatever its folders are called
    about = (arrow.schema.metadata or {}).get(KEY)
    if about is None:
        return _Columns(arrow, str(path)).foreign(metrics, label_names, seed, costs, stages, ranges)
    if costs or stages:
        raise ValueError(
            f"`{'costs' if costs else 'stages'}` is for tables of others, but {str(path)!r} is one of DIAL, which says "
            "what it holds. Leave it out."
        )
    with readable(path, "table"):
        return _Columns(arrow, str(path)).own(json.loads(about), ranges)


def load_costs(path: str | Path) -> ModelCosts | None:
    """Cost functions that a table itself holds; None where it holds costs of rows only."""
    about = (pq.read_schema(path).metadata or {}).get(KEY)
    with readable(path, "table"):
        costs = None if about is None else json.loads(about).get("costs")
        return None if costs is None else ModelCosts.from_json(costs)


class _Columns:
    """Columns of a file by name, with errors that name what is missing."""

    def __init__(self, arrow: pa.Table, path: str) -> None:
        self.arrow, self.path, self.names = arrow, path, arrow.column_names

    def __call__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise ValueError(
                f"`table` must have a column {name!r}, but {self.path!r} has {', '.join(self.names)}. Add the column."
            )
        column = self.arrow.column(name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # no rows
            column = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)
        if column.null_count:
            raise ValueError(
                f"`table` must have no missing values, but column {name!r} of {self.path!r} has {column.null_count}. "
                "Fill in or drop these rows."
            )
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if _is_list(column.type):
            return self._lists(name, column)
        return column.to_numpy(zero_copy_only=False)

    def _lists(self, name: str, column: Any) -> np.ndarray:
        flat = column.flatten()
        sizes = [column.type.list_size] if pa.types.is_fixed_size_list(column.type) else _sizes(column)
        if len(sizes) > 1:
            raise ValueError(
                f"`table` must have as many logits in every row, but column {name!r} of {self.path!r} has rows of "
                f"{sizes}. Give one per class."
            )
        # Some writers store NaN as missing; it comes back as NaN, and the table names its tier and example.
        return flat.to_numpy(zero_copy_only=False).reshape(len(column), sizes[0] if sizes else 0)

    def per_stage(self, pattern: str, stages: Sequence[str]) -> np.ndarray:
        """Return ``(N, S)``, or ``(N, S, C)`` for lists."""
        columns = [self(pattern.format(stage)) for stage in stages]
        widths = {column.shape[1:] for column in columns}
        if len(widths) > 1:
            raise ValueError(
                f"`table` must have as many logits at every stage, but {pattern.format('<stage>')!r} of {self.path!r} "
                f"has {sorted(width[0] if width else 1 for width in widths)}. Check the number of labels of every tier."
            )
        return np.stack(columns, axis=1)

    def by_tier(self, kind: str, tiers: Sequence[str]) -> dict[str, np.ndarray]:
        """Return ``(N,)`` for each tier that has a column ``<kind>_<tier>``."""
        return {tier: self(f"{kind}_{tier}") for tier in tiers if f"{kind}_{tier}" in self.names}

    def own(self, about: dict[str, Any], ranges: Mapping[str, tuple[float, float]] | None = None) -> StageTable:
        """Return the table of a file of DIAL, with what its metadata says; what it leaves out is computed."""
        check_about(about)
        if about["schema"] > SCHEMA:
            raise ValueError(
                f"`table` must have a schema up to {SCHEMA}, but {self.path!r} has {about['schema']}. Update DIAL."
            )
        stages = tuple(Stage(**stage) for stage in about["stages"])
        names, tiers = [stage.name for stage in stages], list(dict.fromkeys(stage.tier for stage in stages))
        outputs = self.per_stage("output_{}", names) if f"output_{names[0]}" in self.names else None
        lengths, padded = self.by_tier("length", tiers), self.by_tier("padded", tiers)
        table = StageTable(
            **self._common(),
            **self._costs(about, stages, lengths, padded),
            stages=stages,
            outputs=outputs,
            predictions=self._predictions(names, outputs, regression=not about["label_names"]),
            scores={name: self.per_stage(name + "_{}", names) for name in self._given(about["scores"], names[0])},
            statistics={name: self.per_stage(f"stat_{name}_{{}}", names) for name in about["statistics"]},
            lengths=lengths,
            padded=padded,
            metrics=tuple(about["metrics"]),
            label_names=tuple(about["label_names"]),
            settings=about["settings"] | _ranges({**about["settings"].get("ranges", {}), **(ranges or {})}),
        )
        if len(table.scores) == len(about["scores"]):
            return table
        computed = table.with_scores([name for name in about["scores"] if name not in table.scores]).scores
        return dataclasses.replace(table, scores={name: computed[name] for name in about["scores"]})

    def _predictions(self, names: Sequence[str], outputs: np.ndarray | None, regression: bool) -> np.ndarray:
        """Predictions ``(N, S)``: the columns, or what follows from the outputs."""
        if outputs is None or f"prediction_{names[0]}" in self.names:
            return self.per_stage("prediction_{}", names)
        return predictions_of(outputs, regression)

    def _given(self, scores: Sequence[str], first: str) -> list[str]:
        """Scores that have columns, or that nothing else could give."""
        return [name for name in scores if f"{name}_{first}" in self.names or name not in COMPUTED]

    def _costs(
        self, about: dict[str, Any], stages: tuple[Stage, ...], lengths: dict[str, Any], padded: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """Costs of the rows: the columns, or what the cost functions in the metadata give."""
        if "costs" in about and "macs_reference" not in self.names:
            return costs_of(ModelCosts.from_json(about["costs"]), stages, lengths, padded, about["settings"])
        columns = {name: self.per_stage(name + "_{}", [s.name for s in stages]) for name in ("decide_macs", "macs")}
        return {**columns, "macs_reference": self("macs_reference")}

    def foreign(
        self,
        metrics: Sequence[str] | None,
        label_names: Sequence[str] | None,
        seed: int,
        costs: str | None,
        stages: str | None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> StageTable:
        """Return the table of a file written by anything else; what it lacks is derived (see :func:`load_table`)."""
        costly = read_costs(self, self.names, self._foreign_stages(), costs, stages)
        names = costly.names
        common = self._common()
        common["label"] = as_numbers(common["label"], label_names, "label", self.path)
        outputs = self.per_stage("output_{}", names) if f"output_{names[0]}" in self.names else None
        if outputs is not None and outputs.ndim == 2:
            outputs = outputs[:, :, None]
        has_predictions = outputs is None or all(f"prediction_{name}" in self.names for name in names)
        columns = [f"prediction_{name}" for name in names] if has_predictions else []
        answers = [as_numbers(self(column), label_names, column, self.path) for column in columns]
        predictions = np.stack(answers, axis=1) if answers else None
        if label_names is None:
            label_names = _classes(common["label"], outputs, predictions, self.path)
            if outputs is None and predictions is not None and label_names:
                common["label"] = _ranks(common["label"], label_names)
                predictions = _ranks(predictions, label_names)
        if predictions is None:
            assert outputs is not None
            predictions = predictions_of(outputs, regression=not label_names)
        if outputs is not None and label_names and outputs.shape[-1] not in (1, len(label_names)):
            raise ValueError(
                f"`label_names` must name the {outputs.shape[-1]} classes of the logits in {self.path!r}, but got "
                f"{len(label_names)}: {', '.join(label_names)}."
            )
        statistics = self._named("stat_", names)
        table = StageTable(
            **common,
            stages=tuple(Stage(name, name) for name in names),
            outputs=outputs,
            predictions=predictions,
            scores=self._named("", names),
            statistics=statistics,
            decide_macs=costly.decide,
            macs=costly.macs,
            macs_reference=costly.reference,
            lengths=self.by_tier("length", names),
            padded=self.by_tier("padded", names),
            metrics=tuple(metrics or (("accuracy",) if label_names else ("pearson",))),
            label_names=tuple(label_names),
            settings={"seed": seed, "foreign": True, "remarks": costly.remarks} | _ranges(ranges),
        )
        possible = ROUTING_SCORES["regression" if table.regression else "classification"]
        wanted = [name for name in possible if name not in table.scores and (outputs is not None or name == "random")]
        return table.with_scores(wanted, seed)

    def _common(self) -> dict[str, Any]:
        group = self("group") if "group" in self.names else None
        return {"split": self("split"), "sample_id": self("sample_id"), "label": self("label"), "group": group}

    def _foreign_stages(self) -> list[str]:
        """Return stage names from the column names, in order of appearance."""
        outputs, predictions, costs = (
            [name.removeprefix(prefix) for name in self.names if name.startswith(prefix)]
            for prefix in ("output_", "prediction_", "macs_")
        )
        stages = outputs or predictions
        if not stages:
            raise ValueError(
                f"`table` must have a column 'output_<stage>' or 'prediction_<stage>' for every stage, "
                f"but {self.path!r} has {', '.join(self.names)}. Add one of them per stage."
            )
        kind = "output" if outputs else "prediction"
        for name in dict.fromkeys([*predictions, *costs]):
            if name not in stages and name != "reference":  # left out, it would be missing from every figure
                raise ValueError(
                    f"`table` must have a column '{kind}_{name}', as it has others of the stage {name!r}, "
                    f"but {self.path!r} has {', '.join(self.names)}. Add the column, or drop the stage's others."
                )
        return stages

    def _named(self, prefix: str, stages: Sequence[str]) -> dict[str, np.ndarray]:
        """Return ``(N, S)`` by name for the columns ``<prefix><name>_<stage>`` that a foreign table has.

        The last stage decides nothing: where it alone has no column its entries are NaN.
        """
        found: dict[str, dict[str, np.ndarray]] = {}
        for column in self.names:
            stage = max((name for name in stages if column.endswith(f"_{name}")), key=len, default=None)
            if stage is None or not column.startswith(prefix):
                continue
            name = column[len(prefix) : -len(stage) - 1]
            reserved = name in NOT_SCORES or name.startswith("stat_") or not name
            if not reserved and pa.types.is_floating(self.arrow.schema.field(column).type):
                found.setdefault(name, {})[stage] = self(column)
        result = {}
        for name, columns in found.items():
            missing = [stage for stage in stages if stage not in columns]
            if missing == [stages[-1]] and not prefix:
                columns[stages[-1]] = np.full(self.arrow.num_rows, np.nan)
            elif missing and not prefix and name in ROUTING_SCORES["classification"]:
                continue  # computed anew for all stages
            elif missing:
                self(f"{prefix}{name}_{missing[0]}")  # raises, naming the column
            result[name] = np.stack([columns[stage] for stage in stages], axis=1)
        return result


def _ranges(ranges: Mapping[str, Sequence[float]] | None) -> dict[str, Any]:
    """Ranges of statistics as a table's settings hold them; nothing where none is declared."""
    return {"ranges": {name: [float(low), float(high)] for name, (low, high) in ranges.items()}} if ranges else {}


def _is_list(kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _sizes(column: Any) -> list[int]:
    return sorted(column.value_lengths().unique().to_pylist())


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
