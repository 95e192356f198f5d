"""The steps of `make results`: which models are trained, tested, swept, compared and measured, and on what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dial.cli.steps import Step
from scripts import (
    results_base_plan,
    results_dynabert_plan,
    results_lengths_plan,
    results_spans_plan,
    results_text_plan,
)
from scripts.results_cell import LOSSES_LEFT_OUT, Cell, sweep_of
from scripts.results_steps import Derived, Measured

SEEDS = {"sst2": (0,), "cola": (0, 1, 2), "mrpc": (0, 1, 2), "rte": (0, 1, 2)}
"""Of the cascades; models with exits have the first."""
CLASSIFICATION, REGRESSION = tuple(SEEDS), ("stsb",)
# At most about 25 minutes a step on two cores; the best epoch on validation rows counts.
EPOCHS = {"sst2": 2, "cola": 3, "mrpc": 4, "rte": 4, "stsb": 4}
DISTILLATION_EPOCHS = {"sst2": 2, "cola": 4, "mrpc": 5, "rte": 5}
SHORT = {"sst2": 1, "cola": 2, "mrpc": 3, "rte": 3}  # of models that start from trained ones
# Slender students of SST-2 see part of the training rows, so that all of them are trained in an afternoon.
STUDENT_ROWS = {"sst2": ("--data.max_rows.train", "36000")}
SCORES = {"stsb": "learned"}  # a number has no entropy; COST-EFF and DeeBERT decide by it everywhere else


def plan(data: str, models: str) -> Iterator[Step]:
    """All steps in order.

    Args:
        data: folder with `glue/<task>`, `superglue/<task>`, `multi30k/en-de`, ... as parquet.
        models: folder with `minilm-l6-h384`, the packed `flan-t5-small`, `mpnet-base` and `minilm-l3-h384`,
            `bert-tiny-mlm`, and `unpack.py`.
    """
    yield from encoder_plan(data, models)
    for task in results_dynabert_plan.TASKS:
        yield from results_dynabert_plan.dynabert_steps(Cell(task, data=data, models=models))
    for task in results_lengths_plan.COLUMNS:
        yield from results_lengths_plan.LengthsCell(task, data=data, models=models).steps()
    yield from results_text_plan.plan(data, models)
    yield from results_base_plan.plan(data, models)
    yield from results_spans_plan.plan(data, models)


def encoder_plan(data: str, models: str) -> Iterator[Step]:
    """The steps of cascades of MiniLM and of models with exits, which the pages of cascades, exits and times need.

    Args:
        data: folder with `glue/<task>` as parquet.
        models: folder with `minilm-l6-h384`.
    """
    for position in range(max(map(len, SEEDS.values()))):  # every task once before any task a second time
        for task, seeds in SEEDS.items():
            if position < len(seeds):
                yield from cascade_steps(Cell(task, seeds[position], data, models))
    for task in (*CLASSIFICATION, *REGRESSION):
        yield from exit_steps(Cell(task, data=data, models=models))
    for task in TIMED:
        yield from measured_steps(Cell(task, data=data, models=models))
    for task in SEEDS:
        yield tier_times(Cell(task, data=data, models=models))


# Cascades of two tiers.


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
    tasks: tuple[str, ...] = CLASSIFICATION
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


def cascade_steps(cell: Cell) -> Iterator[Step]:
    """Fit the Super and every Swift of one task and seed, then test each cascade."""
    pretrained = ("--model.path", cell.tier("encoder"))
    yield cell.fit("super", "finetune", pretrained, EPOCHS[cell.task])
    for swift in swifts_of(cell.task):
        arguments = (*(pretrained if swift.pretrained else ()), *swift.arguments)
        teacher = ("--model.teacher", cell.tier("super")) if swift.distilled else ()
        epochs = (DISTILLATION_EPOCHS if swift.distilled else EPOCHS)[cell.task]
        yield cell.fit(swift.name, swift.config, (*arguments, *teacher), epochs)
    for swift in swifts_of(cell.task):
        yield from cell.test(f"cascade-{swift.name}", cell.cascade(cell.tier(swift.name), cell.tier("super")))


# Models with exits: COST-EFF, what it is compared with, and its ablations.

# In the early layers of MiniLM the first token hardly differs between texts: exits that read it alone learn nothing.
MEAN = ("--model.pooling", "mean")
RECOVERY = ("--model.optimizer.init_args.lr", "1e-4")
ABLATED = ("sst2",)
FRONT = "costeff-4x"  # stands in front of the Super
COMPARED = ("costeff-4x", "costeff-2x", "ta", "equilibrium", "pabee", "deebert")


@dataclass(frozen=True)
class Method:
    """How one model with exits comes about.

    Attributes:
        name: of its folder, and in the tables.
        config: in `configs/model`.
        path: what it starts from: `encoder`, or the name of another run of the same task.
        teacher: the run that teaches it.
        arguments: further arguments of `dial fit`.
        short: starts from a trained model, and trains for fewer epochs.
        tasks: where it is trained.
        tested: is swept (what only is a way to another model is not).
    """

    name: str
    config: str
    path: str = "encoder"
    teacher: str | None = None
    arguments: tuple[str, ...] = ()
    short: bool = False
    tasks: tuple[str, ...] = CLASSIFICATION
    tested: bool = True


def slender(factor: int) -> Iterator[Method]:
    """Slenderisation of the teaching assistant and recovery, as COST-EFF does."""
    size = ("--slenderise.compression", str(factor))
    yield Method(f"slender-{factor}x", "slenderise", "ta", "ta", size, short=True, tested=False)
    yield Method(f"costeff-{factor}x", "recover", f"slender-{factor}x", "ta", RECOVERY, short=True)


def ablations(factor: int) -> Iterator[Method]:
    """COST-EFF's Table 4 (a loss left out of the recovery) and Fig. 6 (exit losses left out)."""
    first, name = f"slender-{factor}x", f"costeff-{factor}x"
    for what, change in LOSSES_LEFT_OUT:
        yield Method(f"{name}-{what}", "recover", first, "ta", (*RECOVERY, *change), short=True, tasks=ABLATED)
    # During slenderisation: importance under the last exit alone. Before: it starts from the single-exit model.
    for what, path, exits in (("during", "ta", "last"), ("before", "super", "all")):
        cut = f"{first}-{what}"
        size = ("--slenderise.compression", str(factor), "--slenderise.exits", exits, *MEAN)
        yield Method(cut, "slenderise", path, "ta", size, short=True, tasks=ABLATED, tested=False)
        yield Method(f"{name}-{what}", "recover", cut, "ta", RECOVERY, short=True, tasks=ABLATED)


