"""`dial fit`, `test`, `predict` and `validate` as a user types them."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dial.stages.parquet import load_table
from tests.cli.conftest import QUIET
from tests.cli.glue_files import sentences, write_task

OURS = {
    "ThresholdSweep",
    "TierExport",
    "PredictionWriter",
    "Resume",
    "CheapDropout",
    "TrimmedHeap",
    "ModelCheckpoint",
    "EarlyStopping",
    "LogProgress",
}


@pytest.fixture(scope="module")
def fitted(dial, fit_arguments, tmp_path_factory):
    """Run folder of a finished fit; must not be changed."""
    run = tmp_path_factory.mktemp("fitted") / "run"
    dial(*fit_arguments, f"--run={run}").ok()
    return run


def test_print_config_shows_everything_and_runs_nothing(dial, fit_arguments, tmp_path) -> None:
    text = dial(*fit_arguments, f"--run={tmp_path}/a", "--print_config").ok()
    config = yaml.safe_load(text)
    assert config["trainer"]["max_epochs"] == 2 and config["trainer"]["gradient_clip_val"] == 1.0
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == "auto"
    assert config["data"]["init_args"]["task"] == "sst2"
    assert {"sweep", "export", "predictions", "resume", "checkpoint", "early_stopping"} <= set(config)
    assert config["early_stopping"]["monitor"] == config["checkpoint"]["monitor"] == "validation/quality"
    assert not (tmp_path / "a").exists()


def test_composing_configurations_loses_no_callback(dial, fit_arguments, tmp_path) -> None:
    """Lists replace each other in jsonargparse: of two files with `trainer.callbacks` only the last one's remain."""
    for name, kind in (("first", "LearningRateMonitor"), ("second", "DeviceStatsMonitor")):
        callback = {"class_path": f"lightning.pytorch.callbacks.{kind}"}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    config = yaml.safe_load(
        dial(
            *fit_arguments, f"--config={tmp_path}/first.yaml", f"--config={tmp_path}/second.yaml", "--print_config"
        ).ok()
    )
    assert [c["class_path"].rsplit(".")[-1] for c in config["trainer"]["callbacks"]] == ["DeviceStatsMonitor"]
    witness = "--trainer.callbacks=[{class_path: tests.cli.witness_callbacks.Names}]"
    text = dial(*fit_arguments, witness, f"--run={tmp_path}/a", "--trainer.fast_dev_run=true").ok()
    names = set(re.search("CALLBACKS (.*)", text)[1].split())
    assert names >= OURS - {"ModelCheckpoint"}  # Lightning takes checkpoints out of a trial run
    text = dial(*fit_arguments, witness, f"--run={tmp_path}/b", "--trainer.max_epochs=1").ok()
    assert set(re.search("CALLBACKS (.*)", text)[1].split()) >= OURS


def test_a_fit_leaves_a_tier_that_transformers_loads(fitted) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(fitted / "tier")
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert AutoTokenizer.from_pretrained(fitted / "tier").model_max_length == 32
    card = json.loads((fitted / "tier/card.json").read_text())
    assert card["task"] == "sst2" and card["finished"] and not card["partial"] and card["steps"] == 62
    assert yaml.safe_load((fitted / "config-fit.yaml").read_text())["model"]["init_args"]["max_length"] == 32


def test_a_finished_fit_says_so_and_changes_nothing(dial, fitted, fit_arguments, snapshot) -> None:
    before = snapshot(fitted)
    (fitted / "checkpoints/previous.ckpt").touch()  # a kill after the tier was there
    text = dial(*fit_arguments, f"--run={fitted}", "--trainer.enable_model_summary=true").ok()
    assert f"{fitted} holds the finished run of this configuration" in text and "epoch" not in text
    assert snapshot(fitted) == before


