"""Steps of `make results` for models with exits: COST-EFF, what it is compared with, and its ablations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dial.cli.steps import Step
from scripts.results_steps import Derived, cell, glue, run_test, sweep_of

SEED = 0
# On SST-2 an epoch of MiniLM-L6 takes about ten minutes on one core; no step takes more than half an hour.
EPOCHS = {"sst2": 2, "cola": 3, "mrpc": 4, "rte": 4, "stsb": 4}
SHORT = {"sst2": 1, "cola": 2, "mrpc": 3, "rte": 3}  # of models that start from trained ones
# Slender students of SST-2 see part of the training rows, so that all of them are trained in an afternoon.
STUDENT_ROWS = {"sst2": ("--data.max_rows.train", "36000")}
CASCADE = "costeff-4x"
SCORES = {"stsb": "learned"}  # a number has no entropy; COST-EFF and DeeBERT decide by it everywhere else
CLASSIFICATION, REGRESSION = ("sst2", "cola", "mrpc", "rte"), ("stsb",)
COMPARED = ("costeff-4x", "costeff-2x", "ta", "equilibrium", "pabee", "deebert")
RECOVERY = ("--model.optimizer.init_args.lr", "1e-4")
ABLATED = ("sst2",)
# In the early layers of MiniLM the first token hardly differs between texts: exits that read it alone learn nothing.
MEAN = ("--model.pooling", "mean")


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
    for what, change in (
        ("no-hidden", ("--model.hidden_weight", "0")),
        ("no-logits", ("--model.distillation_weight", "0")),
        ("two-stage", ("--model.policy", "TwoStage")),
    ):
        yield Method(f"{name}-{what}", "recover", first, "ta", (*RECOVERY, *change), short=True, tasks=ABLATED)
    # During slenderisation: importance under the last exit alone. Before: it starts from the single-exit model.
    for what, path, exits in (("during", "ta", "last"), ("before", "super", "all")):
        size = ("--slenderise.compression", str(factor), "--slenderise.exits", exits)
        plain = Method(
            f"{first}-{what}", "slenderise", path, "ta", (*size, *MEAN), short=True, tasks=ABLATED, tested=False
        )
        yield plain
        yield Method(f"{name}-{what}", "recover", plain.name, "ta", RECOVERY, short=True, tasks=ABLATED)


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
    return SCORES.get(task, "entropy")


def exit_steps(data: str, models: str, runs: str, task: str) -> Iterator[Step]:
    """Fit every model with exits of a task, test it, then (in classification) the slender one in front of the Super.

    Args:
        data: folder with `glue/<task>`.
        models: folder with `minilm-l6-h384`.
        runs: folder of the run folders.
        task: which.
    """
    folder, prefix, source = cell(runs, task, SEED), f"{task}/seed{SEED}", glue(task, data)
    places = {"encoder": f"{models}/minilm-l6-h384"}

    def tier(name: str) -> str:
        return places.get(name, f"{folder}/{name}/tier")

    for method in METHODS:
        if task not in method.tasks:
            continue
        run, config = f"{folder}/{method.name}", f"configs/model/{method.config}.yaml"
        teacher: Sequence[str] = ("--model.teacher", tier(method.teacher)) if method.teacher else ()
        epochs = str((SHORT if method.short else EPOCHS)[task])
        command = ("dial", "fit", "--config", config, *source, "--model.path", tier(method.path), *teacher)
        rows = STUDENT_ROWS.get(task, ()) if method.config in ("slenderise", "recover") else ()
        command = (
            *command,
            *method.arguments,
            *rows,
            "--trainer.max_epochs",
            epochs,
            "--trainer.precision",
            "bf16-mixed",
        )
        seeds = ("--data.seed", str(SEED), "--seed_everything", str(SEED))
        yield Step(f"{prefix}/{method.name}", f"{run}/tier/card.json", (*command, *seeds, "--run", run))
        if method.tested:
            yield from run_test(prefix, folder, f"exits-{method.name}", (*tested(tier(method.name)), *source))
    if task in REGRESSION:
        return
    tiers = f"[{tier(CASCADE)}, {tier('super')}]"
    cascade = ("--config", "configs/model/cascade.yaml", "--model.tiers", tiers, *source)
    yield from run_test(prefix, folder, f"cascade-{CASCADE}", cascade)
    shown = [sweep_of(folder, name) for name in (*(f"exits-{name}" for name in COMPARED), f"cascade-{CASCADE}")]
    out = f"results/{task}"
    command = ("dial", "compare", *shown, "--score", score_of(task), "--out", out)
    yield Derived(f"{prefix}/compare", f"{out}/compare.json", command, tuple(f"{run}/summary.json" for run in shown))


def tested(tier: str) -> tuple[str, ...]:
    """Arguments of `dial test` for one model with exits."""
    return ("--config", "configs/model/joint.yaml", "--model.path", tier)
