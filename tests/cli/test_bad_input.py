"""Bad input: one line that names argument, allowed, got and remedy; exit code 2; earlier results untouched."""

import json
import re
import shutil

import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests.cli.conftest import QUIET
from tests.models.families import classifier

FIT = [
    ("--data.task=foo", r"`task` must be one of cola, sst2.*'foo'"),
    ("--data.source=/nowhere", r"`source` must be 'hub' or a folder.*'/nowhere'"),
    ("--data.source=hub", r"`source` is 'hub', but .*could not be read.*give a folder"),
    ("--model.path=nobody/nothing", r"`path` must be a folder or the id.*nobody/nothing.*check name and connection"),
    ("--model.teacher=/nowhere", r"`teacher` must be an existing folder.*/nowhere"),
    ("--model.warmup=2.0", r"`warmup` must lie between 0 and 1, but got 2\.0"),
    ("--model.distillation=foo", r"`--model`.*distillation.*see `dial fit --help`"),
    ("--model.config={model_type: bert}", r"`path`.*`config`.*exactly one"),
    ("--model.tokenizer=words", r"`tokenizer`.*for a model from `config`"),
    ("--model.layers=9", r"`path`: `layers` must be from 1 to 2, but got 9; `--model.layers`"),
    ("--model.bogus=1", r"`--model`.*'bogus' is not accepted"),
    ("--trainer.max_epochs=abc", r"`--trainer\.max_epochs`: Expected a int; got abc"),
    ("--nothing=1", r"unrecognized arguments: --nothing=1"),
    ("--config=none.yaml", r"`--config`: File does not exist"),
    ("--resume.every_n_steps=0", r"`resume\.every_n_steps` must be at least 1, but got 0"),
    ("--trainer.accelerator=gpu", r"gpu"),
]
TEST = [
    ("--sweep.scores=[foo]", r"`sweep\.scores`.*energy, energy_released.*'foo'"),
    ("--sweep.length=0", r"`sweep\.length`.*got 0"),
    ("--sweep.reference=foo", r"`sweep\.reference`.*swift.*super.*'foo'"),
    ("--sweep.budgets=[4e9flip]", r"`sweep\.budgets` must be MACs such as 2e9.*'4e9flip'"),
    ("--model.names=[a, a]", r"`names` must give each of the 2 tiers a name of its own"),
    (
        "--data.calibration_fraction=0.02",
        r"`calibration` needs at least 50 rows, but got \d+.*--data.calibration crossfit",
    ),
]


@pytest.fixture
def untouched(tmp_path, snapshot):
    """Function that runs a refused command on a folder with earlier results and gives its error.

    With `trial` the earlier sweep is one of a trial run, which does not stop another from starting.
    """
    earlier = tmp_path / "run"
    earlier.mkdir()
    (earlier / "tier").mkdir()
    (earlier / "tier/card.json").write_text('{"finished": true}')
    (earlier / "sweep").mkdir()

    def results() -> dict[str, bytes]:
        return {name: content for name, content in snapshot(earlier).items() if "logs/" not in name}

    def run(dial, *arguments, fault=None, trial=False) -> str:
        sweep = {"partial": trial, "configuration": "earlier"}
        (earlier / "sweep/summary.json").write_text(json.dumps(sweep))
        before = results()
        error = dial(*arguments, f"--run={earlier}", fault=fault).error
        assert results() == before
        return error

    return run


@pytest.mark.parametrize(("argument", "message"), FIT, ids=[argument.split("=")[0] for argument, _ in FIT])
def test_fit(dial, fit_arguments, untouched, argument, message) -> None:
    assert re.search(message, untouched(dial, *fit_arguments, argument))


@pytest.mark.parametrize(("argument", "message"), TEST, ids=[argument.split("=")[0] for argument, _ in TEST])
def test_test(dial, test_arguments, untouched, argument, message) -> None:
    assert re.search(message, untouched(dial, *test_arguments, argument))


