"""The report of a sweep: made once from a table, then shown as text and figures and written to a folder."""

import dataclasses
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dial.claims import SWEEP_FILES
from dial.files import atomic_write, plain, write_json
from dial.report.analysis import Analysis, Choices
from dial.report.configuration import check_folder, configuration
from dial.report.errors import StageErrors, errors_of_splits, write_errors
from dial.report.exits import compression
from dial.report.results import SweepResults, from_json
from dial.report.settings import SweepSettings
from dial.report.text import render
from dial.stages.parquet import save_table
from dial.stages.table import StageTable
from dial.tradeoff.curve import Curve, concat, to_frame
from dial.tradeoff.density import Densities
from dial.tradeoff.rules import check_settings
from dial.tradeoff.thinning import thin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dial.costs.functions import ModelCosts

__all__ = ["Prepared", "Report", "SweepSettings", "build_report", "check_folder", "configuration", "prepare"]

SCHEMA = 1
MIN_ROWS = 20
ROLES_NOT_REPORTED = ("train", "validation", "calibration")
CSV_POINTS, CSV_TOLERANCE = 2000, 1e-4
FILES = SWEEP_FILES


@dataclass
class Report:
    """Results of a sweep with what they were made from.

    Attributes:
        table: all rows, with every score.
        settings: as given.
        summary: what ``summary.json`` holds, as plain values.
        curves: exact, one for each split, score and rule; reported splits only.
        densities: per score and stage on the calibration rows (crossfit: on the reported rows).
        costs: cost functions, where they are known.
    """

    table: StageTable
    settings: SweepSettings
    summary: dict[str, Any]
    curves: list[Curve] = field(default_factory=list)
    densities: dict[str, list[Densities]] = field(default_factory=dict)
    costs: "ModelCosts | None" = None

    @cached_property
    def results(self) -> SweepResults:
        """What was found, as values."""
        results: SweepResults = from_json(SweepResults, self.summary)
        return results

    @property
    def partial(self) -> bool:
        """Whether rows were left out on purpose (a trial run), so that no number means anything."""
        return self.results.partial

    @cached_property
    def errors(self) -> list[StageErrors]:
        """Rows that the last stage corrects and breaks, for every reported split and score."""
        scores = [name for name in self.results.settings.scores if name in self.table.scores]
        return errors_of_splits(self.table, list(self.results.splits), scores)

    def text(self) -> str:
        """The results as readable tables."""
        return render(self.results)

    def figures(self) -> "dict[str, Figure]":
        """All figures by file name."""
        from dial.report.figures import plots

        return plots.figures(self.results, self.curves, self.densities, self.errors)

    def write(self, folder: str | Path) -> Path:
        """Write all files, each whole or not at all; ``summary.json``, which readers look for, comes last.

        Raises:
            ValueError: the folder holds results of another configuration, or whole results where these are partial.
        """
        from dial.report.figures.style import save  # matplotlib: only where something is drawn

        folder = Path(folder)
        check_folder(folder, self.results.configuration, self.partial)
        save_table(self.table, folder / "stages.parquet")
        if self.curves:
            self._write_curves(folder)
        if self.costs is not None:
            self.costs.save(folder / "costs.json")
        else:
            note = "cost functions unknown; see macs_<stage> in stages.parquet"
            write_json(folder / "costs.json", {"schema": SCHEMA, "note": note})
        if self.errors:
            write_errors(folder / "errors.csv", self.errors, self.partial)
        for name, figure in self.figures().items():
            save(figure, folder / name)
        write_json(folder / "summary.json", self.summary)
        return folder

    def _write_curves(self, folder: Path) -> None:
        """All curves as parquet at every decision, and as CSV thinned to what a chart needs."""
        import pyarrow.csv
        import pyarrow.parquet

        mark = {b"dial": json.dumps({"schema": SCHEMA, "partial": self.partial}).encode()}
        small = concat([thin(curve, CSV_POINTS, CSV_TOLERANCE) for curve in self.curves])
        schema = small.schema.with_metadata(mark)
        with (
            atomic_write(folder / "curve.parquet") as temporary,
            pyarrow.parquet.ParquetWriter(temporary, schema) as writer,
        ):
            for curve in self.curves:  # one at a time, as each may have a point for each row
                writer.write_table(to_frame(curve).cast(schema))
        if self.partial:
            small = small.append_column("partial", pyarrow.array([True] * len(small)))
        with atomic_write(folder / "curve.csv") as temporary:
            pyarrow.csv.write_csv(small, temporary)


