"""Texts in, texts out, through the command line: trained, a head on it, swept, predicted, and the table swept again."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import QUIET

DIGITS = "zero one two three four five six seven eight nine".split()
SMALL = "{model_type: t5, d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_heads: 2, vocab_size: 40}"
LARGE = "{model_type: t5, d_model: 32, d_kv: 8, d_ff: 64, num_layers: 2, num_heads: 4, vocab_size: 40}"
SEQ2SEQ = (
    *("--config=configs/model/seq2seq.yaml", "--model.tokenizer=characters", "--model.max_new_tokens=5"),
    *("--model.optimizer.init_args.lr=1e-2", "--trainer.max_epochs=3"),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("numbers")
    for role, rows in (("train", 500), ("test", 60)):
        with (folder / f"{role}.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["source", "target", "parity"])
            for _ in range(rows):
                digits = random.integers(10, size=random.integers(1, 4)).tolist()
                last = ["even", "odd"][digits[-1] % 2]
                lines.writerow([" ".join(DIGITS[d] for d in digits), "".join(map(str, digits)), last])
    return folder


def of_files(files: Path, words: bool = False) -> list[str]:
    known = [f"--data.{role}_file={files}/{role}.csv" for role in ("train", "test")]
    target = ["--data.target_column=parity", "--data.label_names=[even, odd]"] if words else []
    metrics = ["--data.prefix=write {}: ", "--data.metrics=[exact_match, bleu]"] if not words else []
    return ["--data=TextToTextDataModule", *known, *target, *metrics, "--data.calibration_fraction=0.3"]


@pytest.fixture(scope="module", params=[False, True], ids=["free text", "label words"])
def run(request, dial, files, tmp_path_factory) -> tuple[Path, list[str]]:
    """Run folder of a cascade whose Swift has a head, and the arguments of its data."""
    folder, data = tmp_path_factory.mktemp("texts"), of_files(files, request.param)
    for name, config in (("swift", SMALL), ("super", LARGE)):
        dial("fit", *SEQ2SEQ, *data, *QUIET, f"--model.config={config}", f"--run={folder}/{name}").ok()
    head = ("--config=configs/model/energy_head.yaml", "--trainer.max_epochs=2", f"--model.path={folder}/swift/tier")
    dial("fit", *head, *data, *QUIET, f"--run={folder}/head").ok()
    tiers = f"--model.tiers=[{folder}/head/tier, {folder}/super/tier]"
    arguments = ("--config=configs/model/cascade.yaml", *data, *QUIET, tiers, "--sweep.bootstrap=100")
    arguments += ("--sweep.scores=[energy, answer_log_probability]", "--study.rows=12", "--study.repeats=1")
    dial("test", *arguments, f"--run={folder}/cascade").ok()
    return folder / "cascade", data


def test_a_stage_table_is_left_and_swept_again(dial, run, tmp_path) -> None:
    folder, _ = run
    path = folder / "sweep/stages.parquet"
    table = pd.read_parquet(path)
    assert {"text_swift", "text_super", "written_swift", "cut_off_super", "energy_swift"} <= set(table)
    test = table[table["split"] == "test"]
    assert len(test) == 60 and (test["written_swift"] > 0).all()
    about = json.loads(pq.read_schema(path).metadata[b"dial"])
    assert set(about["settings"]["tiers"]) == {"swift", "super"}
    scores = ("--scores", "energy", "answer_log_probability", "random")
    dial("sweep", str(path), "--out", str(tmp_path / "again"), "--bootstrap", "100", *scores).ok()
    first, second = (
        json.loads((place / "summary.json").read_text()) for place in (folder / "sweep", tmp_path / "again")
    )
    assert first["splits"]["test"]["points"] == second["splits"]["test"]["points"]


def test_a_study_times_the_points_and_answers_as_the_table_says(run) -> None:
    results = json.loads((run[0] / "study/study.json").read_text())
    assert results["rows"] == 12 and {arm["otherwise"] for arm in results["arms"]} == {0}
    assert [arm["swift_ratio"] for arm in results["arms"] if arm["target"] is None] == [1, 0, 1, 0]
    assert "E-LANG, Table 1" in (run[0] / "study/study.md").read_text()


def test_predictions_by_finished_answers_are_those_of_the_table(dial, run, files, tmp_path) -> None:
    from dial.stages.parquet import load_table
    from dial.tradeoff.rules import Threshold

    table = load_table(run[0] / "sweep/stages.parquet").of_split("test")
    scores = np.sort(table.scores["answer_log_probability"][:, 0])
    threshold = float(scores[30] + scores[31]) / 2  # midway between two rows
    taken = Threshold("answer_log_probability").at([threshold]).taken(table)
    order = np.argsort(table.sample_id)
    for size in ("1", "7", "64"):
        out = tmp_path / f"{size}.jsonl"
        rule = (f"--threshold={threshold}", "--score", "answer_log_probability", "--batch-size", size)
        dial("predict", str(run[0]), str(files / "test.csv"), "--columns", "source", *rule, "--out", str(out)).ok()
        records = [json.loads(line) for line in out.read_text().splitlines()]
        assert {record["stage"] for record in records} == {"swift", "super"}
        for record, row in zip(records, order, strict=True):
            stage = int(taken.stages[row])
            assert record["stage"] == table.stage_names[stage] and record["text"] == table.texts[row, stage]
            assert record["macs"] == taken.macs[row]


def test_predictions_are_those_of_the_table(dial, run, files, tmp_path) -> None:
    folder, data = run
    from dial.stages.parquet import load_table

    table = load_table(folder / "sweep/stages.parquet").of_split("test")
    order = np.argsort(table.sample_id)
    threshold = float(np.median(table.scores["energy"][:, 0])) + 1e-7
    out = tmp_path / "out.jsonl"
    arguments = ("--columns", "source", f"--threshold={threshold}", "--score", "energy", "--out", str(out))
    said = dial("predict", str(folder), str(files / "test.csv"), *arguments).ok()
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == 60 and {record["stage"] for record in records} == {"swift", "super"}
    limited = 0
    for record, row in zip(records, order, strict=True):
        stage = ["swift", "super"].index(record["stage"])
        assert record["text"] == table.texts[row, stage]
        assert record["macs"] == table.macs[row, stage]
        assert ("prediction" in record) == ("--data.label_names=[even, odd]" in data)
        if "prediction" in record:
            assert record["prediction"] == table.predictions[row, stage]
            assert record.get("label_name") == (record["text"] if record["prediction"] >= 0 else None)
        limited += record["limited"]
        assert record["reference_estimated"] == (record["stage"] == "swift")  # nobody knows what the Super would write
    assert (f"{limited} of 60 answers were cut off" in said) == (limited > 0)
    manifest = json.loads(next(tmp_path.glob("out*manifest*")).read_text())
    assert manifest["reference_estimated"] == sum(record["reference_estimated"] for record in records)
    parts = tmp_path / "parts"
    dial("predict", str(folder), str(files / "test.csv"), *arguments[:-1], str(parts)).ok()
    assert pd.read_parquet(parts)["text"].tolist() == [record["text"] for record in records]


def test_scores_that_no_head_gives_are_refused(dial, run, tmp_path) -> None:
    folder, data = run
    tiers = f"--model.tiers=[{folder.parent}/swift/tier, {folder.parent}/super/tier]"
    arguments = ("--config=configs/model/cascade.yaml", *data, *QUIET, tiers)
    error = dial("test", *arguments, "--sweep.scores=[energy]", f"--run={tmp_path}/run").error
    assert "`sweep.scores` for" in error and "random" in error
    dial("test", *arguments, "--sweep.bootstrap=100", f"--run={tmp_path}/run").ok()  # random routing, and the oracle


def test_points_are_chosen_on_rows_of_the_user_s_own(dial, run, files, tmp_path) -> None:
    folder, data = run
    from dial.stages.parquet import load_table

    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    words = "--data.label_names=[even, odd]" in data
    column = ("--label-column", "parity" if words else "target")
    dial("calibrate", str(copy), str(files / "test.csv"), "--columns", "source", *column).ok()
    tested = load_table(copy / "sweep/stages.parquet").of_split("test")
    own = load_table(copy / "calibration/stages.parquet")
    order = np.argsort(tested.sample_id)  # the same rows, which another path has been over
    assert own.texts.tolist() == tested.texts[order].tolist()
    np.testing.assert_allclose(own.scores["energy"][:, 0], tested.scores["energy"][order, 0], atol=1e-5)
    np.testing.assert_array_equal(own.macs, tested.macs[order])
    assert own.written["swift"].tolist() == tested.written["swift"][order].tolist()
    if words:
        np.testing.assert_array_equal(own.label, tested.label[order])
    else:
        assert own.references.tolist() == tested.references[order].tolist()
        error = dial("calibrate", str(copy), str(files / "test.csv"), "--columns", "source", "--replace").error
        assert "`--label-column` must name the references of free text" in error


def test_scores_of_finished_answers_are_charged_the_writing(dial, run, tmp_path) -> None:
    folder, data = run
    tiers = f"--model.tiers=[{folder.parent}/head/tier, {folder.parent}/super/tier]"
    scores = "--sweep.scores=[energy, decoder_entropy, decoder_softmax_low, answer_log_probability]"
    arguments = ("--config=configs/model/cascade.yaml", *data, *QUIET, tiers, "--sweep.bootstrap=100", scores)
    dial("test", *arguments, f"--run={tmp_path}/run").ok()
    table = pd.read_parquet(tmp_path / "run/sweep/stages.parquet")
    rows = table[table["split"] == "test"]
    curve = pd.read_parquet(tmp_path / "run/sweep/curve.parquet")
    for score, column in (("energy", "decide_macs_swift"), ("decoder_entropy", "macs_swift")):
        super_alone = (rows["macs_super"] - rows["decide_macs_swift"]).mean()
        dearest = curve[(curve["split"] == "test") & (curve["score"] == score) & (curve["rule"] == "threshold")]["macs"]
        assert dearest.max() == pytest.approx(rows[column].mean() + super_alone)


def test_a_killed_fit_goes_on_bit_by_bit(dial, files, tmp_path) -> None:
    data = [*of_files(files), "--data.batch_size=16", "--resume.every_n_steps=4", "--model.config.dropout_rate=0.2"]

    def fit(name: str, **fault: str):
        return dial("fit", *SEQ2SEQ, *data, *QUIET, f"--model.config={SMALL}", f"--run={tmp_path}/{name}", **fault)

    fit("whole").ok()
    whole = load_file(tmp_path / "whole/tier/model.safetensors")
    for i, fault in enumerate(("training_step:23", "validation_step:2", "training_step:50")):
        assert fit(f"{i}", fault=fault).code == -9
        fit(f"{i}").ok()
        weights = load_file(tmp_path / f"{i}/tier/model.safetensors")
        assert weights.keys() == whole.keys() and all(torch.equal(weights[name], whole[name]) for name in whole)
        first, second = (
            torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", f"{i}")
        )
        assert first["global_step"] == second["global_step"]
        for key, moments in first["optimizer_states"][0]["state"].items():
            for name, value in moments.items():
                assert torch.equal(value, second["optimizer_states"][0]["state"][key][name])


@pytest.mark.parametrize("score", ["energy", "answer_log_probability"])
def test_a_killed_prediction_goes_on_with_each_row_once(dial, run, files, tmp_path, score) -> None:
    from dial.stages.parquet import load_table

    table = load_table(run[0] / "sweep/stages.parquet").of_split("test")
    values = np.sort(np.unique(table.scores[score][:, 0]))
    threshold = float(values[len(values) // 2 - 1 : len(values) // 2 + 1].mean())
    frame = pd.concat([pd.read_csv(files / "test.csv", dtype=str)] * 20)  # what was answered is on disk after some rows
    frame.to_csv(tmp_path / "new.csv", index=False)
    common = ["predict", str(run[0]), str(tmp_path / "new.csv"), "--columns", "source", f"--threshold={threshold}"]
    common += ["--score", score, "--batch-size", "4", "--max-pending", "16"]
    common += ["--part-rows", "8"]
    dial(*common, "--out", str(tmp_path / "whole")).ok()
    assert dial(*common, "--out", str(tmp_path / "out"), fault="write:280").code == -9
    left = len(list((tmp_path / "out").glob("part-*")))
    dial(*common, "--out", str(tmp_path / "out")).ok()
    records, whole = (
        [row for path in sorted((tmp_path / name).glob("part-*")) for row in pq.read_table(path).to_pylist()]
        for name in ("out", "whole")
    )
    assert 0 < left < 150 and [record["row"] for record in records] == list(range(1200))
    for record, other in zip(records, whole, strict=True):
        same = ("row", "text", "stage", "macs", "limited")
        assert {key: record[key] for key in same} == {key: other[key] for key in same}
