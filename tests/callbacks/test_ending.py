"""How a training ends: validated after its last step, and with a word where it ends early."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks import Resume
from callbacks.ending import Ending

QUALITY = "validation/quality"


class Counted(BoringModel):
    """Notes the steps at which it was validated; an epoch has eight batches."""

    def __init__(self, quality: list[float] | None = None) -> None:
        super().__init__()
        self.quality, self.validated = quality or [0.5], []

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            value = self.quality[min(len(self.validated), len(self.quality) - 1)]
            self.validated.append(self.trainer.global_step)
            self.log(QUALITY, torch.tensor(value))


def fit(folder: Path, module: BoringModel, *more, patience: int = 9, **settings) -> Trainer:
    best = ModelCheckpoint(folder / "checkpoints", "best", monitor=QUALITY, mode="max", enable_version_counter=False)
    stopping = EarlyStopping(QUALITY, mode="max", patience=patience)
    trainer = Trainer(
        **{
            "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
            "limit_train_batches": 8, "limit_val_batches": 1, "default_root_dir": str(folder),
            "callbacks": [stopping, Ending(), *more, best], **settings,
        }
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module)
    return trainer


@pytest.mark.parametrize(
    ("settings", "validated"),
    [
        ({"max_steps": 3}, [3]),
        ({"max_steps": 8}, [8]),
        ({"max_steps": 19}, [8, 16, 19]),
        ({"max_steps": 3, "accumulate_grad_batches": 2}, [3]),
        ({"max_steps": 5, "accumulate_grad_batches": 3}, [3, 5]),  # an epoch's last step has two batches
        ({"max_steps": 7, "val_check_interval": 3}, [3, 6, 7]),
        ({"max_steps": 6, "val_check_interval": 3}, [3, 6]),
        ({"max_epochs": 2}, [8, 16]),
    ],
    ids=str,
)
def test_the_last_step_is_validated_once(tmp_path, settings, validated) -> None:
    module = Counted()
    trainer = fit(tmp_path, module, **settings)
    assert module.validated == validated
    best = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == validated[0] and trainer.checkpoint_callback.best_model_score == 0.5


def test_the_last_step_may_be_the_best(tmp_path) -> None:
    fit(tmp_path, Counted([0.5, 0.6, 0.7]), max_steps=19)
    assert torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["global_step"] == 19


def test_nothing_is_saved_just_before_the_last_validation(tmp_path) -> None:
    """Lightning would leave it out when it goes on from there."""
    saved = []

    class Look(Callback):
        def on_validation_start(self, trainer, pl_module) -> None:
            saved.append(torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"])

    fit(tmp_path, Counted(), Resume(1), Look(), max_steps=3, num_sanity_val_steps=0)
    assert saved == [2]


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        ([0.5, 0.4], "early stopping in epoch 2, after step 24: .*did not improve in the last 2.*0.500"),
        ([0.5, float("nan")], "early stopping in epoch 1, after step 16: .*not finite"),
    ],
)
def test_early_stopping_is_said(tmp_path, caplog, quality, words) -> None:
    with caplog.at_level("INFO"):
        fit(tmp_path, Counted(quality), patience=2, max_epochs=9)
    (line,) = (message for message in caplog.messages if message.startswith("early stopping"))
    assert re.search(words, line) and "Signaling" not in line


def test_a_whole_training_needs_no_words(tmp_path, caplog) -> None:
    with caplog.at_level("INFO"):
        fit(tmp_path, Counted([0.5, 0.4]), patience=5, max_epochs=3)
    assert "early stopping" not in caplog.text
