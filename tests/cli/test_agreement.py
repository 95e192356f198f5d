"""Rows without labels, from fit to predict: the Super's answers stand in for them, and everything says so."""

import json

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dial.stages.parquet import load_table
from tests.cli.conftest import QUIET

NAMES = "--data.label_names=[negative, positive]"


@pytest.fixture
def texts(tmp_path) -> list[str]:
    """Arguments that name a file of texts alone."""
    file = tmp_path / "texts.csv"
    words = ("good", "bad", "film", "plot", "the")
    rows = [" ".join(words[(i + k * k) % 5] for k in range(1 + i % 7)) + f" {i}" for i in range(160)]
    file.write_text("text\n" + "".join(f"{row}\n" for row in rows))
    return ["--data=TextDataModule", f"--data.train_file={file}", "--data.label_column=null", NAMES]


def answers(folder, rows: list[str]) -> list[int]:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    return [int(model.eval()(**tokenizer(row, return_tensors="pt")).logits.argmax()) for row in rows]


@pytest.mark.slow
def test_a_student_learns_its_teacher_s_answers(dial, tiny_bert, make_tiny_bert, texts, tmp_path) -> None:
    teacher = make_tiny_bert(layers=2, labels=("negative", "positive"), seed=3)
    fit = ["fit", "--config=configs/model/finetune.yaml", *texts, f"--model.path={tiny_bert}", *QUIET]
    fit += ["--model.max_length=32", "--trainer.max_epochs=1", "--data.batch_size=8"]
    error = dial(*fit, f"--run={tmp_path}/alone").error
    assert "`--model.teacher` must name a tier whose answers stand in for labels" in error
    weights = ["--model.distillation_weight=0", f"--model.teacher={teacher}"]  # what it learns comes from labels alone
    text = dial(*fit, *weights, f"--run={tmp_path}/taught").ok()
    assert "epoch 0: validation/agreement " in text and "accuracy" not in text
    (log,) = (line for line in text.splitlines() if line.startswith("epoch 0: validation/agreement "))
    card = json.loads((tmp_path / "taught/tier/card.json").read_text())
    assert "agreement" in json.dumps(card)
    assert 0 <= float(log.split()[-1]) <= 100


def test_promises_are_of_agreement_with_the_super(dial, make_tiny_bert, texts, tmp_path) -> None:
    folders = [make_tiny_bert(layers=n, labels=("negative", "positive"), seed=n, initializer_range=1.0) for n in (1, 2)]
    tiers = f"[{folders[0]}, {folders[1]}]"
    test = ["test", "--config=configs/model/cascade.yaml", *texts, f"--model.tiers={tiers}", *QUIET]
    test += ["--data.test_fraction=0.4", "--data.calibration_fraction=0.4", "--data.min_calibration=20"]
    text = dial(*test, "--sweep.bootstrap=100", f"--run={tmp_path}/run").ok()
    assert "quality is agreement with" in text and "as rows have no labels" in text
    table = load_table(tmp_path / "run/sweep/stages.parquet")
    rows = (tmp_path / "texts.csv").read_text().splitlines()[1:]
    supers = answers(folders[1], [rows[i] for i in table.sample_id])
    assert table.label.tolist() == table.predictions[:, 1].tolist() == supers
    assert table.metrics == ("agreement",)
    summary = json.loads((tmp_path / "run/sweep/summary.json").read_text())
    swift = np.array(answers(folders[0], [rows[i] for i in table.of_split("test").sample_id]))
    quality = summary["splits"]["test"]["stages"][0]["quality"]
    assert quality == {"agreement": pytest.approx((swift == table.of_split("test").label).mean())}
    assert dial(*test, "--sweep.bootstrap=100", f"--run={tmp_path}/run").code == 0  # the same configuration again
    arguments = ["--out", f"{tmp_path}/out.jsonl", "--target", "0.9", "--device", "cpu", "--progress", "0"]
    dial("predict", f"{tmp_path}/run", f"{tmp_path}/texts.csv", *arguments).ok()
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["point"]["about"]["metric"] == "agreement"


def test_other_metrics_than_agreement_are_refused(dial, tiny_bert, texts, tmp_path) -> None:
    fit = ["fit", "--config=configs/model/finetune.yaml", *texts, f"--model.path={tiny_bert}", *QUIET]
    error = dial(*fit, "--data.metrics=[accuracy]", f"--run={tmp_path}/run").error
    assert "`metrics` must be left out where `label_column` is none" in error
