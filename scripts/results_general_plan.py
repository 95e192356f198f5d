"""What several tasks of a base-size Super start from: unpacked models, QNLI made from SQuAD, general distillation."""

from __future__ import annotations

from collections.abc import Iterator

from dial.cli.steps import Step
from scripts.results_steps import PRECISION

UNPACKED, GENERAL = "runs/models", "runs/results/general"
SUPER, PRETRAINED = "mpnet-base", ("mpnet-base", "minilm-l3-h384")
QNLI, TEXTS = "runs/data/qnli", "runs/data/texts.txt"
EPOCHS, BATCH = 2, 64
STUDENTS = {
    "4l": (),  # the configuration's own: TinyBERT's, 4 layers, 312 wide
    # COST-EFF's small rivals have 12 layers, 256 wide; heads cannot be those of the teacher.
    "12l": (
        *("--model.config", "{model_type: bert, num_hidden_layers: 12, hidden_size: 256, num_attention_heads: 4, "
          "intermediate_size: 1024}"),
        *("--model.attention_weight", "0"),
    ),
}  # fmt: skip
"""Of general distillation: arguments that differ."""


def unpack_steps(models: str) -> Iterator[Step]:
    """Unpack pretrained models.

    Args:
        models: folder with the packed ones and `unpack.py`.
    """
    for name in PRETRAINED:
        command = ("python", f"{models}/unpack.py", UNPACKED, name)
        yield Step(f"unpack/{name}", f"{UNPACKED}/{name}/model.safetensors", command)


def qnli_steps(data: str) -> Iterator[Step]:
    """Make QNLI's training rows from SQuAD's.

    Args:
        data: folder with `squad/plain_text` and `glue/qnli`.
    """
    command = ("python", "scripts/qnli_from_squad.py", "--data", data, "--out", QNLI)
    yield Step("data/qnli", f"{QNLI}/train.parquet", command)


def general_steps(data: str) -> Iterator[Step]:
    """Teach small encoders what the Super makes of any text (Jiao et al. 2020, section 3.2).

    Args:
        data: folder of sets, whose training texts are read.
    """
    command = ("python", "scripts/training_texts.py", "--data", data, "--out", TEXTS)
    yield Step("data/texts", TEXTS, command)
    for name, arguments in STUDENTS.items():
        run, teacher = f"{GENERAL}/{name}", f"{UNPACKED}/{SUPER}"
        texts = ("--data", "configs/data/unlabelled.yaml", "--data.train_file", TEXTS, "--data.batch_size", str(BATCH))
        taught = ("--model.teacher", teacher, "--model.tokenizer", teacher, *arguments)
        training = ("--trainer.max_epochs", str(EPOCHS), *PRECISION, "--seed_everything", "0")
        fit = ("dial", "fit", "--config", "configs/model/general_distillation.yaml", *texts, *taught, *training)
        yield Step(f"general/{name}", f"{run}/tier/card.json", (*fit, "--run", run))
