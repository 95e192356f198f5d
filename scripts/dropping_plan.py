"""The steps of `scripts/results.py --plan dropping`: one encoder that drops tokens as many tiers, beside exits."""

from __future__ import annotations

from collections.abc import Iterator

from dial.cli.steps import Step
from scripts.results_plan import EPOCHS, Cell, sweep_of
from scripts.results_steps import Derived

TASKS = {"sst2": ("sentence",), "mrpc": ("sentence1", "sentence2")}
"""Tasks and the columns of their texts."""
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Of the whole model's MACs, one tier each."""
FRONT = (0.3, 0.6)
"""Of the tiers before the Super in a cascade."""
ROWS = 500
"""Of the search."""
KEPT = (0.95, 0.9, 0.85, 0.8, 0.75, 0.5)
"""Tokens of the encoder with exits."""
COMPARED = ("cascade-lengths", "cascade-adaptive-exits", "cascade-both")


def dropping_plan(data: str, models: str) -> Iterator[Step]:
    """All steps in order.

    Args:
        data: folder with `glue/<task>` as parquet.
        models: folder with `minilm-l6-h384`.
    """
    for task, columns in TASKS.items():
        yield from dropping_steps(Cell(task, data=data, models=models, runs="runs/dropping"), columns)


def dropping_steps(cell: Cell, columns: tuple[str, ...]) -> Iterator[Step]:
    """Fine-tune, train with dropped tokens, search, and test what was found, with exits and without.

    Args:
        cell: the task.
        columns: of its texts.
    """
    epochs, whole, adaptive = EPOCHS[cell.task], cell.tier("whole"), cell.tier("adaptive")
    yield cell.fit("whole", "finetune", ("--model.path", cell.tier("encoder")), epochs)
    yield cell.fit("adaptive", "length_adaptive", ("--model.path", whole), epochs)
    exits = ("--model.path", whole, "--model.pooling", "mean", "--model.length_drop", "0.2")
    yield cell.fit("adaptive-exits", "joint", exits, epochs)
    rows = (f"{cell.data}/glue/{cell.task}/train.parquet", "--columns", *columns, "--rows", str(ROWS))
    yield Step(f"{cell.prefix}/lengths", f"{adaptive}/lengths.json", ("dial", "lengths", adaptive, *rows))
    several = [f"{{path: {adaptive}, lengths: {share}}}" for share in SHARES]
    yield from cell.test("cascade-shares", cell.cascade(*several, whole))
    few = [f"{{path: {adaptive}, lengths: {share}}}" for share in FRONT]
    yield from cell.test("cascade-lengths", cell.cascade(*few, whole))
    both = f"{{path: {cell.tier('adaptive-exits')}, lengths: [{', '.join(map(str, KEPT))}]}}"
    for name, tier in (("cascade-adaptive-exits", cell.tier("adaptive-exits")), ("cascade-both", both)):
        yield from cell.test(name, cell.cascade(tier, whole))
    shown = [sweep_of(cell.folder, name) for name in COMPARED]
    out = f"results/{cell.task}/dropping"
    sources = tuple(f"{run}/summary.json" for run in shown)
    command = ("dial", "compare", *shown, "--score", "entropy", "--out", out)
    yield Derived(f"{cell.prefix}/compare-dropping", f"{out}/compare.json", command, sources)