@dataclass(frozen=True)
class Prepared:
    """A table made ready: each row once, with all scores.

    Attributes:
        table: the table.
        settings: what to choose.
        scores: names of the scores to analyse, random last unless it was asked for.
        reported: splits to report on.
        partial: a trial run.
        configuration: fingerprint of what the results depend on.
    """

    table: StageTable
    settings: SweepSettings
    scores: tuple[str, ...]
    reported: tuple[str, ...]
    partial: bool
    configuration: str

    def report(self, costs: "ModelCosts | None" = None) -> Report:
        """Choose operating points on calibration rows and state what they do on the others.

        Args:
            costs: cost functions, for figures at other length conventions.

        Raises:
            ValueError: too few rows or one class only to choose on, or a metric without sums in first place. Sizes and
                classes are not checked where the table is ``partial``.
        """
        table, settings = self.table, self.settings
        summary: dict[str, Any] = {
            "schema": SCHEMA,
            "partial": self.partial,
            "configuration": self.configuration,
            "task": table.settings.get("task"),
            "metrics": list(table.metrics),
            "label_names": list(table.label_names),
            "settings": asdict(settings) | {"scores": list(self.scores)},
            "table": table.settings,
            "stages": [_describe(table, index) for index in range(len(table.stages))],
            "compression": compression(table),
            "calibration": _calibration(self),
            "splits": {},
        }
        report = Report(table, settings, summary, costs=costs)
        held_out = table.of_split("calibration") if summary["calibration"]["method"] == "split" else None
        for split in self.reported:
            rows = table.of_split(split)
            analysis = Analysis(rows, Choices(self.scores, settings, held_out, rows, self.partial), settings, costs)
            summary["splits"][split] = analysis.summary()
            report.curves += analysis.curves()
            report.densities = report.densities or analysis.choices.densities()
        report.summary = plain(summary)
        return report


def prepare(table: StageTable, settings: SweepSettings) -> Prepared:
    """Drop repeated rows, add missing scores, find the splits to report on.

    Raises:
        ValueError: no split to report on, no scores, or a score that cannot be computed.
    """
    table = table.without_repeats()
    wanted = settings.scores or tuple(table.scores) or routing_scores(table)
    missing = [name for name in (*wanted, "random") if name not in table.scores]
    table = table.with_scores(missing, seed=settings.seed) if missing else table
    check_settings(settings, len(table.stages), not table.task.exact)
    if settings.tolerance is not None:
        table = dataclasses.replace(table, settings={**table.settings, "tolerance": settings.tolerance})
    reported = tuple(split for split in table.splits if split not in ROLES_NOT_REPORTED)
    if not reported:
        raise ValueError(
            f"`split` must name rows to report on beside {', '.join(table.splits)}, but none do; add a test split."
        )
    names = tuple(dict.fromkeys((*wanted, "random")))
    if names[0] == "random" and len(names) > 1 and "random" not in settings.scores:
        names = (*names[1:], "random")
    partial = bool(table.settings.get("partial", False))
    return Prepared(table, settings, names, reported, partial, configuration(table, settings))


def routing_scores(table: StageTable) -> tuple[str, ...]:
    """All scores that this kind of task admits and this table has the outputs for."""
    if table.outputs is None:
        return ("random",)
    return table.task.scores


def build_report(table: StageTable, settings: SweepSettings, costs: "ModelCosts | None" = None) -> Report:
    """The report of a table; see :func:`prepare` and :meth:`Prepared.report`."""
    return prepare(table, settings).report(costs)


def _describe(table: StageTable, index: int) -> dict[str, Any]:
    """What the report says of a stage beside its numbers."""
    stage = table.stages[index]
    known = table.settings.get("tiers", {}).get(stage.tier, {})
    return {
        "name": stage.name,
        "tier": stage.tier,
        "index": stage.index,
        "parameters": known.get("parameters"),
        "path": known.get("path"),
    }


def _calibration(prepared: Prepared) -> dict[str, Any]:
    """How operating points are chosen, after checking that they can be."""
    table, settings = prepared.table, prepared.settings
    if len(table.stages) == 1:
        return {"method": "none", "rows": 0}
    if settings.calibration == "split" and "calibration" not in table.splits:
        raise ValueError(
            "`calibration` must be 'crossfit' where the table has no split of that name, "
            f"but got 'split' with {', '.join(table.splits)}."
        )
    used = ("calibration",) if settings.calibration == "split" else prepared.reported
    rows = {split: table.of_split(split).label for split in used}
    for split, label in rows.items() if not prepared.partial else ():
        if len(label) < MIN_ROWS:
            raise ValueError(
                f"`{split}` must have at least {MIN_ROWS} rows to choose thresholds on, "
                f"but got {len(label)}; use more data."
            )
        if len(np.unique(label)) == 1:
            raise ValueError(
                f"`{split}` must have rows of more than one class to choose thresholds on, "
                f"but all {len(label)} are {label[0]}; use other rows."
            )
    counts = {split: len(label) for split, label in rows.items()}
    if settings.calibration == "split":
        return {"method": "split", "rows": counts["calibration"]}
    return {"method": "crossfit", "rows": counts, "folds": settings.folds}