def test_nothing_given(dial) -> None:
    assert "required: --data, --model" in dial("fit").error


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("a", "b", "c"), r"`tiers\[1\]` must have the data's 2 labels \(negative, positive\).* has 3"),
        (("score",), r"`tiers\[1\]` must have the data's 2 labels.* has 1"),
        (("good", "bad"), r"`tiers\[1\]` must have the data's labels negative, positive.*good, bad.*`label_names`"),
    ],
)
def test_labels_of_a_tier(dial, test_arguments, make_tiny_bert, untouched, labels, message) -> None:
    tiers = f"--model.tiers=[{make_tiny_bert(layers=1, seed=1)}, {make_tiny_bert(labels=labels)}]"
    assert re.search(message, untouched(dial, *test_arguments, tiers))


@pytest.mark.parametrize(("file", "what"), [("model.safetensors", "weights"), ("tokenizer.json", "a tokenizer")])
def test_a_tier_without_weights_or_tokenizer(dial, test_arguments, make_tiny_bert, untouched, file, what) -> None:
    folder = make_tiny_bert(layers=1, seed=8)
    (folder / file).unlink()
    error = untouched(dial, *test_arguments, f"--model.tiers=[{folder}, {make_tiny_bert(layers=1, seed=1)}]")
    assert re.search(rf"`tiers\[0\]` must be a folder with {what} .*give a folder left by `dial fit`", error)


def test_a_model_whose_work_cannot_be_counted(dial, fit_arguments, data_arguments, tiny_tokenizer, tmp_path) -> None:
    """Refused before a text is read: FNet's Fourier transform has no cost."""
    names = {"negative": 0, "positive": 1}
    model = classifier("fnet", num_labels=2, id2label={i: name for name, i in names.items()}, label2id=names)
    model.save_pretrained(tmp_path / "fnet")
    tiny_tokenizer.save_pretrained(tmp_path / "fnet")
    test = ("test", "--model=Classifier", *data_arguments, *QUIET)
    for arguments in (fit_arguments, test):
        done = dial(*arguments, f"--model.path={tmp_path}/fnet", f"--run={tmp_path}/run")
        assert re.search(r"`model` must be .*aten::fft_fftn\. Add a handle to HANDLES.*take another model", done.error)
        assert arguments is test or "rows" not in done.output
    assert not (tmp_path / "run/tier").exists() and not (tmp_path / "run/sweep").exists()


def broken(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    model.save_pretrained(folder)
    return folder


def test_logits_that_are_not_finite(dial, test_arguments, data_arguments, make_tiny_bert, untouched) -> None:
    nan = broken(make_tiny_bert(layers=1, seed=9))
    tiers = f"--model.tiers=[{make_tiny_bert(layers=1, seed=1)}, {nan}]"
    error = untouched(dial, *test_arguments, tiers, trial=True)
    assert re.search(r"`tiers\[1\]` must give finite outputs, but BertForSequenceClassification in .* does not", error)
    one = ("--model=Classifier", f"--model.path={nan}", *data_arguments, *QUIET)
    for command in ("validate", "predict"):
        assert re.search(r"`path` must give finite outputs, but .*check its weights", untouched(dial, command, *one))


def test_an_untrained_head_gives_no_results(dial, data_arguments, untouched) -> None:
    common = ("--config=configs/model/demo_super.yaml", *data_arguments, *QUIET)
    for command in ("test", "validate", "predict"):
        error = untouched(dial, command, *common, trial=True)
        assert re.search(r"`--ckpt_path` must name a checkpoint.*untrained", error)


@pytest.mark.parametrize("content", [b"abc", "objects"], ids=str)
def test_a_checkpoint_that_is_none(dial, fit_arguments, tmp_path, content) -> None:
    path = tmp_path / "bad.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"state_dict": json.JSONDecoder} if content == "objects" else content, path)
    error = dial(*fit_arguments, f"--ckpt_path={path}", f"--run={tmp_path}/new").error
    assert re.search(rf"`--ckpt_path` must be a (whole )?checkpoint of `dial fit`, but {path} is .*none: ", error)
    assert "weights_only" not in error and "\n" not in error.strip() and not (tmp_path / "new").exists()


def test_a_cascade_is_not_trained(dial, test_arguments, untouched) -> None:
    assert "`Cascade` is not trained: fit each tier" in untouched(dial, "fit", *test_arguments[1:-4], *QUIET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda train: train.drop(columns="label"), r"`source` must have the column 'label', but .*'sentence'"),
        (lambda train: train.assign(label=7), r"label.*7"),
        (lambda train: train.assign(label=1), r"two classes|more than one class"),
    ],
    ids=["missing column", "label outside the range", "one class"],
)
def test_data_files(dial, test_arguments, glue_folder, tmp_path, untouched, change, message) -> None:
    folder = tmp_path / "data"
    shutil.copytree(glue_folder, folder)
    change(pd.read_parquet(folder / "sst2/train.parquet")).to_parquet(folder / "sst2/train.parquet")
    assert re.search(message, untouched(dial, *test_arguments, f"--data.source={folder}"))


