"""`make results`: the pages of results from the stage tables in `results/`, one plain `dial` command after the other.

Where a table is missing, the models that it needs are trained and tested first, from real data: hours. A step whose
result file is there is skipped, and an interrupted `dial fit` goes on from its last checkpoint, so the same command
finishes what was begun. `--list` shows the steps and their commands, `--only sst2` does a part; what is measured on the
clock, and needs a quiet machine, is done only when it is asked for, with `--only study`, `executor` or `times`.

The published numbers come of training in bf16, but where a page says otherwise. A processor without instructions for it
would take many times as long, so there float32 is the default, and the numbers differ as they do between machines. A
step that is done is not done again for its precision, and one that was begun goes on in the precision that it was begun
in only: give `--precision`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dial.cli.steps import Step, is_complete, run_step
from dial.machine import has_bf16
from dial.report.compare import FILES as COMPARED
from scripts.results_plan import encoder_plan, plan
from scripts.results_steps import PRECISION, ROOT, Derived, computed_in, due, goals


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with glue/sst2, glue/cola, ... as parquet")
    parser.add_argument("--models", default="../shared/models", help="folder with minilm-l6-h384")
    parser.add_argument("--only", default="", help="do what has this in its name, and what that needs")
    parser.add_argument("--list", action="store_true", help="show the steps and leave")
    parser.add_argument("--precision", choices=("bf16-mixed", "32-true"), help="of training; default: see above")
    options = parser.parse_args(arguments)
    precision = options.precision or precision_here()
    steps = computed_in(list(plan(options.data, options.models)), precision)
    wanted = goals(steps, options.only)
    if not wanted:
        parser.error(f"--only must be a part of a step's name (see --list), but got {options.only!r}")
    todo = due(steps, wanted, ROOT)
    if options.list:
        show(steps, todo)
        return
    if precision != PRECISION[1] and any(PRECISION[0] in step.command for step in todo):
        print(f"training in {precision}, where most published numbers come of {PRECISION[1]}")
    for step in todo:
        if isinstance(step, Derived):
            clear(step)
        run_step(step, ROOT)
    shown = list(encoder_plan(options.data, options.models))
    if missing := due(shown, goals(shown, ""), ROOT):
        print(f"\nleft as they were: the tables, as {len(missing)} other steps are not done, first {missing[0].name}")
        return
    folders = ("--data", options.data, "--models", options.models)
    collect = ("python", "scripts/results_table.py", "--runs", "runs/results", *folders)
    run_step(Step("tables", "results/results.csv", collect), ROOT)


def precision_here() -> str:
    """What `make results` trains in on this machine, unless it is told."""
    return PRECISION[1] if torch.cuda.is_available() or has_bf16() else "32-true"


def clear(step: Derived) -> None:
    """Remove what was derived of tables or by arithmetic as they were; beside a comparison lie other results."""
    result = ROOT / step.result
    if result.name == COMPARED["results"]:
        for name in COMPARED.values():
            result.with_name(name).unlink(missing_ok=True)
    else:
        shutil.rmtree(ROOT / step.folder, ignore_errors=True)


def show(steps: Sequence[Step], todo: Sequence[Step]) -> None:
    """Print every step: done, to do, or neither where nothing that is wanted needs it."""
    names = {step.name for step in todo}
    for step in steps:
        state = "to do" if step.name in names else "done" if is_complete(ROOT / step.result) else "not needed"
        print(f"{state}  {step.name}\n       {step}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        raise SystemExit(f"make results: {error}") from error
