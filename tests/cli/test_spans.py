"""Questions answered by spans, through the command line: trained, distilled, swept, calibrated, predicted, kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dial.costs.functions import ModelCosts
from dial.stages.parquet import load_table, save_slim
from scripts.results_cell import crossfit_of, sweep_of
from scripts.store_results import keep_study, without_texts
from tests.cli.conftest import QUIET, ROOT
from tests.squad_files import TEST, write
from tests.tiers.readers import STRIDE, WINDOW, save_reader

SHORT = (f"--model.max_length={WINDOW}", f"--model.stride={STRIDE}", "--trainer.max_epochs=2")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    folder = write(tmp_path_factory.mktemp("squad"), "parquet")
    return ["--data=configs/data/squad.yaml", f"--data.source={folder}", "--data.calibration_fraction=0.4"]


@pytest.fixture(scope="module")
def run(dial, data, tmp_path_factory) -> Path:
    """Run folder of a cascade of a distilled Swift and the Super that taught it."""
    folder = tmp_path_factory.mktemp("spans")
    start = [f"--model.path={save_reader(folder / f'layers{n}', seed=n, layers=n)}" for n in (1, 2)]
    rate = "--model.optimizer.init_args.lr=1e-2"
    dial("fit", "--config=configs/model/span.yaml", *data, *QUIET, *SHORT, rate, start[1], f"--run={folder}/super").ok()
    taught = ("--config=configs/model/span_distil.yaml", f"--model.teacher={folder}/super/tier", start[0])
    dial("fit", *taught, *data, *QUIET, *SHORT, rate, f"--run={folder}/swift").ok()
    tiers = f"--model.tiers=[{folder}/swift/tier, {folder}/super/tier]"
    study = ("--study.rows=24", "--study.repeats=2", "--study.targets=[0.9]")
    cascade = ("--config=configs/model/cascade.yaml", *data, *QUIET, tiers, "--sweep.bootstrap=100", *study)
    text = dial("test", *cascade, f"--run={folder}/cascade").ok()
    assert "quality is token_f1 in %" in text and "Operating points of `softmax`" in text
    return folder / "cascade"


def test_a_fit_keeps_how_it_reads(run: Path) -> None:
    card = json.loads((run.parent / "swift/tier/card.json").read_text())
    assert (card["stride"], card["max_answer_tokens"], card["no_answer"]) == (STRIDE, 30, False)
    assert card["metrics"] == ["token_f1", "squad_em"]


def test_the_table_holds_statistics_scores_and_groups_and_no_logits(run: Path) -> None:
    table = pd.read_parquet(run / "sweep/stages.parquet")
    test = table[table["split"] == "test"]
    for stage in ("swift", "super"):
        for name in ("token_f1", "squad_em"):
            assert test[f"stat_{name}_{stage}"].between(0, 1).all()
        for score in ("softmax", "margin", "energy", "no_answer_gap"):
            assert np.isfinite(test[f"{score}_{stage}"]).all()
    assert len(test) == 60 and test["group"].nunique() == 20
    assert not any(name.startswith(("output_", "written_")) for name in table)
    costs = json.loads((run / "sweep/costs.json").read_text())["answer"]["swift"]["0"]
    assert costs["window"] == WINDOW
    summary = json.loads((run / "sweep/summary.json").read_text())
    assert summary["metrics"] == ["token_f1", "squad_em"] and summary["settings"]["scores"][0] == "softmax"


def test_time_is_measured_with_the_answers_of_the_table(run: Path) -> None:
    study = json.loads((run / "study/study.json").read_text())
    assert study["metric"] == "token_f1" and study["score"] == "softmax" and study["rows"] == 24
    assert {(arm["name"], arm["batch"]) for arm in study["arms"]} >= {("swift", "1"), ("super", "best")}
    for arm in study["arms"]:
        assert arm["otherwise"] == 0 and arm["wall_ms"]["median"] > 0
    swift = next(arm for arm in study["arms"] if arm["name"] == "swift")
    assert swift["flops_speedup"] > 1.5


def test_a_table_without_texts_gives_the_same_points(dial, run: Path, tmp_path: Path, monkeypatch) -> None:
    from scripts import store_results

    monkeypatch.setattr(store_results, "check", lambda table, run: None)  # of temporary folders
    place = tmp_path / "squad/seed0/cascade-swift"
    shutil.copytree(run, place, ignore=shutil.ignore_patterns("study"))  # of a study the table is not kept
    store_results.main([str(place), "--out", str(tmp_path / "results")])
    path = tmp_path / "results/squad/seed0-cascade-swift.parquet"
    names, content = pq.read_schema(path).names, path.read_bytes()
    assert "references" not in names and not any(name.startswith("text_") for name in names)
    assert not any(row["context"].encode() in content or row["question"].encode() in content for row in TEST)
    dial("sweep", path, "--out", tmp_path / "again", "--bootstrap", "100").ok()
    first, again = (json.loads((p / "summary.json").read_text()) for p in (run / "sweep", tmp_path / "again"))
    for one, other in zip(first["splits"]["test"]["points"], again["splits"]["test"]["points"], strict=True):
        for name in ("score", "kind", "target", "quality", "macs", "shares"):
            assert one[name] == other[name]


def test_the_page_of_results_tells_of_a_run(dial, run: Path, tmp_path: Path) -> None:
    """From its table, sweeps and study, as `make results` keeps them."""
    from scripts import reading_collect, reading_page

    path = tmp_path / "results/squad/seed0-cascade-student.parquet"
    costs = ModelCosts.load(run / "sweep/costs.json")
    save_slim(without_texts(load_table(run / "sweep/stages.parquet")), path, costs)
    for kind, folder in (("split", sweep_of), ("crossfit", crossfit_of)):
        out = folder(f"{tmp_path}/runs/squad/seed0", "cascade-student")
        dial("sweep", path, "--calibration", kind, "--bootstrap", "100", "--out", out).ok()
    points, tiers = reading_collect.collect(tmp_path / "runs", tmp_path / "results").values()
    study = keep_study(run, tmp_path / "results/squad")
    assert study.name == "cascade.json" and not (tmp_path / "results/squad/study.png").exists()
    table = pd.read_parquet(run / "sweep/stages.parquet")
    exact = 100 * table[table["split"] == "test"]["stat_squad_em_swift"].mean()
    told = reading_page.question_tiers(tiers)
    assert "60 questions about 20 paragraphs" in told and f"| student | {exact:.1f} | " in told
    assert reading_page.table_2(points).count("×") >= 6 and "crossfit" in reading_page.speedups(points, 0.99)
    told = reading_page.time_table(json.loads(study.read_text()))
    assert "| cascade at 90 % | " in told and "| swift | " in told


def test_a_file_of_questions_is_answered_as_in_the_table(dial, run: Path, tmp_path: Path) -> None:
    rows = pd.DataFrame(TEST)[["question", "context"]]
    rows.to_csv(tmp_path / "questions.csv", index=False)
    table = pd.read_parquet(run / "sweep/stages.parquet")
    table = table[table["split"] == "test"].sort_values("sample_id").reset_index()
    scores = np.sort(table["softmax_swift"].unique())
    threshold = scores[len(scores) // 2 - 1 : len(scores) // 2 + 1].mean()
    stays = table["softmax_swift"] >= threshold
    point = ("--threshold", repr(float(threshold)), "--score", "softmax")
    text = dial("predict", run, tmp_path / "questions.csv", "--out", tmp_path / "out.jsonl", *point).ok()
    assert "60 predictions" in text
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert 0 < stays.sum() < 60
    for row, answer in enumerate(found):
        stage = "swift" if stays[row] else "super"
        assert (answer["stage"], answer["text"]) == (stage, table[f"text_{stage}"][row])
        assert answer["macs"] == table[f"macs_{stage}"][row]
        assert rows["context"][row][slice(*answer["span"])] == answer["text"]
        assert answer["probability"] == pytest.approx(table[f"softmax_{stage}"][row], rel=1e-4)
    dial("predict", run, tmp_path / "questions.csv", "--out", tmp_path / "parts", *point).ok()
    parts = pd.read_parquet(tmp_path / "parts/part-00000.parquet")
    assert [list(span) for span in parts["span"]] == [answer["span"] for answer in found]


def test_one_tier_answers_a_data_set(dial, run: Path, data, tmp_path: Path) -> None:
    tier = run.parent / "swift/tier"
    model = ("--config=configs/model/span.yaml", f"--model.path={tier}", *SHORT[:2])
    dial("predict", *model, *data, *QUIET, f"--run={tmp_path}/one").ok()
    found = [json.loads(line) for line in (tmp_path / "one/predictions.jsonl").read_text().splitlines()]
    table = pd.read_parquet(run / "sweep/stages.parquet")
    table = table[table["split"] == "test"].sort_values("sample_id").reset_index()
    assert [row["sample_id"] for row in found] == table["sample_id"].tolist()
    assert [row["text"] for row in found] == table["text_swift"].tolist()
    assert np.allclose([row["softmax"] for row in found], table["softmax_swift"], rtol=1e-4)


def test_rows_that_cannot_be_read_are_told_and_those_before_are_kept(dial, run: Path, tmp_path: Path) -> None:
    point = ("--threshold", "0.2", "--score", "softmax")
    for broken, message in (
        (
            {"question": "who " * 30, "context": "the king"},
            "rows.jsonl, line 3: has a question of 30 tokens, but windows of 24 tokens that share 6 leave room for 14 "
            f"in swift ({run.parent}/swift/tier) and super ({run.parent}/super/tier); mend it, or leave such rows out",
        ),
        (
            {"question": "who", "context": " "},
            "rows.jsonl, line 3: has an empty context; mend it, or leave such rows out",
        ),
    ):
        some = pd.DataFrame([*TEST[:2], broken, *TEST[2:]])[["question", "context"]]
        out = tmp_path / f"{len(broken['question'])}.jsonl"
        some.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
        error = dial("predict", run, tmp_path / "rows.jsonl", "--out", out, *point).error
        assert message in error and len(out.read_text().splitlines()) == 2
        out = out.with_name(f"skipped-{out.name}")
        text = dial("predict", run, tmp_path / "rows.jsonl", "--out", out, *point, "--on-error=skip").ok()
        numbers = [json.loads(line)["row"] for line in out.read_text().splitlines()]
        assert numbers == [0, 1, *range(3, len(TEST) + 1)] and "1 rows could not be read and were left out" in text
    (tmp_path / "texts.txt").write_text("who won\n")
    error = dial("predict", run, tmp_path / "texts.txt", "--out", tmp_path / "x.jsonl", *point).error
    assert "`--columns` must name the columns of question and context" in error and "got lines of plain text" in error


def test_points_are_chosen_on_questions_of_one_s_own(dial, run: Path, tmp_path: Path) -> None:
    rows = pd.DataFrame(TEST)
    rows["label"] = [answers["text"][0] for answers in rows["answers"]]
    rows[["question", "context", "label"]].to_csv(tmp_path / "own.csv", index=False)
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    text = dial("calibrate", copy, tmp_path / "own.csv", "--columns", "question", "context").ok()
    assert "calibrated on 60 rows" in text


def test_what_does_not_fit_is_refused(dial, run: Path, data, tiny_bert, tmp_path: Path) -> None:
    cascade = ("test", "--config=configs/model/cascade.yaml", *data, *QUIET, f"--run={tmp_path}/x")
    swift = run.parent / "swift/tier"
    error = dial(*cascade, f"--model.tiers=[{swift}, {tiny_bert}]").error
    assert "`tiers[1]`" in error
    model = ("fit", "--config=configs/model/span.yaml", f"--model.path={swift}", *QUIET, f"--run={tmp_path}/y")
    glue = ("--data=configs/data/demo.yaml",)
    assert "`data` must hold questions with contexts" in dial(*model, *glue).error
    error = dial(*model, *data, f"--model.max_length={WINDOW}", "--model.stride=30").error
    assert "`stride` must leave room" in error and "`path`" not in error


def test_the_shipped_configurations_are_complete() -> None:
    for name in ("squad", "squad_v2", "questions"):
        assert (ROOT / f"configs/data/{name}.yaml").is_file()
