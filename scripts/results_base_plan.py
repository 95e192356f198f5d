"""The steps of `make results` for a base-size Super: small first tiers in front of MPNet, exits in it, slender MPNets.

TangoBERT's cascades (section 5) with DeeBERT on the Super's own encoder, a third tier between, and COST-EFF at its own
scale (12 layers, 768 wide).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dial.cli.steps import Step
from scripts.results_cell import Cell

UNPACKED = "runs/models"
SUPER, PRETRAINED = "mpnet-base", ("mpnet-base", "minilm-l3-h384")
MEAN = ("--model.pooling", "mean")
RATE = ("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.init_args.lr")


@dataclass(frozen=True)
class BaseTask:
    """A task of GLUE, and how long its models are trained.

    Attributes:
        name: of the task.
        epochs: of the Super.
        swift_epochs: of its distilled first tiers.
        short: of models that start from trained ones.
        batch: rows per step.
        swifts: names of the first tiers, in :data:`SWIFTS`.
        three: whether three tiers are tested.
        exits: whether exits are put into the Super.
        slender: how many times smaller the Super is made, as COST-EFF does.
    """

    name: str
    epochs: int
    swift_epochs: int
    short: int = 3
    batch: int = 32
    swifts: tuple[str, ...] = ("l3", "l6")
    three: bool = False
    exits: bool = False
    slender: tuple[int, ...] = ()


TASKS = (
    BaseTask("sst2", 1, 2, 1, 64, ("l3", "l6", "tiny", "glove", "subword"), three=True, exits=True),
    BaseTask("mrpc", 5, 8, 5, swifts=("l3", "l6", "tiny", "glove"), three=True, exits=True, slender=(8, 2)),
    BaseTask("cola", 4, 6),
    BaseTask("rte", 6, 8),
)


@dataclass(frozen=True)
class BaseSwift:
    """A first tier that the Super teaches.

    Attributes:
        config: in `configs/model`.
        arguments: further arguments of `dial fit`; `{models}`, `{data}` and `{unpacked}` are folders.
        longer: how many times as long as the others it is trained.
    """

    config: str
    arguments: tuple[str, ...]
    longer: int = 1


WHOLE = ("--model.layers", "null")
SWIFTS = {
    "l3": BaseSwift("distil", ("--model.path", "{unpacked}/minilm-l3-h384", *WHOLE)),
    "l6": BaseSwift("distil", ("--model.path", "{models}/minilm-l6-h384", *WHOLE)),
    "tiny": BaseSwift("distil", ("--model.path", "{models}/bert-tiny-mlm", *WHOLE)),
    "glove": BaseSwift("bilstm", ("--model.embeddings", "{data}/glove/6b_50d_50k/all.parquet"), longer=2),
    "subword": BaseSwift("bilstm_subword", (), longer=2),
}
"""MiniLM with three and six layers, BERT-tiny, TangoBERT's BiLSTM on GloVe, and one on the Super's tokens."""


def plan(data: str, models: str) -> Iterator[Step]:
    """All steps in order.

    Args:
        data: folder with `glue/<task>` and `glove/6b_50d_50k`.
        models: folder with the packed `mpnet-base` and `minilm-l3-h384`, with `minilm-l6-h384`, `bert-tiny-mlm` and
            `unpack.py`.
    """
    for name in PRETRAINED:
        command = ("python", f"{models}/unpack.py", UNPACKED, name)
        yield Step(f"unpack/{name}", f"{UNPACKED}/{name}/model.safetensors", command)
    for task in TASKS:
        yield from BaseCell(f"base_{task.name}", data=data, models=models, about=task).steps()


@dataclass(frozen=True)
class BaseCell(Cell):
    """One task with a base-size Super.

    Attributes:
        about: the task.
    """

    about: BaseTask = TASKS[0]

    @property
    def source(self) -> tuple[str, ...]:
        """Arguments that name the task."""
        return replace(Cell(self.about.name), data=self.data).source

    def steps(self) -> Iterator[Step]:
        """Fit the Super and every first tier, then test each cascade; then exits and slender models."""
        task = self.about
        yield self.trained("super", "finetune", ("--model.path", f"{UNPACKED}/{SUPER}", *RATE, "3e-5"), task.epochs)
        for name in task.swifts:
            yield self.swift(name)
        for name in task.swifts:
            yield from self.test(f"cascade-{name}", self.cascade(self.tier(name), self.tier("super")))
        if task.three:
            tiers = (self.tier("glove"), self.tier("l6"), self.tier("super"))
            yield from self.test("cascade-three", self.cascade(*tiers))
        if task.exits:
            yield from self.exits("deebert", "deebert", "super", (*MEAN, "--model.policy.init_args.share", "0.01"))
        if task.slender:
            yield from self.exits("ta", "teaching_assistant", "super", ("--model.teacher", self.tier("super"), *MEAN))
        for factor in task.slender:
            taught = ("--model.teacher", self.tier("ta"))
            size = ("--model.path", self.tier("ta"), *taught, "--slenderise.compression", str(factor))
            yield self.trained(f"slender-{factor}x", "slenderise", size, task.short)
            rate = ("--model.optimizer.init_args.lr", "1e-4")
            yield from self.exits(f"costeff-{factor}x", "recover", f"slender-{factor}x", (*taught, *rate))

    def trained(self, name: str, config: str, arguments: tuple[str, ...], epochs: int) -> Step:
        """Train one model."""
        settings = ("--trainer.max_epochs", str(epochs), "--trainer.precision", "bf16-mixed")
        seeds = ("--data.seed", str(self.seed), "--seed_everything", str(self.seed))
        run, rows = f"{self.folder}/{name}", ("--data.batch_size", str(self.about.batch))
        command = ("dial", "fit", "--config", f"configs/model/{config}.yaml", *self.source, *rows, *arguments)
        return Step(f"{self.prefix}/{name}", f"{run}/tier/card.json", (*command, *settings, *seeds, "--run", run))

    def swift(self, name: str) -> Step:
        """Train a first tier."""
        swift, folders = SWIFTS[name], {"models": self.models, "data": self.data, "unpacked": UNPACKED}
        arguments = tuple(word.format(**folders) for word in swift.arguments)
        taught = ("--model.teacher", self.tier("super"))
        rate = (*RATE, "1e-4") if swift.config == "distil" else ()
        return self.trained(name, swift.config, (*arguments, *taught, *rate), swift.longer * self.about.swift_epochs)

    def exits(self, name: str, config: str, path: str, arguments: tuple[str, ...]) -> Iterator[Step]:
        """Train a model with exits, and test it."""
        rate = (*RATE, "3e-5") if config in ("deebert", "teaching_assistant") else ()
        yield self.trained(name, config, ("--model.path", self.tier(path), *arguments, *rate), self.about.short)
        model = ("--config", "configs/model/joint.yaml", "--model.path", self.tier(name))
        yield from self.test(f"exits-{name}", (*model, *self.source))
