"""The steps of `make results` for a base-size Super: small first tiers in front of MPNet, exits in it, slender MPNets.

TangoBERT's cascades (section 5) with DeeBERT on the Super's own encoder, a third tier between, E-LANG's question of
distillation for encoders, and COST-EFF at its own scale (12 layers, 768 wide). What is cheap comes first: the cascades
of all tasks, then students that need augmented texts or general distillation, then exits in slender models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dial.cli.steps import Step
from scripts.results_base_tasks import MEAN, RATE, SWIFTS, TASKS, BaseFit, BaseTask
from scripts.results_cell import FIRST_SEED, LOSSES_LEFT_OUT, Cell
from scripts.results_general_plan import GENERAL, SUPER, UNPACKED, general_steps, qnli_steps, unpack_steps
from scripts.results_steps import PRECISION

TIMED_ROWS = 250
AUGMENTATIONS = {
    "tang": ("--method", "tang", "--copies", "12"),
    "tinybert": ("--vectors", "{data}/glove/6b_50d_50k/all.parquet", "--masked-lm", "{models}/bert-tiny-mlm"),
}
"""Of Tang et al., as TangoBERT's SST-2; of TinyBERT, whose copies are the task's."""
RECOVERY = ("--model.optimizer.init_args.lr", "1e-4")
COSTEFF = {
    8: ("compression", "null", "heads", "2", "intermediate", "256", "embedding_rank", "128"),
    2: ("compression", "2"),
}
"""How the Super is made smaller so many times."""


def plan(data: str, models: str) -> Iterator[Step]:
    """All steps in order.

    Args:
        data: folder with `glue/<task>`, `squad/plain_text`, `glove/6b_50d_50k` and other sets, whose texts are read.
        models: folder with the packed `mpnet-base` and `minilm-l3-h384`, with `minilm-l6-h384`, `bert-tiny-mlm` and
            `unpack.py`.
    """
    yield from unpack_steps(models)
    yield from qnli_steps(data)
    cells = [BaseCell(f"base_{task.name}", data=data, models=models, about=task) for task in TASKS]
    for cell in cells:
        yield from cell.cascades()
    for cell in cells:  # every task once before any a second time
        for seed in cell.about.seeds:
            yield from replace(cell, seed=seed).cascades()
    for cell in cells:
        yield from cell.timed()
    yield from general_steps(data)
    for cell in cells:
        yield from cell.students()
    for cell in cells:
        yield from cell.slender()


@dataclass(frozen=True)
class BaseCell(Cell):
    """One task with a base-size Super, which all seeds of its first tiers share.

    Attributes:
        about: the task.
    """

    about: BaseTask = TASKS[0]

    @property
    def source(self) -> tuple[str, ...]:
        """Arguments that name the task."""
        given = replace(Cell(self.about.name), data=self.data).source
        return given if self.about.source is None else (*given[:-1], self.about.source)

    @property
    def whole(self) -> str:
        """Folder of the Super."""
        return replace(self, seed=FIRST_SEED).tier("super")

    def steps(self) -> Iterator[Step]:
        """All steps of the task with one seed."""
        yield from self.cascades()
        yield from self.students()
        yield from self.slender()

    def cascades(self) -> Iterator[Step]:
        """Fit the Super, with the first seed, and every first tier; then test each cascade, and exits in the Super."""
        task, first = self.about, self.seed == FIRST_SEED
        if first:
            pretrained = ("--model.path", f"{UNPACKED}/{SUPER}")
            yield self.trained("super", "finetune", (*pretrained, *RATE, "3e-5"), task.epochs)
        yield from self.tested_swifts(task.swifts)
        if first and task.three:
            tiers = (self.tier("glove"), self.tier("l6"), self.whole)
            yield from self.test("cascade-three", self.cascade(*tiers))
        if first and task.exits:
            yield from self.exits("deebert", "deebert", "super", (*MEAN, "--model.policy.init_args.share", "0.01"))
        if first and task.regression:
            yield from self.exits("berxit", "berxit", "super", MEAN)

    def students(self) -> Iterator[Step]:
        """Fit and test what needs augmented texts, general distillation or several stages."""
        used = {fit.augmentation for name in self.about.students for fit in SWIFTS[name].fits}
        for name in (name for name in AUGMENTATIONS if name in used):
            yield self.augmented(name)
        yield from self.tested_swifts(self.about.students)

    def slender(self) -> Iterator[Step]:
        """COST-EFF's slender Supers, its ablations, and small models with exits of the size of the smallest."""
        task, taught = self.about, ("--model.teacher", self.tier("ta"))
        if not task.slender:
            return
        whole = ("--model.teacher", self.whole, *MEAN)
        yield from self.exits("ta", "teaching_assistant", "super", (*whole, *self.fewer))
        for factor in task.slender:
            words = COSTEFF[factor]
            size = [f"--slenderise.{word}" if place % 2 == 0 else word for place, word in enumerate(words)]
            start = ("--model.path", self.tier("ta"), *taught, *size, *self.fewer)
            yield self.trained(f"slender-{factor}x", "slenderise", start, task.short)
            recovery = (*taught, *RECOVERY, *self.fewer)
            yield from self.exits(f"costeff-{factor}x", "recover", f"slender-{factor}x", recovery)
        for what, change in LOSSES_LEFT_OUT if task.ablated else ():
            yield from self.exits(f"costeff-8x-{what}", "recover", "slender-8x", (*taught, *RECOVERY, *change))
        start = ("--model.path", f"{GENERAL}/12l/tier", "--model.layers", "null", "--model.teacher", self.whole)
        yield self.trained("small", "distil", (*start, *RATE, "1e-4", *self.fewer), task.swift_epochs)
        share = ("--model.policy.init_args.share", "0.01")
        yield from self.exits("small-deebert", "deebert", "small", (*MEAN, *share, *self.fewer))
        yield from self.exits("small-pabee", "pabee", "small", (*MEAN, *self.fewer))

    def timed(self) -> Iterator[Step]:
        """TangoBERT's pair on the clock, one row at a time and in the best batches, beside DeeBERT in the Super."""
        if not (self.about.exits and "glove" in self.about.swifts):
            return
        study = ("--study.rows", str(TIMED_ROWS), "--study.exits", f"{self.folder}/exits-deebert")
        yield from self.measured((*self.cascade(self.tier("glove"), self.whole), *study), "clock")

    @property
    def fewer(self) -> tuple[str, ...]:
        """Training rows of slender models, and of those that they are compared with."""
        return () if self.about.rows is None else ("--data.max_rows.train", str(self.about.rows))

    def tested_swifts(self, names: tuple[str, ...]) -> Iterator[Step]:
        """Fit first tiers, then test each that stands in front of the Super."""
        fits = {fit.name or name: fit for name in names for fit in SWIFTS[name].fits}
        for name, fit in fits.items():
            yield self.swift(name, fit)
        for name in (name for name in names if SWIFTS[name].tested):
            tier = self.tier(SWIFTS[name].run or name)
            tier = tier if SWIFTS[name].view is None else f"{{path: {tier}, {SWIFTS[name].view}}}"
            yield from self.test(f"cascade-{name}", self.cascade(tier, self.whole))

    def trained(self, name: str, config: str, arguments: tuple[str, ...], epochs: int) -> Step:
        """Train one model."""
        settings = ("--trainer.max_epochs", str(epochs), *PRECISION)
        seeds = ("--data.seed", str(self.seed), "--seed_everything", str(self.seed))
        run, rows = f"{self.folder}/{name}", ("--data.batch_size", str(self.about.batch))
        command = ("dial", "fit", "--config", f"configs/model/{config}.yaml", *self.source, *rows, *arguments)
        return Step(f"{self.prefix}/{name}", f"{run}/tier/card.json", (*command, *settings, *seeds, "--run", run))

    def swift(self, name: str, fit: BaseFit) -> Step:
        """Train a first tier, or what leads to one."""
        folders = {"models": self.models, "data": self.data, "unpacked": UNPACKED, "general": GENERAL}
        arguments = fit.arguments
        for key, folder in (folders | {"folder": self.folder, "super": self.whole}).items():
            arguments = tuple(word.replace(f"{{{key}}}", folder) for word in arguments)
        teacher = self.whole if fit.teacher == "super" else fit.teacher and self.tier(fit.teacher)
        taught = ("--model.teacher", teacher) if teacher else ()
        texts = ("--data.augmentation", self.texts(fit.augmentation)) if fit.augmentation else ()
        rate = (*RATE, fit.rate) if fit.rate else ()
        epochs = max(1, round(fit.longer * self.about.swift_epochs))
        return self.trained(name, fit.config, (*arguments, *taught, *texts, *rate), epochs)

    def texts(self, augmentation: str) -> str:
        """File of new texts, which all seeds share."""
        return f"{replace(self, seed=FIRST_SEED).folder}/augmented-{augmentation}.parquet"

    def augmented(self, name: str) -> Step:
        """Write new texts."""
        words = [word.replace("{data}", self.data).replace("{models}", self.models) for word in AUGMENTATIONS[name]]
        copies = ("--copies", str(self.about.copies)) if name == "tinybert" else ()
        out = self.texts(name)
        return Step(
            f"{self.prefix}/augment-{name}", out, ("dial", "augment", *self.source, *words, *copies, "--out", out)
        )

    def exits(self, name: str, config: str, path: str, arguments: tuple[str, ...]) -> Iterator[Step]:
        """Train a model with exits, and test it."""
        rate = () if config == "recover" else (*RATE, "3e-5")
        yield self.trained(name, config, ("--model.path", self.tier(path), *arguments, *rate), self.about.short)
        model = ("--config", "configs/model/joint.yaml", "--model.path", self.tier(name))
        yield from self.test(f"exits-{name}", (*model, *self.source))
