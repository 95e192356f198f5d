"""What a step of `make results` is, and how it runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: such as `sst2/seed0/super`.
        result: relative path of the file that marks the step as done.
        command: program and arguments, to be run in the repository root.
    """

    name: str
    result: str
    command: tuple[str, ...]


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


def run(step: Step) -> None:
    """Print the command and run it with this interpreter's `dial`.

    Raises:
        SystemExit: the command failed or left no result.
    """
    print(f"\n# {step.name}\n$ {shlex.join(step.command)}", flush=True)
    program = {"dial": [sys.executable, "-m", "dial"], "python": [sys.executable]}[step.command[0]]
    start = time.monotonic()
    code = subprocess.run([*program, *step.command[1:]], cwd=ROOT, check=False).returncode
    if code or not (ROOT / step.result).is_file():
        left = "" if code else f" and left no {step.result}"
        raise SystemExit(f"{step.name} ended with code {code}{left}; run `make results` again to go on from here.")
    print(f"# {step.name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
