"""The steps of `make results` for text-to-text cascades: E-LANG's Swift, energy head and Super on a small T5.

Super and Swifts are flan-t5-small and its first layers, fine-tuned; words to phonemes is learnt from scratch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dial.cli.steps import Step
from scripts.results_cell import Cell
from scripts.results_steps import PRECISION

PRETRAINED, UNPACKED = "flan-t5-small", "runs/models"
SCORES = (
    *("energy", "softmax", "entropy"),
    *(f"decoder_{name}{part}" for name in ("energy", "softmax", "entropy") for part in ("", "_low")),
    *("answer_log_probability", "random"),
)
"""Of E-LANG's Table 2: what the head on the encoder tells, and what only the finished answer tells."""
RATES = {"super": "5e-4", "swift": "1e-3", "head": "3e-3", "encoder": "1e-4", "scratch": "1e-3"}
PAIRED = ("layers2", "layers4", "layers2-distilled", "layers4-distilled")
VALIDATED, CALIBRATED = 500, 1000  # rows at most
TIMED_ROWS = 200
HEADS = {
    "": (),
    "position-32": ("--model.bottleneck", "32"),
    "bag": ("--model.reading", "bag"),
    "bag-32": ("--model.reading", "bag", "--model.bottleneck", "32"),
}
"""Heads over the vocabulary by name: the two readings of E-LANG's Eq. 8, full and with a bottleneck."""
ENCODER = "encoder2"
PHONEME_MODELS = {
    "super": (6, 192, 6),
    "small": (2, 96, 3),
    "tiny": (1, 64, 2),
}
"""Layers of each half, width, and heads of 32."""


@dataclass(frozen=True)
class TextTask:
    """A task whose answers are written, and how its models are trained.

    Attributes:
        name: of the folder of its runs and tables.
        source: arguments that name the data; `{data}` is the folder.
        epochs: of the Super.
        swift_epochs: of every Swift.
        head_epochs: of every energy head.
        rows: of training at most.
        head_rows: the same for energy heads; one over a vocabulary costs more than its encoder.
        batch: rows per training step.
        head_batch: the same for energy heads.
        every: epochs from one validation, and checkpoint, to the next.
        tokens: of a source at most.
        written: tokens of an answer at most.
        swifts: names of the first tiers; that of the cascade that stands for the task comes first.
        heads: energy heads of the first of them, names in :data:`HEADS`; the others have the plain one.
        calibrated: whether calibration rows are tested; there are too few in the small sets.
        scratch: models are not cut from the pretrained one.
        more: whether three tiers, and an encoder as the first, are tested too.
    """

    name: str
    source: tuple[str, ...]
    epochs: int
    swift_epochs: int
    head_epochs: int = 20
    rows: int | None = None
    head_rows: int | None = None
    batch: int = 64
    head_batch: int = 64
    every: int = 1
    tokens: int = 128
    written: int = 16
    swifts: tuple[str, ...] = PAIRED
    heads: tuple[str, ...] = ("",)
    calibrated: bool = True
    scratch: bool = False
    more: bool = False


def glue(task: str, epochs: int, swift_epochs: int, **more: object) -> TextTask:
    """A task of GLUE."""
    source = ("--data", "GLUEAsTextDataModule", "--data.task", task, "--data.source", "{data}/glue")
    return replace(TextTask(f"text_{task}", source, epochs, swift_epochs), **more)  # type: ignore[arg-type]


def superglue(task: str, epochs: int, swift_epochs: int, **more: object) -> TextTask:
    """A task of SuperGLUE: the Swift of two layers alone, points chosen across folds."""
    source = ("--data", "SuperGLUEAsTextDataModule", "--data.task", task, "--data.source", "{data}/superglue")
    given = TextTask(f"text_{task}", source, epochs, swift_epochs, swifts=PAIRED[:1], calibrated=False)
    given = replace(given, batch=32, tokens=256)
    return replace(given, **more)  # type: ignore[arg-type]


def translation(name: str, corpus: str, target: str, folder: str, tokens: int, **more: object) -> TextTask:
    """A pair of languages, English the source."""
    source: tuple[str, ...] = (
        "--data",
        "TranslationDataModule",
        "--data.corpus",
        corpus,
        "--data.source_language",
        "en",
    )
    source += ("--data.target_language", target, "--data.source", f"{{data}}/{folder}")
    source += ("--data.max_target_length", str(tokens))
    task = TextTask(name, source, 2, 3, head_epochs=2, rows=6_000, batch=32, written=tokens)
    return replace(task, **more)  # type: ignore[arg-type]


