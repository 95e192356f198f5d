"""`dial calibrate RUN FILE`: operating points chosen on the user's own rows, without training anything."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dial.cli.models import ModelArguments

if TYPE_CHECKING:
    import numpy as np

    from dial.inference.operating_point import Sweep
    from dial.stages.table import StageTable
    from dial.tiers.tier import Tier

LABEL = "label"
MIN_ROWS = 20
SECONDS = 5.0  # between two lines of progress


@dataclass(kw_only=True)
class CalibrateCommand(ModelArguments):
    """Choose operating points on rows like those that will be answered.

    RUN is a folder that `dial test` left. Its models run over FILE once, nothing is trained, and `dial predict` takes
    its points from these rows from then on. Where FILE has no labels, what is kept is the agreement with the last
    model.

    Attributes:
        run: folder that `dial test` left
        file: labelled rows: .csv, .tsv, .jsonl or .parquet. Questions also as SQuAD's .json
        columns: column of the text, or of both; default: text, of questions question context
        label_column: default: label where there is one (of questions answers, answer or label); without labels,
            agreement with the last model is kept
        replace: other calibration rows give way; they are kept beside it
        targets: shown; others can be had, too
    """

    PROGRAM = "dial calibrate"

    run: Annotated[str, "RUN"] = field(kw_only=False)
    file: Annotated[str, "FILE"] = field(kw_only=False)
    columns: Sequence[str] = ()
    label_column: str | None = None
    replace: bool = False
    targets: Sequence[float] = (1.0, 0.99, 0.98)

    def __call__(self) -> int:
        """Run the command; returns the exit code."""
        if not all(0 < target <= 1.5 for target in self.targets):
            raise ValueError(f"`--targets` must be shares of the Super's quality in (0, 1.5], but got {self.targets}.")
        from dial.claims import fingerprint
        from dial.inference.calibrated import Calibration, check_free
        from dial.inference.operating_point import Sweep
        from dial.inference.rows_table import rows_table
        from dial.inference.run import load_network
        from dial.inference.work import check_batch_sizes
        from dial.stages.metrics.metrics import AGREEMENT

        path = Path(self.file).expanduser()
        sweep = Sweep(self.run)
        if len(sweep.stages) == 1:
            raise ValueError(f"`RUN` must have stages to choose between, but {self.run} has one, {sweep.stages[0]}.")
        units, label, group = self._rows(path, sweep)
        columns = self.columns or ("text",)
        labels = [] if label is None else [self.label_column or LABEL]
        about = {
            "file": str(self.file),
            "content": " ".join([fingerprint(path), *columns, *labels]),
            "rows": len(units),
            "metric": AGREEMENT if label is None else str(sweep.summary["metrics"][0]),
            "tiers": {name: tier["fingerprint"] for name, tier in sweep.settings["tiers"].items()},
        }
        check_free(sweep.home, str(about["content"]), self.replace)
        network = load_network(sweep, self.moved_tiers(), self.torch_device())
        check_readable(network.tiers, units)
        sizes = check_batch_sizes(self.batch_sizes(), list(network.tiers))
        metrics, last = sweep.summary["metrics"], [time.monotonic()]

        def progress(tier: str, rows: int) -> None:
            if time.monotonic() - last[0] > SECONDS:
                last[0] = time.monotonic()
                print(f"{tier}: {rows:,} of {len(units):,} rows", file=sys.stderr)

        about_run = sweep.label_names, metrics, sweep.settings, sizes, sweep.costs
        table = rows_table(network, units, label, *about_run, progress, group=group)
        calibration = Calibration.write(sweep.home, table, about, self.replace)
        print(report(table, sweep.scores, self.targets, float(sweep.summary["settings"]["confidence"])))
        print(f"calibrated on {calibration.line}; `dial predict {self.run}` takes its points from them")
        return 0

    def _rows(self, path: Path, sweep: Sweep) -> tuple[list[Any], np.ndarray | None, np.ndarray | None]:
        """Texts or pairs, their labels or references ``(N,)``, and what they belong to ``(N,)``, where there are any.

        Raises:
            ValueError: see :func:`read_rows`; of questions, an answer that is not in its context, too.
        """
        readers = [view for tier in sweep.settings["tiers"].values() if "no_answer" in (view := tier["view"])]
        if not readers:
            units, label = read_rows(path, self.columns or ("text",), self.label_column, sweep.label_names)
            return units, label, None
        from dial.cli.questions import read_file
        from dial.stages.texts import reference_array

        rows = read_file(path, self.columns, self.label_column, any(view["no_answer"] for view in readers))
        check_count(len(rows), path)
        return list(rows.units()), reference_array(rows.targets), rows.group


def check_count(rows: int, path: Path, least: int = MIN_ROWS) -> None:
    """Refuse too few rows.

    Raises:
        ValueError: there are fewer than ``least``.
    """
    if rows < least:
        raise ValueError(f"`FILE` must have at least {least} rows to choose points on, but {path} has {rows}.")


def check_readable(tiers: Iterable[Tier], units: Sequence[Any], rows: Sequence[int] | np.ndarray | None = None) -> None:
    """Refuse questions that leave no room for their context in the windows of a tier, before any is read.

    Args:
        tiers: that read them.
        units: questions with their contexts, or what others read.
        rows: of the file, where these are only some of it.

    Raises:
        ValueError: naming the row.
    """
    for tier in tiers:
        if tier.window is not None:
            for place, problem in enumerate(tier.tokeniser().problems(units)):
                if problem:
                    raise ValueError(f"`FILE`: row {place if rows is None else rows[place]} {problem}.")


def read_rows(
    path: Path, columns: Sequence[str], label_column: str | None, label_names: Sequence[str], least: int = MIN_ROWS
) -> tuple[list[Any], np.ndarray | None]:
    """Texts or pairs, and their labels ``(N,)``, or None where there are none.

    Args:
        path: the file.
        columns: of the text, or of both.
        label_column: default: ``label`` where there is one.
        label_names: the data's.
        least: rows that points are chosen on.

    Raises:
        ValueError: too few rows, a text or label that is none, or a file that cannot be read.
    """
    from datamodules.labels import class_labels, is_free_text, number_labels
    from datamodules.row_formats import open_rows
    from datamodules.sources import columns_of
    from dial.stages.texts import reference_array

    if len(columns) > 2:
        raise ValueError(f"`--columns` must name one column, or two for pairs, but got {' '.join(columns)}.")
    file = open_rows(path, "FILE")
    name = label_column or (LABEL if LABEL in file.names and LABEL not in columns else None)
    values = columns_of(file, [*columns, *([name] if name else [])], columns)
    texts = [values[column] for column in columns]
    units = list(texts[0]) if len(texts) == 1 else list(zip(*texts, strict=True))
    check_count(len(units), path, least)
    if name is None:
        print(f"{path} has no column {LABEL!r}: what is kept is the agreement with the last model", file=sys.stderr)
        return units, None
    if is_free_text(label_names):
        return units, reference_array(values[name])
    if label_names:
        return units, class_labels(values[name], label_names, name, str(path))
    return units, number_labels(values[name], name, str(path)).astype("float64")


def report(table: StageTable, scores: Sequence[str], targets: Sequence[float], confidence: float) -> str:
    """Points of the first score for each target, as a table."""
    from dial.report.remarks import worthless_stages, written_answers
    from dial.report.tables import percent
    from dial.report.tables import table as aligned
    from dial.stages.metrics.metrics import AGREEMENT
    from dial.tradeoff.calibration import Chooser
    from dial.tradeoff.rules import Threshold

    score = next((name for name in scores if name != "random" and name in table.scores), "random")
    chooser, reference = Chooser(table, Threshold(score)), float(table.macs_reference.mean())
    header = ["target %", "reading", "speed-up", "kept %", *(f"{name} %" for name in table.stage_names)]
    rows, notes = [], [*worthless_stages(table), *written_answers(table)]
    for target in targets:
        for point in (chooser.expected(target), chooser.confident(target, confidence)):
            promise, shares = point.promise, point.rule.taken(table).shares
            cells = [f"{100 * target:g}", promise.kind, f"{reference / promise.macs:.2f}", percent(promise.kept)]
            rows.append([*cells, *(percent(share, 0) for share in shares)])
            notes += [f"{100 * target:g} % {promise.kind}: {promise.note}"] if promise.note else []
    what = "agreement with the last model" if table.metrics[0] == AGREEMENT else table.metrics[0]
    title = f"Operating points of `{score}` by {what} on these {len(table):,} rows (last columns: share of each stage):"
    return "\n".join([title, aligned(header, rows, left=2), *(f"  {note}." for note in notes)])
