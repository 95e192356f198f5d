"""jsonargparse's errors in one line, and what was typed."""

import pytest

from dial.cli.parsing import check_linked, check_order, missing_monitor, one_line, typed_arguments

UNION = """Parser key "trainer.max_epochs":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, <class 'NoneType'>]
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: abc"""
NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.core.module.LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lightning_modules.Classifier':
        Option 'bogus' is not accepted
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='bogus', val='1')"""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (UNION, "`--trainer.max_epochs`: Expected a int; got abc; see `dial fit --help`."),
        (
            NESTED,
            "`--model`: Problem with given class_path 'lightning_modules.Classifier': Option 'bogus' is not accepted; "
            "got bogus=1; see `dial fit --help`.",
        ),
        ("unrecognized arguments: --nothing=abc", "unrecognized arguments: --nothing=abc; see `dial fit --help`."),
        (
            "the following arguments are required: fit.data, fit.model",
            "the following arguments are required: --data, --model; see `dial fit --help`.",
        ),
        (
            "Parser key \"config\": File does not exist: 'no.yaml'",
            "`--config`: File does not exist: 'no.yaml'; see `dial fit --help`.",
        ),
    ],
)
def test_messages_become_one_line(message, expected) -> None:
    assert one_line(message, "fit") == expected


def test_typed_arguments_come_from_files_and_from_the_command_line(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text(
        "model: {class_path: Classifier, init_args: {layers: 2, warmup: 0.1}}\ntrainer: {}"
    )
    (tmp_path / "b.yaml").write_text("class_path: Classifier\ninit_args: {max_length: 64}")
    arguments = [
        *("-c", str(tmp_path / "a.yaml"), f"--model={tmp_path / 'b.yaml'}", "--model.optimizer.init_args.lr=1"),
        *("--model.path", "x", "--data.task=sst2", "--run=layers"),
    ]
    assert typed_arguments(arguments, "model") == ["layers", "warmup", "max_length", "optimizer", "path"]
    assert typed_arguments(arguments, "data") == ["task"]
    assert typed_arguments(["--config=none.yaml", "--model", "Classifier"], "model") == []
    assert typed_arguments([], "model") == [] and check_order([]) is None


FILE = """
model:
  class_path: Classifier
  init_args: {layers: 2, optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0}}}
trainer: {max_epochs: 5}
"""


@pytest.mark.parametrize(
    ("before", "named"),
    [
        (["--model.layers", "1"], "`--model.layers` 1 stands before `--config` .*, which sets it to 2"),
        (["--model.init_args.layers=3"], "`--model.init_args.layers` 3"),
        (["--model.optimizer.lr=2"], "`--model.optimizer.lr` 2 .* sets it to 1.0"),
        (["--model.optimizer.init_args.lr", "2"], "`--model.optimizer.init_args.lr` 2"),
        (["--model=MultiExit"], "`--model` MultiExit .* sets it to Classifier"),
        (["--model.optimizer=torch.optim.SGD"], "`--model.optimizer` torch.optim.SGD"),
        (["--trainer.max_epochs", "1"], "`--trainer.max_epochs` 1"),
        (["--model.layers=2", "--trainer.max_epochs=5", "--model=Classifier"], None),
        (["--model.warmup=0.3", "--data=x.yaml", "--run=model"], None),
        (["--model.optimizer=AdamW"], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["--config={}", "-c {}"])
def test_what_comes_later_does_not_win_unnoticed(tmp_path, before, named, form) -> None:
    (tmp_path / "a.yaml").write_text(FILE)
    config = form.format(tmp_path / "a.yaml").split()
    check_order([*config, *before])
    if named is None:
        check_order([*before, *config])
        return
    with pytest.raises(ValueError, match=named) as error:
        check_order([*before, *config])
    assert "put `--config` first" in str(error.value)


@pytest.mark.parametrize("typed", [["--model.metrics", "[bleu]"], ["--model.init_args.label_names=[a, b]"]])
def test_what_the_data_says_is_not_taken_from_the_model_without_a_word(typed) -> None:
    name = "metrics" if "metrics" in typed[0] else "label_names"
    with pytest.raises(ValueError, match=rf"^`--model\.\S*{name}` is what the data says.*set `--data\.{name}`\.$"):
        check_linked(typed, ["label_names", "metrics"])
    check_linked([f"--data.{name}=x", "--model.init_args.path", "x"], ["label_names", "metrics"])


def test_no_metric_at_all_and_no_such_metric() -> None:
    words = "Early stopping conditioned on metric `{}` which is not available. Pass in or modify your `EarlyStopping` "
    words += "callback to use any of the following: `train/loss`"
    assert "`--trainer.limit_val_batches` must leave" in missing_monitor(words.format("validation/quality"))
    text = missing_monitor(words.format("f") + ", `validation/accuracy`")
    assert text == "`--early_stopping.monitor` must be one of train/loss, validation/accuracy, but got 'f'."
