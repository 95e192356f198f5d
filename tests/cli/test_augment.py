"""`dial augment` as a user types it: the same file again in any number of processes, whole or absent, trained on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from datamodules import GLUEDataModule
from datamodules.augmentation.split_text import WORD, SplitText
from dial.cli.augment import AugmentCommand
from dial.cli.main import main
from tests.cli.glue_files import write_task


@pytest.fixture(scope="module")
def glue(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("glue")
    for task in ("sst2", "mrpc", "stsb"):
        write_task(folder, task)
    return folder


@pytest.fixture(scope="module")
def vectors(tmp_path_factory, glue) -> Path:
    """Random word vectors of the texts' words, as GloVe writes them."""
    data = GLUEDataModule("sst2", source=str(glue))
    words = sorted({word for text in data.rows("train").text for word in SplitText(text).words})
    draws = np.random.default_rng(0).normal(size=(len(words), 5))
    path = tmp_path_factory.mktemp("vectors") / "glove.txt"
    path.write_text(
        "".join(f"{word} {' '.join(f'{x:.4f}' for x in row)}\n" for word, row in zip(words, draws, strict=True))
    )
    return path


def data_of(glue: Path, task: str = "sst2") -> list[str]:
    return [f"--data=configs/data/{task}.yaml", f"--data.source={glue}"]


def augment(*words: object) -> int:
    return AugmentCommand.main([str(word) for word in words])


def test_the_same_seed_gives_the_same_file_in_any_number_of_processes(glue, vectors, tmp_path, capsys) -> None:
    common = (*data_of(glue), "--vectors", vectors, "--copies", 3)
    for name, more in (("a", ("--processes", 1)), ("b", ("--processes", 2)), ("c", ("--processes", 1, "--seed", 1))):
        assert augment(*common, *more, "--out", tmp_path / f"{name}.parquet") == 0
    a, b, c = ((tmp_path / f"{name}.parquet").read_bytes() for name in "abc")
    assert a == b != c
    rows = GLUEDataModule("sst2", source=str(glue), calibration="crossfit").rows("train")
    of_row = dict(zip(rows.sample_id.tolist(), zip(rows.text, rows.label.tolist(), strict=True), strict=True))
    stored = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert {row["source"] for row in stored} <= of_row.keys() and len(stored) > 2 * len(rows)
    for row in stored:
        text, label = of_row[row["source"]]
        assert row["label"] == ("negative", "positive")[label]
        assert row["text"] != text and len(SplitText(row["text"]).words) == len(SplitText(text).words)
    assert f"{len(stored):,} new texts of {len(rows):,} rows" in capsys.readouterr().out
    before = (tmp_path / "a.parquet").stat().st_mtime_ns
    assert augment(*common, "--out", tmp_path / "a.parquet") == 0
    assert "holds the texts of this command" in capsys.readouterr().out
    assert (tmp_path / "a.parquet").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"`--out` .* made otherwise: settings.seed was 0 and is 7; name another file"):
        augment(*common, "--seed", 7, "--out", tmp_path / "a.parquet")


