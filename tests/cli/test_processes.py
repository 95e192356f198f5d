"""`dial test` and `dial predict` with one, two and three processes: the same rows, decisions and costs.

Every command here is a real one, because Lightning's DDP starts the command of the first process again.
"""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dial.stages.parquet import load_table
from dial.stages.table import StageTable
from dial.tradeoff.rules import replay
from tests.cli.real_commands import ROWS, TRAINER, facts, flat, start, succeed, witness

pytestmark = pytest.mark.timeout(1500)  # some start six processes one after the other, perhaps on a busy machine


@pytest.fixture(scope="module")
def cascade(make_tiny_bert, process_arguments) -> list[str]:
    """Two tiers with encodings of their own: the Swift reads 8 tokens."""
    tiers = [
        {"path": str(make_tiny_bert(layers=1, seed=1)), "max_length": 8},
        {"path": str(make_tiny_bert(layers=2, seed=2))},
    ]
    given = ("--model=Cascade", f"--model.tiers={json.dumps(tiers)}", "--sweep.bootstrap=200")
    return ["test", *given, *process_arguments]


@pytest.fixture(scope="module")
def tested(cascade, tmp_path_factory):
    """Function: run folder of `dial test` with so many processes; each is run once."""
    runs: dict[int, Path] = {}

    def run(processes: int) -> Path:
        if processes not in runs:
            folder = tmp_path_factory.mktemp(f"test{processes}")
            # rounds of 4 x W rows: 13 rows leave a short last round for every W
            options = [f"--trainer.devices={processes}", "--data.batch_size=4", f"--run={folder}"]
            runs[processes] = folder
            (folder / "output.txt").write_text(succeed(*cascade, *options, witness(folder)))
        return runs[processes]

    return run


def table(folder: Path) -> StageTable:
    return load_table(folder / "sweep/stages.parquet")


