"""A fit, half-done or finished, notices rows and models that changed under the same path, and no other spelling."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from callbacks.resume import check_rows, trained_rows
from datamodules import TextDataModule
from dial.claims import contents, place
from dial.cli.run_folder import Finished, check_inputs, check_models, model_contents, read_inputs, write_inputs
from tests.cli.conftest import ROOT

TEXTS = [f"text {row}" for row in range(200)]
LABELS = ["good" if row % 3 else "bad" for row in range(200)]


def write(path: Path, texts: list[str] = TEXTS, labels: list[str] = LABELS) -> Path:
    pd.DataFrame({"text": texts, "label": labels}).to_csv(path, index=False)
    return path


def data_of(path: Path, **more: Any) -> TextDataModule:
    return TextDataModule(train_file=str(path), **more)


def test_the_record_is_plain_and_tells_each_role(tmp_path) -> None:
    record = trained_rows(data_of(write(tmp_path / "a.csv")))
    assert json.loads(json.dumps(record)) == record
    assert record["label_names"] == ["bad", "good"]
    assert record["train"]["rows"] + record["validation"]["rows"] < 200  # calibration rows are the rest
    check_rows(record, data_of(tmp_path / "a.csv"), "x")
    check_rows({}, data_of(tmp_path / "a.csv"), "x")
    assert trained_rows(None) == {}


def swapped(labels: list[str]) -> list[str]:
    return ["bad" if label == "good" else "good" for label in labels]


CHANGES = {
    "one text": (["TEXT 0", *TEXTS[1:]], LABELS),
    "all labels": (TEXTS, swapped(LABELS)),
    "one label": (TEXTS, [*swapped(LABELS[:1]), *LABELS[1:]]),
    "one row less": (TEXTS[1:], LABELS[1:]),
    "another order": (TEXTS[::-1], LABELS[::-1]),
    "names of classes": (TEXTS, [f"very {label}" for label in LABELS]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_told(tmp_path, change) -> None:
    record = trained_rows(data_of(write(tmp_path / "a.csv")))
    with pytest.raises(ValueError, match=r"^`--run` x was trained on other data: .*restore the data, or name") as error:
        check_rows(record, data_of(write(tmp_path / "a.csv", *CHANGES[change])), "`--run` x")
    assert "\n" not in str(error.value)


def test_rows_that_are_not_trained_on_may_change(tmp_path) -> None:
    train, test = write(tmp_path / "a.csv"), write(tmp_path / "test.csv", TEXTS[:20], LABELS[:20])
    record = trained_rows(data_of(train, test_file=str(test)))
    write(test, TEXTS[:20], LABELS[20:40])
    check_rows(record, data_of(train, test_file=str(test)), "x")


def finished_run(folder: Path, train: Path) -> dict[str, Any]:
    """A folder as a finished fit leaves it, as far as it is looked at, and its configuration."""
    config = {
        "model": {"class_path": "Classifier", "init_args": {"path": str(folder / "model"), "layers": 2}},
        "data": {"class_path": "datamodules.TextDataModule", "init_args": {"train_file": str(train)}},
    }
    (folder / "tier").mkdir(parents=True)
    (folder / "tier/card.json").write_text('{"finished": true}')
    (folder / "model").mkdir()
    (folder / "model/model.safetensors").write_bytes(b"weights")
    write_inputs(folder, "fit", trained_rows(data_of(train)), model_contents(config))
    return config


def test_a_finished_run_compares_rows_and_models(tmp_path) -> None:
    train = write(tmp_path / "a.csv")
    config = finished_run(tmp_path / "run", train)
    with pytest.raises(Finished, match="finished run of this configuration"):
        check_inputs(tmp_path / "run", config)
    write(train, TEXTS, swapped(LABELS))
    with pytest.raises(ValueError, match=r"`--run` .*the train rows are others \(\d+ then, \d+ now\)"):
        check_inputs(tmp_path / "run", config)
    train.unlink()
    with pytest.raises(Finished, match=r"its data cannot be compared .*must be a file that exists"):
        check_inputs(tmp_path / "run", config)
    write(train)
    (tmp_path / "run/model/model.safetensors").write_bytes(b"others")
    with pytest.raises(ValueError, match=r"other contents of `--model\.path`, which has changed since"):
        check_inputs(tmp_path / "run", config)
    shutil.rmtree(tmp_path / "run/model")
    with pytest.raises(Finished):
        check_inputs(tmp_path / "run", config)


def test_a_search_for_lengths_changes_only_what_takes_its_share(tmp_path) -> None:
    tier, run = tmp_path / "tier", tmp_path / "run"
    tier.mkdir()
    (tier / "model.safetensors").write_bytes(b"weights")
    (tier / "lengths.json").write_text("one search")
    for teacher, told in ((str(tier), False), ({"path": str(tier), "lengths": [0.5]}, False),
                          ({"path": str(tier), "lengths": 0.5}, True)):  # fmt: skip
        config = {"model": {"class_path": "Distillation", "init_args": {"teacher": teacher}}}
        before = model_contents(config)
        (tier / "lengths.json").write_text(f"another search {teacher}")
        if not told:
            check_models(before, model_contents(config), run)
            continue
        with pytest.raises(ValueError, match=r"other contents of `--model\.teacher\.lengths`, which has changed since"):
            check_models(before, model_contents(config), run)


def test_a_run_that_noted_nothing_is_told_by_its_card(tmp_path) -> None:
    train = write(tmp_path / "a.csv")
    config = finished_run(tmp_path / "run", train)
    (tmp_path / "run/inputs-fit.json").unlink()
    data = data_of(train)
    card = {
        "finished": True,
        "train_fingerprint": data.fingerprint("train"),
        "train_rows": 7,
        "label_names": ["bad", "good"],
    }
    (tmp_path / "run/tier/card.json").write_text(json.dumps(card))
    check = {**card, "train_rows": len(data.rows("train"))}
    (tmp_path / "run/tier/card.json").write_text(json.dumps(check))
    with pytest.raises(Finished):
        check_inputs(tmp_path / "run", config)
    write(train, TEXTS, swapped(LABELS))
    with pytest.raises(ValueError, match="train rows are others"):
        check_inputs(tmp_path / "run", config)


def test_contents_of_a_model(tmp_path) -> None:
    for name, text in (("config.json", "{}"), ("model.safetensors", "weights"), ("card.json", "1"), ("README.md", "a")):
        (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    for name in ("card.json", "README.md"):
        (tmp_path / name).write_text("changed")
        assert contents(tmp_path) == before
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("changed")
        assert contents(tmp_path) != before
        before = contents(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert contents(tmp_path) != before
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("a 1")
    config = {
        "model": {"init_args": {"embeddings": str(vectors), "layers": 2, "teacher": {"path": str(tmp_path)}, "x": None}}
    }
    found = model_contents(config)
    assert set(found) == {"model.embeddings", "model.teacher.path"}
    vectors.write_text("a 2")
    with pytest.raises(ValueError, match=r"`--model\.embeddings`"):
        check_models(found, model_contents(config), Path("x"))


@pytest.mark.parametrize("text", ["", "no such file", "x" * 5000, "~nobody-of-that-name/x", "a\0b", None, 3])
def test_no_place(tmp_path, text) -> None:
    assert place(text, tmp_path) is None


def test_a_damaged_note_is_named(tmp_path) -> None:
    (tmp_path / "inputs-fit.json").write_text("{")
    with pytest.raises(ValueError, match=r"`--run`.*inputs-fit\.json is damaged"):
        read_inputs(tmp_path, "fit")


def test_the_command_notices_and_goes_on(dial, fit_arguments, glue_folder, tmp_path) -> None:
    """From the kill to the finished run, with another spelling of each path on the way."""
    folder, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(glue_folder, folder)
    file = folder / "sst2/train.parquet"
    rows, kept = pd.read_parquet(file), file.read_bytes()
    arguments = [a for a in fit_arguments if not a.startswith("--data.source")]
    common = [*arguments, "--resume.every_n_steps=10", f"--run={run}"]
    assert dial(*common, f"--data.source={folder}", fault="training_step:25").code == -9
    rows.assign(label=1 - rows.label).to_parquet(file)
    error = dial(*common, f"--data.source={folder}").error
    assert re.search(r"`--run` .* was trained on other data: the train rows are others \(\d+ then, \d+ now\)", error)
    file.write_bytes(kept)
    (tmp_path / "link").symlink_to(folder)
    relative = os.path.relpath(folder, ROOT)
    text = dial(*common, f"--data.source={relative}/").ok()
    assert "resuming from" in text and "tier saved to" in text
    (run / "checkpoints/last.ckpt").unlink()  # nobody needs it any more
    assert "finished run" in dial(*common, f"--data.source={tmp_path}/link").ok()
    rows.assign(sentence=rows.sentence + " x").to_parquet(file)
    error = dial(*common, f"--data.source={folder}").error
    assert f"`--run` {run} was trained on other data" in error and "remove that one" in error
