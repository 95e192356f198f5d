"""Numbers that papers print, one a row of ``dial/costs/papers/*.csv``, with table and way of counting."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from dial.costs.published import BERT_BASE, CONVENTIONS, Published, flops_of

COLUMNS = ("paper", "table", "row", "task", "metric", "value", "cost", "convention", "length", "hidden")
UNITS = {
    "as_printed": "FLOPs as printed",
    "speedup": "times fewer FLOPs",
    "speedup_time": "times as fast",
    "milliseconds": "ms",
    "rows_per_second": "rows/s",
}
"""Costs that are no count which can be converted to FLOPs: FLOPs of an unknown way of counting, ratios, and times."""
REDUCTION = "reduction"
"""BERT-base's FLOPs at 128 tokens over those of the row, as COST-EFF prints them: the mean over its tasks."""
BERT_BASE_FLOPS = 22.348e9
QUALITIES = ("accuracy", "f1", "mcc", "pearson", "spearman", "em", "bleu")


@dataclass(frozen=True)
class Printed:
    """One printed number.

    Attributes:
        paper: E-LANG, TangoBERT or COST-EFF.
        table: its number in the paper.
        row: name of the row, as the paper calls the model or method.
        task: of :class:`datamodules.GLUEDataModule` and its like, ``mnli_matched`` and ``mnli_mismatched`` for MNLI;
            ``mean`` for an average over tasks.
        metric: what the number is: a metric of DIAL, or what the table says of the row beside (``swift_ratio``).
        value: as printed, qualities in %; None where the table has a cost alone.
        cost: as printed, in units of ``convention``; None where the table has none.
        convention: one of :data:`dial.costs.published.CONVENTIONS`, :data:`REDUCTION` or :data:`UNITS`.
        length: tokens per row, where the convention needs it.
        hidden: width of the model, where the convention needs it.
    """

    paper: str
    table: str
    row: str
    task: str
    metric: str
    value: float | None
    cost: float | None
    convention: str
    length: float = BERT_BASE["length"]
    hidden: float = BERT_BASE["hidden"]

    @property
    def name(self) -> str:
        """What tables and figures call it."""
        return f"{self.paper} {self.table}: {self.row}"

    @property
    def flops(self) -> float | None:
        """FLOPs (2 × MAC) per row; None where what is printed is no count that can be converted."""
        if self.cost is None or self.convention in UNITS:
            return None
        if self.convention == REDUCTION:
            return BERT_BASE_FLOPS / self.cost
        return flops_of(self.cost, self.convention, self.length, self.hidden)

    def point(self) -> Published | None:
        """Quality and FLOPs, where both are printed."""
        if self.flops is None or self.value is None or self.metric not in QUALITIES:
            return None
        return Published(self.name, self.value / 100, self.flops)

    def text(self) -> str:
        """What is printed, in one line.

        >>> Printed("TangoBERT", "2", "TangoBERT", "sst2", "kept", 99.0, 4.3, "speedup_time").text()
        'TangoBERT 2: TangoBERT: kept 99, 4.3 times as fast'
        """
        parts = [] if self.value is None else [f"{self.metric} {self.value:g}"]
        if self.cost is not None:
            unit = UNITS.get(self.convention, f"({self.convention})")
            parts.append(f"{self.cost:g} {unit}")
        return f"{self.name}: {', '.join(parts)}"


@cache
def printed_rows() -> tuple[Printed, ...]:
    """All printed numbers, in the order of their files.

    Raises:
        ValueError: a row that is not as :class:`Printed` says; names file and line.
    """
    folder = files("dial.costs") / "papers"
    found = sorted((file for file in folder.iterdir() if file.name.endswith(".csv")), key=lambda file: file.name)
    return tuple(row for file in found for row in read_printed(Path(str(file))))


def read_printed(path: Path) -> Iterator[Printed]:
    """Rows of a file; see :func:`printed_rows`."""
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"`{path}` must have the columns {', '.join(COLUMNS)}, but has {reader.fieldnames}.")
        for number, fields in enumerate(reader, start=2):
            cost, convention = fields["cost"], fields["convention"]
            known = (*CONVENTIONS, REDUCTION, *UNITS)
            if bool(cost) != bool(convention) or (convention and convention not in known):
                raise ValueError(
                    f"`{path}`, line {number}: a cost needs one of {', '.join(known)} as convention, but got "
                    f"{cost!r} and {convention!r}."
                )
            names = {name: fields[name] for name in COLUMNS[:5]}
            numbers = {name: float(fields[name]) if fields[name] else None for name in ("value", "cost")}
            shape = {name: float(fields[name]) for name in ("length", "hidden") if fields[name]}
            yield Printed(**names, **numbers, convention=convention, **shape)  # type: ignore[arg-type]


def select(wanted: Sequence[str], task: str | None, rows: Sequence[Printed] | None = None) -> list[Printed]:
    """What some papers, or tables of them, print about a task.

    Args:
        wanted: ``PAPER`` or ``PAPER:TABLE`` each, such as ``e-lang:4``.
        task: name of the task; ``mnli`` stands for ``mnli_matched``.
        rows: to choose among; default all.

    Raises:
        ValueError: no such paper, table, or task in them; names what there is.

    Example:
        >>> [row.row for row in select(["cost-eff:5"], "mrpc")]
        ['BERT-base', 'COST-EFF 8x (BERT)']
    """
    rows = printed_rows() if rows is None else rows
    chosen: list[Printed] = []
    for text in wanted:
        paper, _, table = text.casefold().partition(":")
        found = [row for row in rows if row.paper.casefold() == paper and table in ("", row.table)]
        if not found:
            known = sorted({f"{row.paper.casefold()}:{row.table}" for row in rows})
            raise ValueError(f"`published` must be papers or tables among {', '.join(known)}, but got {text!r}.")
        chosen += found
    task = "mnli_matched" if task == "mnli" else task
    tasks = sorted({row.task for row in chosen} - {"mean"})
    if task not in tasks:
        raise ValueError(f"`task` must be one that {' '.join(wanted)} prints ({', '.join(tasks)}), but got {task!r}.")
    return [row for row in chosen if row.task == task]