@pytest.mark.parametrize("change", ["--model.warmup=0.3", "--trainer.max_epochs=3", "--data.batch_size=4"])
def test_a_folder_with_another_configuration_is_refused(dial, fitted, fit_arguments, snapshot, change) -> None:
    before = snapshot(fitted)
    error = dial(*fit_arguments, change, f"--run={fitted}").error
    key = change.split("=")[0].split(".")[-1]
    assert re.search(rf"`--run` .*another configuration: .*{key} was .* and is .*; name another folder", error)
    assert snapshot(fitted) == before


@pytest.mark.slow
def test_the_saved_configuration_runs_again(dial, fitted, tmp_path) -> None:
    dial("fit", f"--config={fitted}/config-fit.yaml", f"--run={tmp_path}/again").ok()
    again = tmp_path / "again/tier/model.safetensors"
    assert again.read_bytes() == (fitted / "tier/model.safetensors").read_bytes()
    error = dial("fit", f"--config={fitted}/config-fit.yaml", f"--run={tmp_path}/b", "--checkpoint.dirpath=x").error
    assert "`--checkpoint.dirpath` must be left out" in error


def test_predict_writes_one_tiers_predictions(dial, fitted, data_arguments, tmp_path) -> None:
    arguments = ("predict", "--model=Classifier", f"--model.path={fitted}/tier", *data_arguments, *QUIET)
    dial(*arguments, f"--run={tmp_path}/a").ok()
    lines = [json.loads(line) for line in (tmp_path / "a/predictions.jsonl").read_text().splitlines()]
    assert [line["sample_id"] for line in lines] == list(range(61))
    model = AutoModelForSequenceClassification.from_pretrained(fitted / "tier").eval()
    tokenizer = AutoTokenizer.from_pretrained(fitted / "tier")
    for line, text in list(zip(lines, sentences(61, 1)["sentence"], strict=True))[::7]:
        with torch.no_grad():
            chances = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        assert line["split"] == "test"
        assert line["label_name"] == ["negative", "positive"][line["prediction"]]
        assert line["prediction"] == int(chances.argmax())
        assert line["probabilities"]["positive"] == pytest.approx(float(chances[1]), abs=1e-5)
    assert "exists already" in dial(*arguments, f"--run={tmp_path}/a").error


@pytest.mark.slow
def test_predict_keeps_the_rows_of_both_test_sets(dial, make_tiny_bert, tmp_path) -> None:
    folder = write_task(tmp_path, "mnli", train=100, test=12)
    tier = make_tiny_bert(labels=("entailment", "neutral", "contradiction"))
    data = ("--data=GLUEDataModule", "--data.task=mnli", f"--data.source={folder}")
    dial("predict", "--model=Classifier", f"--model.path={tier}", *data, *QUIET, f"--run={tmp_path}/a").ok()
    lines = [json.loads(line) for line in (tmp_path / "a/predictions.jsonl").read_text().splitlines()]
    found = [(line["split"], line["sample_id"]) for line in lines]
    assert found == [(split, i) for split in ("test_matched", "test_mismatched") for i in range(12)]


def test_predict_of_a_cascade_is_refused(dial, test_arguments, tmp_path) -> None:
    error = dial("predict", *test_arguments[1:], f"--run={tmp_path}/a").error
    assert "`model` must be one tier" in error and "--model=Classifier" in error
    assert not list((tmp_path / "a").glob("*.jsonl")) and not (tmp_path / "a/config-predict.yaml").exists()


def test_a_checkpoint_must_not_override_what_was_typed(dial, fitted, data_arguments, fit_arguments, tmp_path) -> None:
    checkpoint = f"--ckpt_path={fitted}/checkpoints/best.ckpt"
    common = ("validate", *fit_arguments[1:], checkpoint)
    for typed in ("--model.warmup=0.3", "--model.init_args.layers=1"):
        name = typed.split("=")[0].split(".")[-1]
        error = dial(*common, typed, f"--run={tmp_path}/a").error
        assert re.search(rf"`--model\.{name}` is .*`--ckpt_path` was trained with .*leave the argument out", error)
    error = dial(*common, "--model.distillation=logits_mse", f"--run={tmp_path}/a").error
    assert "`--model.class_path` is" in error and "Distillation" in error and "`--ckpt_path` was trained with" in error
    # A value that equals the default counts as typed too: here the checkpoint has 32.
    error = dial(*common, "--model.max_length=128", f"--run={tmp_path}/a").error
    assert "`--model.max_length` is 128, but the checkpoint of `--ckpt_path` was trained with 32" in error
    dial(*common, f"--run={tmp_path}/a").ok()  # what was typed agrees
    bare = ("validate", "--model=Classifier", *data_arguments, *QUIET, checkpoint)
    dial(*bare, f"--run={tmp_path}/b").ok()  # nothing was typed
    error = dial("validate", "--config=configs/model/cascade.yaml", *data_arguments, *QUIET, checkpoint).error
    assert "class_path" in error