METHODS = (
    Method("ta", "teaching_assistant", "super", "super", MEAN, short=True),
    Method("equilibrium", "equilibrium", arguments=MEAN),
    Method("pabee", "pabee", "super", arguments=MEAN, short=True),
    # The Super's own fine-tuning was its first stage; what is left of that one is too short to matter.
    Method("deebert", "deebert", "super", arguments=("--model.policy.init_args.share", "0.01", *MEAN), short=True),
    Method("equilibrium-first-token", "equilibrium", tasks=ABLATED),
    *slender(4),
    *slender(2),
    *ablations(4),
    Method("super", "finetune", tasks=REGRESSION, tested=False),
    Method("berxit", "berxit", arguments=MEAN, tasks=REGRESSION),
)


def score_of(task: str) -> str:
    """What decides when a row of a task exits."""
    return SCORES.get(task.removeprefix("base_"), "entropy")


def tested_runs(task: str) -> dict[str, tuple[str, ...]]:
    """Tiers of each run of `dial test` with exits on a task."""
    tested = [method.name for method in METHODS if method.tested and task in method.tasks]
    runs: dict[str, tuple[str, ...]] = {f"exits-{name}": (name,) for name in tested}
    return runs if task in REGRESSION else {**runs, f"cascade-{FRONT}": (FRONT, "super")}


def exit_steps(cell: Cell) -> Iterator[Step]:
    """Fit every model with exits of a task, test it, then (in classification) the slender one in front of the Super."""
    task = cell.task
    for method in (method for method in METHODS if task in method.tasks):
        teacher = ("--model.teacher", cell.tier(method.teacher)) if method.teacher else ()
        rows = STUDENT_ROWS.get(task, ()) if method.config in ("slenderise", "recover") else ()
        arguments = ("--model.path", cell.tier(method.path), *teacher, *method.arguments, *rows)
        yield cell.fit(method.name, method.config, arguments, (SHORT if method.short else EPOCHS)[task])
        if method.tested:
            model = ("--config", "configs/model/joint.yaml", "--model.path", cell.tier(method.name))
            yield from cell.test(f"exits-{method.name}", (*model, *cell.source))
    if task in REGRESSION:
        return
    yield from cell.test(f"cascade-{FRONT}", cell.cascade(cell.tier(FRONT), cell.tier("super")))
    shown = [sweep_of(cell.folder, name) for name in (*(f"exits-{name}" for name in COMPARED), f"cascade-{FRONT}")]
    out = f"results/{task}"
    command = ("dial", "compare", *shown, "--score", score_of(task), "--out", out)
    sources = tuple(f"{run}/summary.json" for run in shown)
    yield Derived(f"{cell.prefix}/compare", f"{out}/compare.json", command, sources)


# On the clock: a cascade and its rivals, int8, and the executor of exits against its ideal.


TIMED = {"sst2": "bilstm-distilled", "cola": "layers2-distilled", "mrpc": "layers2-distilled"}
"""The Swift of each task."""
TIMED_EXITS = "deebert"  # on the Super's encoder, as in TangoBERT's Table 2
EXECUTED_EXITS = "equilibrium"
TIMED_ROWS = {"study": 500, "study-int8": 250, "executor": 1500, "times": 200}


def measured_steps(cell: Cell) -> Iterator[Step]:
    """Studies and the executor on trained tiers; nothing else should run on the machine meanwhile."""
    whole, folder = cell.tier("super"), cell.folder
    cascades = {
        "study": (cell.cascade(cell.tier(TIMED[cell.task]), whole), ("--study.exits", f"{folder}/exits-{TIMED_EXITS}")),
        "study-int8": (cell.cascade(f"{{path: {whole}, dtype: int8}}", whole), ()),
    }
    for name, (cascade, more) in cascades.items():
        rows = ("--study.rows", str(TIMED_ROWS[name]))
        yield from cell.measured((*cascade, *rows, *more), name, name)
    out = f"results/{cell.task}/executor.json"
    what = ("--only", "batches", "--run", f"{folder}/exits-{EXECUTED_EXITS}", "--rows", str(TIMED_ROWS["executor"]))
    place = ("--task", cell.task, "--source", f"{cell.data}/glue", "--out", out)
    yield Measured(f"{cell.prefix}/executor", out, ("python", "benchmarks/bench_executor.py", *what, *place))


def tier_times(cell: Cell) -> Step:
    """Milliseconds per row of the Super and every Swift."""
    tiers = [f"{name}={cell.tier(name)}" for name in ["super", *(swift.name for swift in swifts_of(cell.task))]]
    source = ("--task", cell.task, "--source", f"{cell.data}/glue", "--rows", str(TIMED_ROWS["times"]))
    out = f"results/{cell.task}/times.json"
    command = ("python", "benchmarks/tier_time.py", *source, "--out", out, *tiers)
    return Measured(f"{cell.task}/times", out, command)
