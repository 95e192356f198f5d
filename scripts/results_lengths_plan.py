"""The steps of `make results` for dropped tokens: the length-adaptive rival of E-LANG's Table 4 and Fig. 4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dial.cli.steps import Step
from scripts.results_cell import Cell

COLUMNS = {"sst2": ("sentence",), "mrpc": ("sentence1", "sentence2")}
"""Tasks, and the columns of their texts."""
EPOCHS = {"sst2": 1, "mrpc": 5}
"""Of a Super that has been trained on the task; each step trains several configurations at once."""
SHARES = ("0.3", "0.5", "0.75")
"""Of the MACs of all tokens, of the model in front of the Super."""
LENGTH_DROP = "0.5"
"""Of the search's first generation, whose shortest configuration is below every share that is asked for."""


@dataclass(frozen=True)
class LengthsCell(Cell):
    """A task of GLUE whose Super, MiniLM-L6, learns to do without tokens."""

    def steps(self) -> Iterator[Step]:
        """Train the Super with dropped tokens, search for lengths, then test each share in front of the Super."""
        whole = self.tier("super")
        yield self.fit("adaptive", "length_adaptive", ("--model.path", whole), EPOCHS[self.task])
        yield search(self, f"{self.data}/glue/{self.task}/train.parquet", COLUMNS[self.task], 500)
        for share in SHARES:
            yield from self.test(named(share), self.cascade(shorter(self, share), whole))


def shorter(cell: Cell, share: str, more: str = "") -> str:
    """Spec of a task's `adaptive` model within a share of its MACs, with more of the view."""
    return f"{{path: {cell.tier('adaptive')}, lengths: {share}{more}}}"


def search(cell: Cell, file: str, columns: Sequence[str], rows: int) -> Step:
    """Search for length configurations of a task's `adaptive` model.

    Args:
        cell: the task.
        file: training rows.
        columns: of their texts; none for questions.
        rows: drawn from them.
    """
    tier = cell.tier("adaptive")
    drawn = (*(("--columns", *columns) if columns else ()), "--rows", str(rows))
    size = ("--population", "20", "--generations", "15", "--length-drop", LENGTH_DROP)
    return Step(
        f"{cell.prefix}/adaptive/lengths", f"{tier}/lengths.json", ("dial", "lengths", tier, file, *drawn, *size)
    )


def named(share: str) -> str:
    """Run of the cascade whose first tier takes a share of its MACs.

    >>> named("0.3")
    'cascade-lengths-03'
    """
    return f"cascade-lengths-{share.replace('.', '')}"
