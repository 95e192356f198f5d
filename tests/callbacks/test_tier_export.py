"""The exported tier is the best epoch's, not the last one's."""

import json
import warnings

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from callbacks import TierExport
from callbacks.tier_export import is_finished, is_partial
from datamodules import GLUEDataModule
from lightning_modules import Classifier
from lightning_modules.inference.tiers import View, load_tier


class Spoil(Callback):
    """Has the classifier answer the rarer class in epochs 0 and 2, and the more frequent one in epoch 1."""

    def __init__(self, positive: float) -> None:
        sign = 1.0 if positive > 0.5 else -1.0
        self.biases = (-40.0 * sign, 50.0 * sign, -60.0 * sign)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        with torch.no_grad():
            pl_module.tier.model.classifier.bias.copy_(torch.tensor([0.0, self.biases[trainer.current_epoch]]))

    on_validation_epoch_start = on_train_epoch_end


def test_the_best_epoch_is_exported(glue, tiny_bert, tmp_path) -> None:
    data = GLUEDataModule("sst2", source=str(glue("sst2")), batch_size=8, cache_dir=str(tmp_path / "cache"))
    positive = float(data.rows("validation").label.mean())
    assert positive != 0.5
    module = Classifier(path=str(tiny_bert), label_names=data.label_names, max_length=32)
    best = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="validation/quality", mode="max")
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=3,
        default_root_dir=str(tmp_path), num_sanity_val_steps=0, limit_train_batches=2,
        callbacks=[Spoil(positive), TierExport(card_length=16), best],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=data)
    bias = load_file(tmp_path / "tier/model.safetensors")["classifier.bias"]
    assert abs(float(bias[1] - bias[0])) == 50.0 and (bias[1] > bias[0]) == (positive > 0.5)
    card = json.loads((tmp_path / "tier/card.json").read_text())
    assert card["validation_quality"] == pytest.approx(max(positive, 1 - positive))
    assert card["partial"] and card["macs"]["length"] == 16 and card["train_rows"] == len(data.rows("train"))
    tier = load_tier(View(path=str(tmp_path / "tier")), "again", data.label_names)
    assert tier.fingerprint == load_tier(View(path=str(tmp_path / "tier")), "b", data.label_names).fingerprint
    assert is_finished(tmp_path / "tier")


@pytest.mark.parametrize(
    ("settings", "partial"),
    [
        ({}, False),
        ({"limit_train_batches": 1}, True),
        ({"limit_val_batches": 1}, True),
        ({"limit_test_batches": 1}, True),
        ({"limit_test_batches": 0.3}, True),
        ({"limit_predict_batches": 2}, True),
        ({"limit_test_batches": 1.0}, False),
        ({"overfit_batches": 2}, True),
        ({"fast_dev_run": True}, True),
    ],
)
def test_partial_runs_are_known(settings, partial) -> None:
    """Lightning's limit 1 is one batch, 1.0 all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, barebones=False, **settings)
    assert is_partial(trainer) is partial


def test_a_folder_without_card_is_not_finished(tmp_path) -> None:
    assert not is_finished(tmp_path)
    (tmp_path / "card.json").write_text('{"finished": false}')
    assert not is_finished(tmp_path)
