"""The steps of `make results` for dropped tokens: the length-adaptive rival of E-LANG's Table 4 and Fig. 4."""

from __future__ import annotations

from collections.abc import Iterator

from dial.cli.steps import Step
from scripts.results_cell import Cell

COLUMNS = {"sst2": ("sentence",), "mrpc": ("sentence1", "sentence2")}
"""Tasks, and the columns of their texts."""
EPOCHS = {"sst2": 2, "mrpc": 5}
SHARES = ("0.25", "0.5", "0.75")
"""Of the MACs of all tokens, of the model in front of the Super."""


def lengths_steps(cell: Cell) -> Iterator[Step]:
    """Train the Super of a task with dropped tokens, search for lengths, then test each share in front of the Super."""
    arguments = ("--model.path", cell.tier("super"))
    yield cell.fit("adaptive", "length_adaptive", arguments, EPOCHS[cell.task])
    tier = cell.tier("adaptive")
    rows = (f"{cell.data}/glue/{cell.task}/train.parquet", "--columns", *COLUMNS[cell.task], "--rows", "500")
    search = ("dial", "lengths", tier, *rows, "--population", "20", "--generations", "15")
    yield Step(f"{cell.prefix}/adaptive/lengths", f"{tier}/lengths.json", search)
    for share in SHARES:
        first = f"{{path: {tier}, lengths: {share}}}"
        yield from cell.test(f"cascade-lengths-{share.replace('.', '')}", cell.cascade(first, cell.tier("super")))
