"""The exported tier is the best epoch's, not the last one's; what would fail after the training fails before it."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from safetensors.torch import load_file

from callbacks import Resume, Slenderise, TierExport, tier_export
from callbacks.tier_export import is_finished
from datamodules import GLUEDataModule
from datamodules.checks import is_partial
from dial.models import MultiExitForSequenceClassification
from dial.tiers.loading import View, load_tier
from lightning_modules import Classifier, MultiExit
from tests.models.families import classifier


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


# ---- what fails, fails before the first step; what is trained stays ----


class Steps(Callback):
    """Counts the steps that are trained."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.count += 1


@pytest.fixture
def family(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Function: folder of a tiny classifier of a family, or of an encoder of it with exits."""

    def make(name: str, exits: bool = False) -> str:
        labels = {"negative": 0, "positive": 1}
        model = classifier(
            name, num_labels=2, id2label={i: n for n, i in labels.items()}, label2id=labels, eos_token_id=1
        )
        folder = tmp_path_factory.mktemp(name)
        (MultiExitForSequenceClassification.from_encoder(model) if exits else model).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture
def fit(glue: Callable[[str], Path], tmp_path: Path) -> Callable[..., int]:
    """Function: fit a model of a folder as `dial fit` does, from its last checkpoint if there is one; steps trained."""

    def run(path: str, kind: Any = Classifier, extra: tuple[Callback, ...] = (), **settings: Any) -> int:
        data = GLUEDataModule("sst2", source=str(glue("sst2")), batch_size=8, cache_dir=str(tmp_path / "cache"))
        module = kind(path=path, label_names=data.label_names, max_length=16)
        steps, last = Steps(), tmp_path / "checkpoints/last.ckpt"
        best = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="validation/quality", mode="max")
        trainer = Trainer(
            **{
                "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
                "max_epochs": 2, "default_root_dir": str(tmp_path), "num_sanity_val_steps": 0,
                "limit_train_batches": 2, "limit_val_batches": 1, "use_distributed_sampler": False,
                "callbacks": [steps, *extra, TierExport(card_length=16), Resume(), best], **settings,
            }
        )  # fmt: skip
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.is_file() else None)
        finally:
            run.steps = steps.count  # type: ignore[attr-defined]
        return steps.count

    return run


def card(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "tier/card.json").read_text())


@pytest.mark.parametrize("kind", [Classifier, MultiExit])
def test_operators_without_matrix_work_train_to_the_end(kind: Any, family: Any, fit: Any, tmp_path: Path) -> None:
    """DeBERTa rounds relative positions up."""
    assert fit(family("deberta-v2"), kind) == 4
    assert card(tmp_path)["macs"]["per_row"] > 0 and is_finished(tmp_path / "tier")
    load_tier(str(tmp_path / "tier"), "again", ["negative", "positive"])


@pytest.mark.parametrize("kind", [Classifier, MultiExit])
def test_an_operator_without_a_cost_is_refused_before_the_first_step(kind: Any, family: Any, fit: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"`model` must be .*aten::fft_fftn\. Add a handle .*take another model|`path` must not read padding",
    ) as error:
        fit(family("fnet"), kind)
    assert getattr(fit, "steps", 0) == 0 and "\n" not in str(error.value)


def test_a_place_that_is_taken_is_refused_before_the_first_step(tiny_bert: Path, fit: Any, tmp_path: Path) -> None:
    (tmp_path / "tier").mkdir()
    (tmp_path / "tier/mine").touch()
    with pytest.raises(ValueError, match="`--run` must be a folder whose tier/ is new or of `dial fit`"):
        fit(str(tiny_bert))
    assert getattr(fit, "steps", 0) == 0


@pytest.mark.parametrize("how", ["epochs", "early"])
def test_a_run_that_failed_after_its_training_does_not_train_again(
    how: str, tiny_bert: Path, fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = (EarlyStopping("validation/quality", mode="max", patience=1, min_delta=2.0),) if how == "early" else ()
    settings = {"extra": early, "max_epochs": 7 if early else 2}
    with monkeypatch.context() as broken:
        broken.setattr(tier_export, "save_tier", lambda *args, **settings: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(str(tiny_bert), **settings)
    assert fit.steps == 4 and not (tmp_path / "tier").exists()
    weights = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    early = (EarlyStopping("validation/quality", mode="max", patience=1, min_delta=2.0),) if how == "early" else ()
    assert fit(str(tiny_bert), **{**settings, "extra": early}) == 0
    saved = load_file(tmp_path / "tier/model.safetensors")
    assert all(torch.equal(saved[key.removeprefix("network.tiers.0.model.")], value) for key, value in weights.items())
    assert is_finished(tmp_path / "tier") and card(tmp_path)["steps"] == 4


def test_a_best_checkpoint_that_is_gone_is_missed_before_the_first_step(
    tiny_bert: Path, fit: Any, tmp_path: Path
) -> None:
    assert fit(str(tiny_bert)) == 4
    (tmp_path / "checkpoints/best.ckpt").unlink()
    with pytest.raises(ValueError, match=r"`--ckpt_path` must be a checkpoint .*best\.ckpt is gone"):
        fit(str(tiny_bert), max_epochs=3)
    assert fit.steps == 0


def test_a_finished_run_can_be_continued_for_longer(tiny_bert: Path, fit: Any, tmp_path: Path) -> None:
    assert fit(str(tiny_bert)) == 4
    assert fit(str(tiny_bert), max_epochs=3) == 2 and card(tmp_path)["steps"] == 6


def test_a_run_that_was_broken_off_goes_on(tiny_bert: Path, fit: Any, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            trainer.should_stop = True

    assert fit(str(tiny_bert), extra=(Stop(),)) < 4
    assert fit(str(tiny_bert)) == 4  # there is no checkpoint yet: from the start


def test_a_tier_that_cannot_be_measured_is_saved_all_the_same(
    family: Any, fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tier_export, "compression", lambda model: 1 / 0)
    slender = Slenderise(heads=2, intermediate=5, stop=2, prunings=1, window=1)
    assert fit(family("bert", exits=True), MultiExit, extra=(slender,)) == 4
    assert "the tier is saved, but could not be measured: division by zero" in caplog.text
    assert is_finished(tmp_path / "tier") and "compression" not in card(tmp_path)
    load_tier(str(tmp_path / "tier"), "again", ["negative", "positive"])


# ---- slenderisation of encoders without fused attention, and of what only looks like a known family ----


def test_an_encoder_without_fused_attention_becomes_slender(family: Any, fit: Any, tmp_path: Path) -> None:
    folder = family("megatron-bert", exits=True)
    slender = Slenderise(heads=2, intermediate=5, embedding_rank=3, stop=2, prunings=1, window=1)
    assert fit(folder, MultiExit, extra=(slender,)) == 4
    before, after = (
        sum(v.numel() for v in load_file(Path(f) / "model.safetensors").values()) for f in (folder, tmp_path / "tier")
    )
    assert card(tmp_path)["compression"]["parameters"]["all"] == {"before": before, "after": after}
    tier = load_tier(str(tmp_path / "tier"), "again", ["negative", "positive"])
    assert tier.model.config.heads == [2] * 3 and tier.model.config.intermediate == [5] * 3


def test_what_cannot_be_cut_is_refused_before_the_first_step(family: Any, fit: Any) -> None:
    """ConvBERT's layers have the names of BERT's, but half of what its output reads comes from a convolution."""
    with pytest.raises(
        ValueError,
        match=r"`model` must be one whose heads and neurons can be removed, but ConvBert|`path` must not read padding",
    ) as error:
        fit(family("convbert", exits=True), MultiExit, extra=(Slenderise(heads=1, stop=2, prunings=1),))
    assert getattr(fit, "steps", 0) == 0 and "\n" not in str(error.value)