def test_tang_s_way_masks_and_cuts_pairs_side_by_side(glue, tmp_path) -> None:
    out = tmp_path / "new.parquet"
    settings = ("--method", "tang", "--replacement", 0, "--masking", 0.3, "--copies", 6, "--processes", 1)
    assert augment(*data_of(glue, "mrpc"), *settings, "--out", out) == 0
    rows = GLUEDataModule("mrpc", source=str(glue)).rows("train")
    unit_of = dict(zip(rows.sample_id.tolist(), rows.units(), strict=True))
    changed = set()
    for row in pq.read_table(out).to_pylist():
        for side, name in enumerate(("text", "text_b")):
            pattern = re.escape(row[name]).replace(re.escape("[MASK]"), WORD.pattern)
            assert re.search(pattern, unit_of[row["source"]][side])
        changed.add(tuple(row[name] != unit_of[row["source"]][side] for side, name in enumerate(("text", "text_b"))))
    assert changed == {(True, False), (False, True), (True, True)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "a.csv", "--vectors", "v"], "`--out` must be a file ending in .parquet"),
        (["--out", "a.parquet"], "`--vectors` or `--masked-lm` must be given for `--method tinybert`"),
        (["--out", "a.parquet", "--method", "tang", "--vectors", "v"], "`--vectors` is for `--method tinybert`"),
        (["--out", "a.parquet", "--vectors", "v", "--probability", "1.5"], "`--probability` must be a probability"),
        (
            ["--out", "a.parquet", "--method", "tang", "--masking", "0.7", "--replacement", "0.6"],
            "must sum to 1 at most",
        ),
        (["--out", "a.parquet", "--vectors", "v", "--copies", "0"], "`--copies` must be at least 1, but got 0"),
        (["--out", "a.parquet", "--vectors", "none.txt"], "`--vectors` must be a file of word vectors"),
        (["--out", "a.parquet", "--masked-lm", "none"], "`--masked-lm` must be a masked language model"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(words, message, glue, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["augment", "--data", "GLUEDataModule", "--data.task", "sst2", "--data.source", str(glue), *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and not list(tmp_path.iterdir())


def test_data_that_cannot_be_augmented_are_refused(glue, vectors, tmp_path, tiny_bert) -> None:
    common = ("--vectors", vectors, "--out", tmp_path / "a.parquet", "--processes", 1)
    with pytest.raises(ValueError, match="`--data` must name a data set"):
        augment(*common)
    with pytest.raises(ValueError, match=r"`--data`: .*tusk.*see `dial augment --help`"):
        augment(*data_of(glue), "--data.tusk=1", *common)
    with pytest.raises(ValueError, match="`--data` must be of texts with a class or a number"):
        augment("--data=configs/data/demo_text.yaml", "--data.train_rows=50", *common)
    with pytest.raises(ValueError, match=r"`--masked-lm` must have a head"):
        augment(*data_of(glue), "--masked-lm", tiny_bert, "--out", tmp_path / "a.parquet")
    (tmp_path / "other.txt").write_text("zzz 1 2\nyyy 2 3\n")
    with pytest.raises(ValueError, match="`--data` must have texts that can be changed, but nothing new came"):
        augment(*data_of(glue), "--vectors", tmp_path / "other.txt", *common[2:])
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_what_is_interrupted_leaves_nothing(glue, vectors, tmp_path, monkeypatch) -> None:
    from datamodules.augmentation import methods

    calls = []

    def interrupted(self, prepared, generator):
        calls.append(1)
        if len(calls) > 200:
            raise KeyboardInterrupt
        return "a text"

    monkeypatch.setattr(methods.WordReplacement, "change", interrupted)
    with pytest.raises(KeyboardInterrupt):
        augment(*data_of(glue), "--vectors", vectors, "--out", tmp_path / "a.parquet", "--processes", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sst2", "stsb"])
def test_a_student_learns_from_its_teacher_s_answers_to_new_texts(
    task, dial, glue, vectors, make_tiny_bert, tmp_path
) -> None:
    names = ("LABEL_0",) if task == "stsb" else ("negative", "positive")
    teacher, student = make_tiny_bert(seed=3, labels=names), make_tiny_bert(labels=names)
    out = tmp_path / "new.parquet"
    augment(*data_of(glue, task), "--vectors", vectors, "--copies", 2, "--processes", 1, "--out", out)
    data = [*data_of(glue, task), f"--data.augmentation={out}"]
    model = ["--config=configs/model/distil.yaml", f"--model.path={student}", f"--model.teacher={teacher}"]
    short = ["--model.layers=1", "--model.max_length=32", "--model.distillation=logits_mse", "--trainer.max_steps=12"]
    text = dial("fit", *model, *data, *short, "--trainer.accelerator=cpu", f"--run={tmp_path}/run").ok()
    assert "which the teacher labels" in text
    alone = ["--config=configs/model/finetune.yaml", f"--model.path={student}", "--model.max_length=32"]
    error = dial("fit", *alone, *data, "--trainer.accelerator=cpu", f"--run={tmp_path}/alone").error
    assert "`--model.teacher` must name a tier whose answers stand in for labels, as the texts of `--data.aug" in error
    pairs = tmp_path / "pairs.parquet"
    augment(*data_of(glue, "mrpc"), "--vectors", vectors, "--copies", 2, "--processes", 1, "--out", pairs)
    other = [*data_of(glue, task), f"--data.augmentation={pairs}"]
    error = dial("fit", *model, *other, *short, "--trainer.accelerator=cpu", f"--run={tmp_path}/other").error
    assert "augmentation` must be of the labels" in error and "not_equivalent, equivalent" in error
    assert AutoTokenizer.from_pretrained(tmp_path / "run/tier") and json.loads(
        (tmp_path / "run/tier/card.json").read_text()
    )
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/tier").config.num_labels == len(names)
