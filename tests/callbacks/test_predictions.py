"""Predictions of one tier in a file; the command itself is tested in tests/dial."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from callbacks import PredictionWriter
from datamodules import TextDataModule
from dial.stages.task import task_of
from lightning_modules import Classifier


@pytest.fixture
def predict(tiny_bert, tmp_path):
    """Function: predict rows without labels into a file; gives its lines."""
    rows = [{"text": f"a {'good' if i % 2 else 'bad'} film {i}"} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(path: Path, names: tuple[str, str] = ("negative", "positive"), bias: float = 0.0, **settings) -> list[dict]:
        data = TextDataModule(
            test_file=str(tmp_path / "rows.jsonl"),
            label_column=None,
            label_names=list(names),
            batch_size=4,
            cache_dir=str(tmp_path),
        )
        trainer = Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, callbacks=[PredictionWriter(str(path))], **settings,
        )  # fmt: skip
        model = Classifier(path=str(tiny_bert), max_length=32, label_names=list(names))
        with torch.no_grad():
            model.tier.model.classifier.bias += bias
        trainer.predict(model, datamodule=data, return_predictions=False)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    return run


def test_rows_without_labels_are_predicted_in_the_order_of_the_file(predict, tmp_path) -> None:
    lines = predict(tmp_path / "a.jsonl")
    assert [line["sample_id"] for line in lines] == list(range(9))
    assert {line["label_name"] for line in lines} <= {"negative", "positive"}
    assert not any("partial" in line for line in lines)


def test_an_answer_that_is_not_finite_names_the_row(predict, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"`model` must give finite logits, but it does not for test row \d+"):
        predict(tmp_path / "a.jsonl", bias=float("nan"))
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize(
    "trial", [{"fast_dev_run": True}, {"limit_predict_batches": 1}, {"limit_predict_batches": 0.5}]
)
def test_a_trial_is_marked_and_gives_way_but_a_whole_file_does_not(predict, tmp_path, trial) -> None:
    path = tmp_path / "a.jsonl"
    lines = predict(path, **trial)
    assert 0 < len(lines) < 9 and all(line["partial"] is True for line in lines)
    assert len(predict(path)) == 9
    before = path.read_bytes()
    for settings in ({}, trial):
        with pytest.raises(ValueError, match=r"`predictions.path` .*a.jsonl exists already; name another file"):
            predict(path, **settings)
    assert path.read_bytes() == before
    path.write_text("no predictions\n")
    with pytest.raises(ValueError, match="exists already"):
        predict(path)


def test_answers_of_classifiers_and_regressors() -> None:
    found = task_of(["no", "yes"]).record(np.array([0.0, 2.0]))
    assert (found["prediction"], found["label_name"]) == (1, "yes")
    assert found["probabilities"]["yes"] == pytest.approx(1 / (1 + 2.718281828459045**-2))
    assert task_of([]).record(np.array([2.5])) == {"prediction": 2.5}
