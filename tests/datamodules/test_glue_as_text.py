"""GLUE as text: T5's forms, the rows of the plain module in every role, numbers for STS-B."""

from pathlib import Path

import numpy as np
import pytest

from datamodules import GLUEAsTextDataModule, GLUEDataModule
from datamodules.glue import TASKS
from datamodules.t5_forms import benchmark_source
from dial.stages.task import task_of
from tests.cli.glue_files import write_task


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_those_of_the_plain_module_in_words(tmp_path: Path, task: str) -> None:
    folder = str(write_task(tmp_path, task, train=200))
    plain, text = GLUEDataModule(task, source=folder), GLUEAsTextDataModule(task, source=folder)
    assert plain.label_names == text.label_names and plain.metrics == text.metrics
    assert plain.test_roles() == text.test_roles()
    for role in ("train", "validation", "calibration", *plain.test_roles()):
        one, other = plain.rows(role), text.rows(role)
        assert one.sample_id.tolist() == other.sample_id.tolist()
        np.testing.assert_array_equal(one.label, other.label)
        units = [dict(zip(TASKS[task].columns, unit, strict=True)) for unit in one.units()]
        assert other.sources == [benchmark_source(task, unit) for unit in units]


@pytest.mark.parametrize("task", TASKS)
def test_targets_are_read_back_as_the_labels(tmp_path: Path, task: str) -> None:
    data = GLUEAsTextDataModule(task, source=str(write_task(tmp_path, task)), calibration="crossfit")
    role = data.test_roles()[0]
    read = task_of(data.label_names).read([target for (target,) in data.references(role)])
    if task == "stsb":
        assert np.abs(read - data.rows(role).label).max() <= 0.1 + 1e-6
    else:
        assert read.tolist() == data.rows(role).label.tolist()


def test_models_that_read_units_as_they_are_get_them(tiny_tokenizer, tmp_path: Path, monkeypatch) -> None:
    from tests.datamodules.stub import Recorder
    from tests.datamodules.test_base import make_trainer

    class Mixed(Recorder):
        plain_keys = ("encoder",)

    checked: list[list[str]] = []  # the label words are all unknown to this tokenizer
    monkeypatch.setattr("datamodules.text_to_text.check_label_words", lambda words, tokenizer: checked.append(words))
    folder = str(write_task(tmp_path, "rte", train=200))
    data = GLUEAsTextDataModule("rte", source=folder, batch_size=8, calibration="crossfit")
    module = Mixed({"encoder": (tiny_tokenizer, 32), "decoder": (tiny_tokenizer, 64)})
    make_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert checked == [["entailment", "not_entailment"]]  # for the decoder alone
    rows = data.rows("test")
    for row, (first, second) in enumerate(rows.units()):
        assert data.tokens("test", "encoder").row(row).tolist() == tiny_tokenizer(first, second)["input_ids"]
        expected = tiny_tokenizer(f"rte sentence1: {first} sentence2: {second}")["input_ids"]
        assert data.tokens("test", "decoder").row(row).tolist() == expected