def test_lightning_alone_would_override_silently(fitted, fit_arguments, monkeypatch) -> None:
    """Pins the behaviour that the refusal is for; if an upgrade changes it, the refusal can go."""
    from lightning.pytorch import LightningDataModule, LightningModule
    from lightning.pytorch.cli import LightningCLI

    from dial.cli.trainer import DialCLI

    class Plain(DialCLI):
        _parse_ckpt_path = LightningCLI._parse_ckpt_path

        def before_instantiate_classes(self) -> None:
            raise InterruptedError(str(self.config.validate.model.init_args.warmup))

    arguments = [*fit_arguments[1:], "--model.warmup=0.3", f"--ckpt_path={fitted}/checkpoints/best.ckpt"]
    monkeypatch.setattr("sys.argv", ["dial", "validate", *arguments])
    with pytest.raises(InterruptedError, match=r"^0\.1$"):
        Plain(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=None,
            seed_everything_default=0,
        )


def test_early_stopping_watches_the_tasks_metric(dial, fit_arguments, tmp_path) -> None:
    still = ("--model.optimizer.init_args.lr=0.0", "--early_stopping.patience=1", "--trainer.max_epochs=9")
    text = dial(*fit_arguments, *still, f"--run={tmp_path}/a").ok()
    assert len(re.findall(r"^epoch \d+: validation/accuracy", text, flags=re.MULTILINE)) == 2
    assert json.loads((tmp_path / "a/tier/card.json").read_text())["steps"] == 62


@pytest.mark.slow
def test_a_fit_that_ran_out_of_time_is_not_finished(dial, fit_arguments, tmp_path) -> None:
    dial(*fit_arguments, "--trainer.max_time=00:00:00:00", f"--run={tmp_path}/a").ok()
    assert json.loads((tmp_path / "a/tier/card.json").read_text())["finished"] is False
    assert "tier saved" in dial(*fit_arguments, f"--run={tmp_path}/a").ok()
    assert json.loads((tmp_path / "a/tier/card.json").read_text())["finished"] is True


def test_sweep_of_the_saved_table_equals_inference(dial, test_arguments, tmp_path) -> None:
    """`dial sweep` with scores that the table does not hold, against a `dial test` that computed them."""
    dial(*test_arguments, f"--run={tmp_path}/few", "--sweep.scores=[softmax]").ok()
    dial(*test_arguments, f"--run={tmp_path}/many", "--sweep.scores=[energy,entropy]").ok()
    few, many = (load_table(tmp_path / name / "sweep/stages.parquet") for name in ("few", "many"))
    assert set(few.scores) == {"softmax", "random"} and set(many.scores) == {"energy", "entropy", "random"}
    dial("sweep", tmp_path / "few/sweep/stages.parquet", "--scores", "energy", "entropy", "--bootstrap", "100",
         "--out", tmp_path / "again").ok()  # fmt: skip
    again = load_table(tmp_path / "again/stages.parquet")
    for name in ("energy", "entropy", "random"):
        np.testing.assert_array_equal(again.scores[name], many.scores[name])
    left, right = (
        json.loads((path / "summary.json").read_text())["splits"]
        for path in (tmp_path / "again", tmp_path / "many/sweep")
    )
    assert left == right and left["test"]["rows"] == 61
