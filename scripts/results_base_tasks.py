"""Tasks with a base-size Super, and the first tiers that stand in front of it."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.results_general_plan import QNLI

MEAN = ("--model.pooling", "mean")
RATE = ("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.init_args.lr")
WHOLE = ("--model.layers", "null")


@dataclass(frozen=True)
class BaseFit:
    """One fit on the way to a first tier.

    Attributes:
        config: in `configs/model`.
        arguments: further arguments of `dial fit`; `{models}`, `{data}`, `{unpacked}`, `{general}` and `{folder}` (of
            the task's runs with this seed) are folders, `{super}` the Super's.
        longer: how many times as long as the others it is trained.
        teacher: `super`, another first tier, or empty.
        rate: learning rate; empty: that of the configuration.
        augmentation: whose new texts it is trained on, beside the task's.
        name: of its run folder; empty: that of the first tier.
    """

    config: str
    arguments: tuple[str, ...] = ()
    longer: float = 1
    teacher: str = "super"
    rate: str = ""
    augmentation: str = ""
    name: str = ""


@dataclass(frozen=True)
class BaseSwift:
    """A first tier.

    Attributes:
        fits: how it comes about, in order.
        run: folder of the last fit; None: the first tier's own name.
        view: of its spec, where it is a part of what was trained.
        tested: stands in front of the Super; otherwise it only teaches.
    """

    fits: tuple[BaseFit, ...]
    run: str | None = None
    view: str | None = None
    tested: bool = True


def distilled(path: str) -> BaseSwift:
    """A pretrained encoder that is taught by the Super's predictions."""
    return BaseSwift((BaseFit("distil", ("--model.path", path, *WHOLE), rate="1e-4"),))


def tinybert(name: str, start: tuple[str, ...], augmentation: str = "") -> BaseSwift:
    """TinyBERT's two phases: layers, then predictions."""
    longer, path = 0.25 if augmentation else 1, ("--model.path", f"{{folder}}/{name}-layers/tier")
    layers = BaseFit("tinybert", start, longer, augmentation=augmentation, name=f"{name}-layers")
    return BaseSwift((layers, BaseFit("tinybert_prediction", path, longer, augmentation=augmentation)))


def dynabert(width: float) -> BaseSwift:
    """A width of the DynaBERT of MiniLM-L6."""
    parts = (("dynabert_width", "l6"), ("dynabert", "dynabert-width"))
    fits = [
        BaseFit(config, ("--model.path", f"{{folder}}/{start}/tier"), teacher=start, rate="5e-5",
                name=config.replace("_", "-"))
        for config, start in parts
    ]  # fmt: skip
    return BaseSwift(tuple(fits), run="dynabert", view=f"width: {width:g}")


GLOVE = ("--model.embeddings", "{data}/glove/6b_50d_50k/all.parquet")
RANDOM = (
    *("--model.config", "{model_type: bert, num_hidden_layers: 4, hidden_size: 312, num_attention_heads: 12, "
      "intermediate_size: 1200}"),
    *("--model.tokenizer", "{unpacked}/mpnet-base"),
)  # fmt: skip
TAUGHT = ("--model.path", "{general}/4l/tier")
SWIFTS = {
    "l3": distilled("{unpacked}/minilm-l3-h384"),
    "l6": distilled("{models}/minilm-l6-h384"),
    "tiny": distilled("{models}/bert-tiny-mlm"),
    "glove": BaseSwift((BaseFit("bilstm", GLOVE, 2),)),
    "subword": BaseSwift((BaseFit("bilstm_subword", (), 2),)),
    # Without the Super's predictions: E-LANG's Swift, before it is distilled; and another Super.
    "l6-own": BaseSwift((BaseFit("finetune", ("--model.path", "{models}/minilm-l6-h384"), teacher="", rate="5e-5"),)),
    "distilbert": BaseSwift((BaseFit("distilbert", ("--model.path", "{super}"), rate="5e-5"),)),
    "glove-other": BaseSwift((BaseFit("bilstm", GLOVE, 2, teacher="l6-own"),)),
    "glove-tang": BaseSwift((BaseFit("bilstm", GLOVE, augmentation="tang"),)),
    "4l": tinybert("4l", TAUGHT),
    "4l-random": tinybert("4l-random", RANDOM),
    "4l-augmented": tinybert("4l-augmented", TAUGHT, "tinybert"),
    "w25": dynabert(0.25),
    "w50": dynabert(0.5),
}
"""By name; on new texts a model is trained for fewer epochs, each of which is longer."""


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
        students: those that need augmented texts, general distillation, or several stages.
        seeds: of the first tiers, beside the first.
        copies: of TinyBERT's augmentation.
        three: whether three tiers are tested.
        exits: whether exits are put into the Super.
        slender: how many times smaller the Super is made, as COST-EFF does.
        rows: training rows of slender models; None: all.
        ablated: whether losses of COST-EFF are left out, one at a time.
        source: of the data, where it is made; None: as it came.
    """

    name: str
    epochs: int
    swift_epochs: int
    short: int = 3
    batch: int = 32
    swifts: tuple[str, ...] = ("l3", "l6", "tiny", "glove")
    students: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    copies: int = 20
    three: bool = False
    exits: bool = False
    slender: tuple[int, ...] = ()
    rows: int | None = None
    ablated: bool = False
    source: str | None = None

    @property
    def regression(self) -> bool:
        """Whether it asks for a number, by which no cascade can route."""
        return self.name == "stsb"


AUGMENTED = ("glove-tang", "4l", "4l-random", "4l-augmented")
BASIC = ("l3", "l6", "tiny", "glove")
TASKS = (
    BaseTask("rte", 6, 8, seeds=(1, 2)),
    BaseTask(
        *("mrpc", 5, 8, 5),
        swifts=(*BASIC, "l6-own", "distilbert", "glove-other"),
        students=(*AUGMENTED, "w25", "w50"),
        seeds=(1, 2),
        three=True,
        exits=True,
        slender=(8, 2),
        ablated=True,
    ),
    BaseTask("stsb", 4, 4, swifts=()),
    BaseTask("cola", 4, 6, seeds=(1, 2)),
    BaseTask("qnli", 2, 3, source=QNLI),
    BaseTask(
        *("sst2", 1, 2, 1, 64),
        swifts=(*BASIC, "subword", "l6-own", "distilbert"),
        students=(*AUGMENTED, "w25", "w50"),
        copies=3,
        three=True,
        exits=True,
        slender=(8, 2),
        rows=20_000,
    ),
)
"""The smallest first."""