def numbers(value: object, skip: tuple[str, ...] = ("padded", "configuration")) -> dict[str, object]:
    """Leaves of nested results by their place. Padded lengths depend on which rows share a batch."""
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if key not in skip}
    elif isinstance(value, list):
        value = dict(enumerate(value))
    else:
        return {"": value}
    return {f"{key}.{rest}": leaf for key, item in value.items() for rest, leaf in numbers(item, skip).items()}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_stage_table_does_not_depend_on_processes(tested, processes) -> None:
    one, many = table(tested(1)), table(tested(processes))
    assert Counter(one.split.tolist()) == {"calibration": 60, "test": 13}
    assert many.split.tolist() == one.split.tolist()
    assert many.sample_id.tolist() == one.sample_id.tolist()
    assert len(set(zip(many.split.tolist(), many.sample_id.tolist(), strict=True))) == 73
    np.testing.assert_array_equal(many.label, one.label)
    np.testing.assert_array_equal(many.predictions, one.predictions)
    np.testing.assert_allclose(many.outputs, one.outputs, rtol=0, atol=1e-5)
    for name in ("decide_macs", "macs", "macs_reference"):
        np.testing.assert_array_equal(getattr(many, name), getattr(one, name))
    for tier in ("swift", "super"):
        np.testing.assert_array_equal(many.lengths[tier], one.lengths[tier])
    assert many.scores.keys() == one.scores.keys() and len(one.scores) >= 6
    for name in one.scores:
        np.testing.assert_allclose(many.scores[name], one.scores[name], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_decisions_do_not_depend_on_processes(tested, processes) -> None:
    one, many = table(tested(1)), table(tested(processes))
    for name, values in one.scores.items():
        levels = np.unique(values[:, 0])
        clear = []  # energy_released hardly differs between some rows
        for threshold in (levels[1:] + levels[:-1]) / 2:
            decided = np.abs(values[:, 0] - threshold) > 1e-5
            clear.append(decided.mean())
            before, after = (replay(scores, np.array([threshold]))[decided] for scores in (values, many.scores[name]))
            np.testing.assert_array_equal(after, before, err_msg=name)
        assert np.mean(clear) > 0.95, name
    summaries = [json.loads((tested(n) / "sweep/summary.json").read_text()) for n in (1, processes)]
    before, after = (numbers(summary["splits"]) for summary in summaries)
    assert before.keys() == after.keys() and len(before) > 300
    for place, value in before.items():
        expected = pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value
        assert after[place] == expected, place


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_every_process_reads_its_share(tested, processes) -> None:
    seen = [flat(rank["seen"]["test"]) for rank in facts(tested(processes))]
    assert len(seen) == processes
    assert {len(rows) for rows in seen} == {-(-13 // processes)}
    assert set().union(*seen) == set(range(61)).intersection(table(tested(1)).of_split("test").sample_id.tolist())
    assert all(max(Counter(rows).values()) == 1 for rows in seen)


@pytest.mark.slow
def test_outputs_are_those_of_each_row_alone(tested, make_tiny_bert, glue_folder) -> None:
    """An independent reference: transformers, one unpadded row after the other, in this process."""
    rows = table(tested(3)).of_split("test")
    texts = pd.read_parquet(glue_folder / "sst2/validation.parquet")
    tiers = [(rows.settings["tiers"][name]["path"], length) for name, length in (("swift", 8), ("super", 32))]
    for stage, (path, length) in enumerate(tiers):
        model, tokenizer = AutoModelForSequenceClassification.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        for i, sample_id in enumerate(rows.sample_id):
            encoding = tokenizer(texts.sentence[sample_id], truncation=True, max_length=length, return_tensors="pt")
            with torch.no_grad():
                logits = model(**encoding).logits[0].numpy()
            np.testing.assert_allclose(rows.outputs[i, stage], logits, rtol=0, atol=1e-5)
            assert rows.label[i] == texts.label[sample_id]


@pytest.mark.slow
def test_fewer_rows_than_processes(tested, cascade, tmp_path) -> None:
    """Two test rows and three processes: one process has only a repeat, and adds nothing."""
    few = json.dumps({**ROWS, "test": 2})
    options = [f"--data.max_rows={few}", "--trainer.devices=3", "--data.batch_size=4", f"--run={tmp_path}"]
    succeed(*cascade, *options, witness(tmp_path))
    seen = [rank["seen"]["test"] for rank in facts(tmp_path)]
    assert [len(flat(rows)) for rows in seen] == [1, 1, 1]
    rows, whole = table(tmp_path).of_split("test"), table(tested(1)).of_split("test")
    assert len(rows) == 2
    places = [whole.sample_id.tolist().index(i) for i in rows.sample_id.tolist()]
    np.testing.assert_allclose(rows.outputs, whole.outputs[places], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(rows.macs, whole.macs[places])


@pytest.mark.slow
def test_error_of_all_processes_is_one_line(cascade, tmp_path) -> None:
    done = start(*cascade, "--data.min_calibration=61", "--trainer.devices=2", f"--run={tmp_path}/run")
    assert done.returncode == 2
    assert (done.stdout + done.stderr).count("`calibration` needs at least 61 rows, but got 60") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run/config-test.yaml").exists()


@pytest.mark.slow
def test_error_of_the_writing_process_ends_the_others(cascade, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = start(*cascade, f"--sweep.out={tmp_path}/file/sweep", "--trainer.devices=2", f"--run={tmp_path}/run")
    assert done.returncode == 2
    assert len(re.findall("^dial test: error: ", done.stderr, re.MULTILINE)) == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.slow
def test_predictions_with_two_processes(make_tiny_bert, process_arguments, tmp_path) -> None:
    lines = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        model = ["--model=Classifier", f"--model.path={make_tiny_bert(layers=2, seed=2)}", "--model.max_length=32"]
        succeed(
            "predict",
            *model,
            *process_arguments,
            f"--trainer.devices={processes}",
            "--data.batch_size=4",
            f"--run={folder}",
        )
        lines[processes] = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(lines[1]) == 13
    for one, two in zip(lines[1], lines[2], strict=True):
        assert [one[k] for k in ("sample_id", "prediction")] == [two[k] for k in ("sample_id", "prediction")]
        assert two["probabilities"] == pytest.approx(one["probabilities"], abs=1e-5)


@pytest.mark.slow
def test_two_processes_by_configuration(cascade, tested, tmp_path) -> None:
    """`configs/trainer/ddp_cpu.yaml` gives the table of one process."""
    arguments = [a for a in cascade if a not in TRAINER]
    options = ["--trainer=configs/trainer/ddp_cpu.yaml", "--data.batch_size=4", f"--run={tmp_path}"]
    succeed(*arguments, *options, witness(tmp_path))
    assert len(facts(tmp_path)) == 2
    np.testing.assert_allclose(table(tmp_path).outputs, table(tested(1)).outputs, rtol=0, atol=1e-5)
