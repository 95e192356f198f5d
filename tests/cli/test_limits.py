"""Numbers that leave nothing to train, seeds, and what a configuration file would override: refused by name."""

import re

import pytest
from jsonargparse import Namespace

from dial.cli.parsing import check_limits

GOOD = {
    "trainer": {
        "max_epochs": None, "max_steps": -1, "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1,
        "gradient_clip_val": None, "limit_train_batches": None, "val_check_interval": None,
    },
    "early_stopping": {"patience": 3},
}  # fmt: skip


def config(name: str, value: object) -> Namespace:
    made = Namespace(**{group: Namespace(**values) for group, values in GOOD.items()})
    made[name] = value
    return made


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trainer.max_epochs", -1), ("trainer.max_epochs", 1), ("trainer.max_steps", 7), ("trainer.max_steps", -1),
        ("trainer.val_check_interval", 0.25), ("trainer.val_check_interval", "00:00:10:00"),
        ("trainer.gradient_clip_val", 0), ("trainer.limit_train_batches", 1), ("early_stopping.patience", 0),
        ("trainer.check_val_every_n_epoch", None),
    ],
)  # fmt: skip
def test_numbers_that_mean_something(name, value) -> None:
    check_limits(config(name, value))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("trainer.max_epochs", 0, "at least 1, or -1 for no limit"),
        ("trainer.max_epochs", -2, "at least 1, or -1 for no limit"),
        ("trainer.max_steps", 0, "at least 1, or -1 for no limit"),
        ("trainer.accumulate_grad_batches", 0, "at least 1"),
        ("trainer.check_val_every_n_epoch", 0, "at least 1"),
        ("trainer.gradient_clip_val", -0.5, "at least 0"),
        ("trainer.gradient_clip_val", float("nan"), "at least 0"),
        ("trainer.limit_train_batches", 0, "above 0"),
        ("trainer.val_check_interval", 0, "above 0"),
        ("early_stopping.patience", -1, "at least 0"),
    ],
)
def test_numbers_that_mean_nothing(name, value, allowed) -> None:
    with pytest.raises(ValueError, match=rf"^`--{name}` must be {allowed}, but got {value}\.$"):
        check_limits(config(name, value))


BAD = [
    ("--seed_everything=-1", r"`--seed_everything` must be a number from 0 to 4294967295, but got -1"),
    ("--data.seed=-1", r"`seed` must be a whole number from 0"),
    ("--trainer.max_steps=0", r"`--trainer\.max_steps` must be at least 1"),
    (
        "--model.max_length=0",
        r"`max_length` must be at least 3, as 2 are special tokens, but got 0|`max_length` must be",
    ),
    ("--model.max_length=2", r"`max_length` must be at least 3, as 2 are special tokens, but got 2"),
    ("--trainer.limit_val_batches=0", r"`--trainer\.limit_val_batches` must leave validation rows"),
    ("--ckpt_path=README.md", r"`--ckpt_path` must be a whole checkpoint of `dial fit`, but README\.md is none"),
]


@pytest.mark.parametrize(("argument", "message"), BAD, ids=[argument for argument, _ in BAD])
def test_the_command_refuses_at_once(dial, fit_arguments, tmp_path, argument, message) -> None:
    done = dial(*fit_arguments, argument, f"--run={tmp_path}/a")
    assert re.search(message, done.error) and "epoch 0" not in done.output


def test_what_stands_before_a_configuration_file(dial, fit_arguments) -> None:
    error = dial("fit", "--model=Classifier", "--model.max_length=64", *fit_arguments[1:]).error
    assert "`--model.max_length` 64 stands before `--config` configs/model/finetune.yaml, which sets it to 128" in error


def test_fewer_steps_than_an_epoch_has(dial, fit_arguments, tmp_path) -> None:
    text = dial(*fit_arguments, "--trainer.max_steps=3", f"--run={tmp_path}/a").ok()
    assert "epoch 0: validation/accuracy" in text and "tier saved to" in text


def test_early_stopping_says_so_and_knows_its_metric(dial, fit_arguments, tmp_path) -> None:
    still = ("--model.optimizer.init_args.lr=0.0", "--early_stopping.patience=1", "--trainer.max_epochs=9")
    text = dial(*fit_arguments, *still, f"--run={tmp_path}/a").ok()
    assert "early stopping in epoch 1, after step 62: " in text
    error = dial(*fit_arguments, "--early_stopping.monitor=foo", f"--run={tmp_path}/b").error
    assert "`--early_stopping.monitor` must be one of train/loss, validation/accuracy, validation/quality" in error
    assert "got 'foo'" in error