def phonemes() -> TextTask:
    """Words to phonemes, one character a phoneme, from scratch."""
    files = (f"--data.{role}_file={{data}}/g2p/en-us/{role}.parquet" for role in ("train", "validation", "test"))
    columns = ("--data.source_column", "word", "--data.target_column", "phonemes")
    metrics = ("--data.metrics", "[character_accuracy, exact_match]")
    source = ("--data", "TextToTextDataModule", *files, *columns, *metrics)
    task = TextTask("phonemes", source, 8, 8, 4, tokens=32, written=32, swifts=("small", "tiny"), scratch=True)
    return replace(task, rows=40_000, batch=128, head_rows=20_000, head_batch=128)


TASKS = (
    glue("sst2", 2, 3, head_epochs=10, rows=20_000, head_batch=256, more=True),
    glue("cola", 4, 6, head_epochs=10, every=2, head_batch=128),
    glue("mrpc", 6, 10, head_epochs=10, every=2, batch=32, more=True),
    glue("rte", 4, 6, every=2, batch=32, tokens=256),
    superglue("cb", 20, 30, every=5),
    superglue("copa", 20, 20, every=5),
    superglue("wic", 4, 6, head_epochs=10, every=2, rows=6_000),
    superglue("wsc", 20, 20, head_epochs=10, every=5),
    superglue("multirc", 2, 3, head_epochs=10, rows=2_000, tokens=384),
    translation("multi30k", "multi30k", "de", "multi30k/en-de", 64, swifts=PAIRED[:3], heads=tuple(HEADS)),
    translation("wmt16_en_ro", "wmt16", "ro", "wmt16/ro-en", 128, swifts=PAIRED[:2]),
    phonemes(),
)


def plan(data: str, models: str) -> Iterator[Step]:
    """All steps in order.

    Args:
        data: folder with `glue/<task>`, `superglue/<task>`, `multi30k/en-de`, `wmt16/ro-en` and `g2p/en-us`.
        models: folder with `minilm-l6-h384`, the packed `flan-t5-small`, and `unpack.py`.
    """
    unpack = ("python", f"{models}/unpack.py", UNPACKED, PRETRAINED)
    yield Step(f"unpack/{PRETRAINED}", f"{UNPACKED}/{PRETRAINED}/model.safetensors", unpack)
    for task in TASKS:
        yield from TextCell(task.name, data=data, models=models, about=task).steps()


