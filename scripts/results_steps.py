"""What the steps of `make results` have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dial.steps import Step

ROOT = Path(__file__).resolve().parent.parent


def cell(runs: str, task: str, seed: int) -> str:
    """Folder of one task and seed."""
    return f"{runs}/{task}/seed{seed}"


def glue(task: str, data: str) -> tuple[str, ...]:
    """Arguments that name a GLUE task in a folder of parquet files."""
    return ("--data", "GLUEDataModule", "--data.task", task, "--data.source", f"{data}/glue")


def run_test(prefix: str, folder: str, name: str, arguments: Sequence[str]) -> Iterator[Step]:
    """Test and sweep; then choose the operating points once more, across folds of the test rows.

    SST-2 trains on phrases and tests on sentences: thresholds from the one mislead on the other.

    Args:
        prefix: task and seed, as in `sst2/seed0`.
        folder: of the run folders of that task and seed.
        name: of the run folder.
        arguments: of `dial test`.
    """
    place = f"{folder}/{name}"
    yield Step(f"{prefix}/{name}", f"{place}/sweep/summary.json", ("dial", "test", *arguments, "--run", place))
    table, out = f"{place}/sweep/stages.parquet", f"{place}/crossfit"
    again = ("dial", "sweep", table, "--calibration", "crossfit", "--out", out)
    yield Step(f"{prefix}/crossfit-{name.removeprefix('cascade-')}", f"{out}/summary.json", again)