def test_a_missing_split(dial, test_arguments, glue_folder, tmp_path, untouched) -> None:
    folder = tmp_path / "data"
    shutil.copytree(glue_folder, folder)
    (folder / "sst2/validation.parquet").unlink()
    assert re.search(
        r"`source` must have a file validation", untouched(dial, *test_arguments, f"--data.source={folder}")
    )


@pytest.mark.slow
def test_texts_that_are_empty_or_too_long_work_and_are_counted(dial, test_arguments, glue_folder, tmp_path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(glue_folder, folder)
    test = pd.read_parquet(folder / "sst2/validation.parquet")
    test.loc[0, "sentence"], test.loc[1, "sentence"] = "", "good " * 100
    test.to_parquet(folder / "sst2/validation.parquet")
    text = dial(*test_arguments, f"--data.source={folder}", f"--run={tmp_path}/a").ok()
    assert re.search(r"test: 1 of 61 rows exceed 32 tokens and are truncated", text)
    summary = json.loads((tmp_path / "a/sweep/summary.json").read_text())
    assert list(summary["table"]["truncated"]["test"].values()) == [1]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["stages.parquet", "curve.png", "summary.json"])
def test_a_full_disk_leaves_no_half_file(dial, test_arguments, tmp_path, snapshot, file) -> None:
    done = dial(*test_arguments, f"--run={tmp_path}/a", fault=f"enospc:{file}")
    assert "No space left on device" in done.error
    left = snapshot(tmp_path / "a")
    assert f"sweep/{file}" not in left and "sweep/summary.json" not in left
    assert not [name for name in left if ".part" in name]
    assert "config-test.yaml" not in left
    dial(*test_arguments, f"--run={tmp_path}/a").ok()  # nothing stands in the way of another try


@pytest.mark.slow
def test_partial_runs(dial, fit_arguments, test_arguments, tmp_path, snapshot) -> None:
    """Trial runs are marked, check no sizes, give way to whole ones, and do not replace them."""
    few = ("--data.calibration_fraction=0.02", "--trainer.limit_test_batches=1")
    dial(*test_arguments, *few, f"--run={tmp_path}/a").ok()
    assert json.loads((tmp_path / "a/sweep/summary.json").read_text())["partial"] is True
    assert not (tmp_path / "a/config-test.yaml").exists()
    dial(*test_arguments, f"--run={tmp_path}/a").ok()
    assert json.loads((tmp_path / "a/sweep/summary.json").read_text())["partial"] is False
    before = snapshot(tmp_path / "a/sweep")
    assert "whole results" in dial(*test_arguments, f"--run={tmp_path}/a", "--trainer.fast_dev_run=true").error
    assert snapshot(tmp_path / "a/sweep") == before
    dial(*fit_arguments, "--trainer.limit_train_batches=1", f"--run={tmp_path}/b").ok()
    assert json.loads((tmp_path / "b/tier/card.json").read_text())["partial"] is True
    error = dial(*fit_arguments, "--trainer.limit_val_batches=0", f"--run={tmp_path}/c").error
    assert "`--trainer.limit_val_batches` must leave validation rows" in error