@dataclass(frozen=True)
class TextCell(Cell):
    """One task of text-to-text cascades.

    Attributes:
        about: the task.
    """

    about: TextTask = TASKS[0]

    @property
    def source(self) -> tuple[str, ...]:
        """Arguments that name the task."""
        return tuple(word.replace("{data}", self.data) for word in self.about.source)

    def steps(self) -> Iterator[Step]:
        """Fit the Super, every Swift and its heads, test each cascade, and time the first."""
        task = self.about
        yield self.writer("super")
        for swift in task.swifts:
            yield self.writer(swift)
        pairs = [(swift, head) for swift in task.swifts for head in (task.heads if swift == task.swifts[0] else ("",))]
        for swift, head in pairs:
            yield self.head(swift, head)
        for swift, head in pairs:
            yield from self.tested(joined("cascade", swift, head), (self.first(swift, head), self.tier("super")))
        if task.more:
            yield self.encoder()
            tiers = (self.first("layers2"), self.first("layers4"), self.tier("super"))
            yield from self.tested("cascade-three", tiers, late=False)
            yield from self.tested(f"cascade-{ENCODER}", (self.tier(ENCODER), self.tier("super")), late=False)
        study = ("--study.rows", str(TIMED_ROWS), "--study.repeats", "3", "--study.targets", "[1.0, 0.99, 0.98]")
        leading = self.cascade(self.first(task.swifts[0]), self.tier("super"))
        yield from self.measured((*leading, *self.calibration, *study), "clock")

    def first(self, swift: str, head: str = "") -> str:
        """A Swift with its energy head, as a tier."""
        return f"{{path: {self.tier(swift)}, head: {self.tier(joined('head', swift, head))}}}"

    def trained(self, name: str, config: str, arguments: tuple[str, ...], epochs: int, batch: int, rate: str) -> Step:
        """Train one model or head."""
        rows = self.about.head_rows if config == "energy_head" and self.about.head_rows else self.about.rows
        limits = f"{{validation: {VALIDATED}, train: {rows}}}" if rows else f"{{validation: {VALIDATED}}}"
        data = (*self.source, "--data.batch_size", str(batch), "--data.max_rows", limits)
        model = (*arguments, "--model.max_length", str(self.about.tokens), "--model.optimizer.init_args.lr", rate)
        training = ("--trainer.max_epochs", str(epochs), "--early_stopping.patience", str(epochs))  # never early
        seeds = ("--data.seed", str(self.seed), "--seed_everything", str(self.seed))
        run = f"{self.folder}/{name}"
        command = ("dial", "fit", "--config", f"configs/model/{config}.yaml", *data, *model, *training, *seeds)
        return Step(f"{self.prefix}/{name}", f"{run}/tier/card.json", (*command, "--run", run))

    def writer(self, name: str) -> Step:
        """Train the Super or a Swift."""
        task, config, rate = self.about, "seq2seq", "super" if name == "super" else "swift"
        arguments: tuple[str, ...]
        if task.scratch:
            arguments, rate = (
                ("--model.config", t5(*PHONEME_MODELS[name]), "--model.tokenizer", "characters"),
                "scratch",
            )
        else:
            arguments = ("--model.path", f"{UNPACKED}/{PRETRAINED}")
            if name != "super":
                arguments += ("--model.layers", name[len("layers")])
            if name.endswith("distilled"):
                config, arguments = "seq2seq_distil", (*arguments, "--model.teacher", self.tier("super"))
        arguments += ("--model.max_new_tokens", str(task.written), *PRECISION)
        arguments += ("--trainer.check_val_every_n_epoch", str(task.every)) if task.every > 1 else ()
        epochs = task.epochs if name == "super" else task.swift_epochs
        return self.trained(name, config, arguments, epochs, task.batch, RATES[rate])

    def head(self, swift: str, head: str) -> Step:
        """Train an energy head, which lies apart from its Swift."""
        arguments = ("--model.path", self.tier(swift), "--model.apart", "true", *HEADS[head])
        name = joined("head", swift, head)
        return self.trained(
            name, "energy_head", arguments, self.about.head_epochs, self.about.head_batch, RATES["head"]
        )

    def encoder(self) -> Step:
        """Train a classifier as first tier: two layers of MiniLM."""
        arguments = ("--model.path", self.tier("encoder"), "--model.layers", "2", *PRECISION)
        return self.trained(ENCODER, "finetune", arguments, self.about.swift_epochs, 32, RATES["encoder"])

    def tested(self, name: str, tiers: tuple[str, ...], late: bool = True) -> Iterator[Step]:
        """Test a cascade.

        Args:
            name: of the run folder.
            tiers: cheapest first.
            late: whether scores of finished answers are compared, too.
        """
        scores = SCORES if late else (*SCORES[:3], "random")
        arguments = (*self.cascade(*tiers), "--sweep.scores", f"[{', '.join(scores)}]", "--data.batch_size", "64")
        yield from self.test(name, (*arguments, *self.calibration), self.about.calibrated)

    @property
    def calibration(self) -> tuple[str, ...]:
        """Arguments that say on what points are chosen."""
        if self.about.calibrated:
            return ("--data.max_rows", f"{{calibration: {CALIBRATED}}}")
        return ("--data.calibration", "crossfit")


def t5(layers: int, width: int, heads: int) -> str:
    """The configuration of a T5 to train from scratch.

    Args:
        layers: of each half.
        width: of the hidden states.
        heads: of 32.
    """
    shape = f"d_model: {width}, d_kv: 32, d_ff: {4 * width}, num_heads: {heads}, num_layers: {layers}"
    return f"{{model_type: t5, {shape}, dropout_rate: 0.0}}"


def joined(*parts: str) -> str:
    """The name of a run from its parts, those that are empty left out.

    >>> joined("head", "layers2", "bag"), joined("cascade", "layers4", "")
    ('head-layers2-bag', 'cascade-layers4')
    """
    return "-".join(part for part in parts if part)
