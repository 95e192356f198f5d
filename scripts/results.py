"""`make results`: the README's tables from the stage tables in `results/`, one plain `dial` command after the other.

Where a table is missing, the models that it needs are trained and tested first, from real data: hours. A step whose
result file is there is skipped, and an interrupted `dial fit` goes on from its last checkpoint, so the same command
finishes what was begun. `--list` shows the steps and their commands, `--only sst2` does a part; what is measured on the
clock, and needs a quiet machine, is done only when it is asked for, with `--only study`, `executor` or `times`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dial.cli.steps import Step, is_complete, run_step
from scripts.results_exits import CLASSIFICATION, REGRESSION, exit_steps
from scripts.results_measured import SWIFTS as TIMED
from scripts.results_measured import measured_steps
from scripts.results_steps import ROOT, Derived, Measured, cell, due, glue, goals, run_test

SEEDS = {"sst2": (0,), "cola": (0, 1, 2), "mrpc": (0, 1, 2), "rte": (0, 1, 2)}
# At most about 25 minutes a step on two cores; the best epoch on validation rows counts.
EPOCHS = {"sst2": 2, "cola": 3, "mrpc": 4, "rte": 4}
DISTILLATION_EPOCHS = {"sst2": 2, "cola": 4, "mrpc": 5, "rte": 5}
TIMED_ROWS = 200
PRECISION = ("--trainer.precision", "bf16-mixed")


@dataclass(frozen=True)
class Swift:
    """A first tier and how it is trained.

    Attributes:
        name: of its folder, and in the table.
        config: in `configs/model`.
        arguments: further arguments of `dial fit`.
        tasks: where it is trained.
        pretrained: starts from the Super's pretrained encoder.
        distilled: has the trained Super as teacher.
    """

    name: str
    config: str
    arguments: tuple[str, ...]
    tasks: tuple[str, ...] = tuple(SEEDS)
    pretrained: bool = True
    distilled: bool = False


SWIFTS = (
    Swift("layers2", "finetune", ("--model.layers", "2")),
    Swift("layers2-distilled", "distil", ("--model.layers", "2"), distilled=True),
    Swift("bilstm-distilled", "bilstm", (), tasks=("sst2",), pretrained=False, distilled=True),
)


def swifts_of(task: str) -> list[Swift]:
    """First tiers that are trained on a task."""
    return [swift for swift in SWIFTS if task in swift.tasks]


def plan(data: str, models: str, runs: str = "runs/results") -> Iterator[Step]:
    """All steps in order.

    Args:
        data: folder with `glue/<task>` as parquet.
        models: folder with `minilm-l6-h384`.
        runs: folder of the run folders.
    """
    for position in range(max(map(len, SEEDS.values()))):  # every task once before any task a second time
        for task, seeds in SEEDS.items():
            if position < len(seeds):
                yield from cell_steps(data, models, runs, task, seeds[position])
    for task in (*CLASSIFICATION, *REGRESSION):
        yield from exit_steps(data, models, runs, task)
    for task in TIMED:
        yield from measured_steps(data, models, runs, task)
    for task, seeds in SEEDS.items():
        folder = cell(runs, task, seeds[0])
        tiers = [f"{name}={folder}/{name}/tier" for name in ["super", *(swift.name for swift in swifts_of(task))]]
        source = ("--task", task, "--source", f"{data}/glue", "--rows", str(TIMED_ROWS))
        out = f"results/{task}/times.json"
        yield Measured(f"{task}/times", out, ("python", "benchmarks/tier_time.py", *source, "--out", out, *tiers))


def cell_steps(data: str, models: str, runs: str, task: str, seed: int) -> Iterator[Step]:
    """Fit the Super and every Swift of one task and seed, then test each cascade."""
    folder, encoder, source = cell(runs, task, seed), f"{models}/minilm-l6-h384", glue(task, data)
    seeds = ("--data.seed", str(seed), "--seed_everything", str(seed))

    def fit(name: str, config: str, arguments: Sequence[str]) -> Step:
        run = f"{folder}/{name}"
        epochs = ("--trainer.max_epochs", str((EPOCHS if config == "finetune" else DISTILLATION_EPOCHS)[task]))
        config_file = f"configs/model/{config}.yaml"
        command = ("dial", "fit", "--config", config_file, *source, *arguments, *epochs, *PRECISION, *seeds)
        return Step(f"{task}/seed{seed}/{name}", f"{run}/tier/card.json", (*command, "--run", run))

    pretrained = ("--model.path", encoder)
    yield fit("super", "finetune", pretrained)
    for swift in swifts_of(task):
        teacher = ("--model.teacher", f"{folder}/super/tier") if swift.distilled else ()
        yield fit(swift.name, swift.config, (*(pretrained if swift.pretrained else ()), *swift.arguments, *teacher))
    for swift in swifts_of(task):
        tiers = f"[{folder}/{swift.name}/tier, {folder}/super/tier]"
        arguments = ("--config", "configs/model/cascade.yaml", "--model.tiers", tiers, *source)
        yield from run_test(f"{task}/seed{seed}", folder, f"cascade-{swift.name}", arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with glue/sst2, glue/cola, ... as parquet")
    parser.add_argument("--models", default="../shared/models", help="folder with minilm-l6-h384")
    parser.add_argument("--only", default="", help="do what has this in its name, and what that needs")
    parser.add_argument("--list", action="store_true", help="show the steps and leave")
    options = parser.parse_args(arguments)
    steps = list(plan(options.data, options.models))
    wanted = goals(steps, options.only)
    if not wanted:
        parser.error(f"--only must be a part of a step's name (see --list), but got {options.only!r}")
    todo = due(steps, wanted, ROOT)
    if options.list:
        show(steps, todo)
        return
    for step in todo:
        if isinstance(step, Derived) and step.result.endswith("/summary.json"):  # of tables or arithmetic as they were
            shutil.rmtree(ROOT / step.folder, ignore_errors=True)
        run_step(step, ROOT)
    if missing := due(steps, goals(steps, ""), ROOT):
        print(f"\nleft as they were: the tables, as {len(missing)} other steps are not done, first {missing[0].name}")
        return
    folders = ("--data", options.data, "--models", options.models)
    run_step(Step("tables", "results/README.md", ("python", "scripts/results_table.py", *folders)), ROOT)


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
