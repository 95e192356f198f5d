"""`dial fit` without a length and a rate says what it chose; what is typed wins; a killed run keeps it."""

import json
import re

import pytest
import torch
import yaml

from tests.cli.conftest import QUIET
from tests.cli.test_resume import assert_equal_runs


@pytest.fixture(scope="module")
def plain(tiny_bert, data_arguments) -> list[str]:
    """31 batches an epoch; two passes a validation make 186 steps."""
    return [
        *("fit", "--config=configs/model/finetune.yaml", *data_arguments, f"--model.path={tiny_bert}"),
        *("--data.batch_size=8", "--model.max_length=32", "--length.min_steps=150", *QUIET),
    ]


def said(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("fit: ")]
    return line


def test_the_choice_is_said_and_kept(dial, plain, tmp_path) -> None:
    text = dial(*plain, f"--run={tmp_path}/a").ok()
    rows = json.loads((tmp_path / "a/tier/card.json").read_text())["train_rows"]
    batches = -(-rows // 8)
    steps = 6 * batches
    assert 3 * batches < 150 <= steps
    width = yaml.safe_load((tmp_path / "a/tier/config.json").read_text())["hidden_size"]
    assert said(text) == (
        f"fit: {rows} rows, 8 a step, {steps} steps (6 epochs of {batches}, validated every 2; by rows, else "
        f"--trainer.max_epochs), warm-up over 10 %, learning rate 0.0003 (by width {width}, else "
        "--model.optimizer.init_args.lr)"
    )
    assert re.findall(r"^epoch (\d+): ", text, flags=re.MULTILINE) == ["1", "3", "5"]  # progress has other lines
    checkpoint = torch.load(tmp_path / "a/checkpoints/last.ckpt", weights_only=True)
    card = json.loads((tmp_path / "a/tier/card.json").read_text())
    assert checkpoint["global_step"] == card["steps"] == steps
    assert card["fit"] == checkpoint["fit"]
    assert card["fit"] == {
        "train_rows": rows, "rows_per_step": 8, "steps": steps, "steps_of_epoch": batches, "warmup": 0.1,
        "learning_rate": 3e-4, "width": width,
    }  # fmt: skip
    kept = yaml.safe_load((tmp_path / "a/config-fit.yaml").read_text())
    assert kept["trainer"].get("max_epochs") is None and kept["length"]["min_steps"] == 150
    assert kept["model"]["init_args"]["optimizer"]["init_args"]["lr"] == "auto"
    assert "holds the finished run" in dial(*plain, f"--run={tmp_path}/a").ok()


def test_what_is_typed_wins(dial, plain, tmp_path) -> None:
    typed = ("--trainer.max_epochs=1", "--model.optimizer.init_args.lr=0.002", "--data.batch_size=16")
    line = said(dial(*plain, *typed, f"--run={tmp_path}/a").ok())
    checkpoint = torch.load(tmp_path / "a/checkpoints/last.ckpt", weights_only=True)
    assert {group["initial_lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]} == {0.002}
    assert "16 a step" in line and "(1 epoch)" in line and line.endswith("learning rate 0.002")
    assert "length" not in yaml.safe_load((tmp_path / "a/config-fit.yaml").read_text())
    line = said(dial(*plain, "--trainer.max_steps=5", "--model.warmup=0", f"--run={tmp_path}/b").ok())
    assert "5 steps" in line and "warm-up over 0 %" in line


def test_another_optimiser_has_its_own_rate(dial, plain, tmp_path) -> None:
    typed = ("--model.optimizer=torch.optim.AdamW", "--model.optimizer.init_args.lr=5e-5", "--trainer.max_epochs=1")
    assert said(dial(*plain, *typed, f"--run={tmp_path}/a").ok()).endswith("learning rate 5e-05")
    kept = yaml.safe_load((tmp_path / "a/config-fit.yaml").read_text())["model"]["init_args"]["optimizer"]
    assert kept["class_path"] == "torch.optim.AdamW"
    settings = {"lr": 5e-5, "weight_decay": 0.01, "fused": True, "betas": [0.9, 0.999], "eps": 1e-8}
    assert {name: kept["init_args"][name] for name in settings} == settings


@pytest.mark.slow
def test_a_killed_run_keeps_its_length_and_rate(dial, plain, tmp_path) -> None:
    common = [*plain, "--resume.every_n_steps=5"]
    dial(*common, f"--run={tmp_path}/whole").ok()
    for place in ("training_step:20", "training_step:93", "training_step:130"):
        run = tmp_path / place.replace(":", "-")
        assert dial(*common, f"--run={run}", fault=place).code == -9
        assert "learning rate 0.0003" in said(dial(*common, f"--run={run}").ok())
        assert_equal_runs(tmp_path / "whole", run)
