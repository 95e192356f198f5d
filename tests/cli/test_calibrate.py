"""`dial calibrate`: points chosen on rows of the user's own, with labels or without, and read by `dial predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dial import AdaptiveClassifier
from dial.cli.main import main
from dial.inference.operating_point import Sweep
from dial.stages.parquet import load_table
from dial.tradeoff.calibration import Chooser
from tests.inference.run_folder import copy_of, make_run
from tests.tiers import small

ROWS = 120


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    base = small.plain_tier("base")
    tiers = [small.exits_tier("swift", base, (1, 2)), small.plain_tier("super", 2, words=12)]
    return make_run(tmp_path_factory.mktemp("run"), tiers)


@pytest.fixture
def run(tested: Path, tmp_path: Path) -> Path:
    return copy_of(tested, tmp_path / "copy")


def write(path: Path, labels: bool = True, rows: int = ROWS, seed: int = 8) -> list[Any]:
    """Rows of texts of their own; gives the texts."""
    units = [unit if isinstance(unit, str) else unit[0] for unit in small.texts(rows, seed=seed)]
    random = np.random.default_rng(seed)
    names = random.choice(small.CLASSES, rows).tolist()
    lines = [{"text": text} | ({"label": name} if labels else {}) for text, name in zip(units, names, strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return units


def calibrate(run: Path, *arguments: str) -> int:
    return main(["calibrate", str(run), *arguments])


def test_points_come_from_the_labelled_rows(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    units = write(tmp_path / "rows.jsonl")
    before = AdaptiveClassifier.from_run(run, 0.9).point
    assert calibrate(run, str(tmp_path / "rows.jsonl"), "--batch-size", "7") == 0
    said = capsys.readouterr().out
    assert "Operating points of `energy` by accuracy on these 120 rows" in said
    table = load_table(run / "calibration" / "stages.parquet")
    sweep = Sweep(run, calibrated=False)
    from dial.inference.run import load_network

    alone = small.outputs_one_by_one(load_network(sweep, {}, "cpu"), units)
    np.testing.assert_allclose(table.outputs, alone, atol=1e-5)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    labels = [small.CLASSES.index(json.loads(line)["label"]) for line in lines]
    assert table.label.tolist() == labels and table.metrics == ("accuracy",)
    length = table.lengths["super"]  # costs are those that these tiers were tested with
    np.testing.assert_allclose(table.macs_reference, 1000.0 * length + length**2)
    point = AdaptiveClassifier.from_run(run, 0.9).point
    assert point.decision.thresholds == Chooser(table, "energy").expected(0.9).thresholds
    assert point.decision.thresholds != before.decision.thresholds
    assert point.about["calibrated_on"]["rows"] == 120
    assert AdaptiveClassifier.from_run(run, 0.9, calibrated=False).point.decision == before.decision


def test_without_labels_agreement_with_the_super_is_kept(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "texts.jsonl", labels=False)
    assert calibrate(run, str(tmp_path / "texts.jsonl"), "--targets", "0.9") == 0
    captured = capsys.readouterr()
    assert "by agreement with the last model" in captured.out and "no column 'label'" in captured.err
    table = load_table(run / "calibration" / "stages.parquet")
    assert table.metrics == ("agreement",) and table.label.tolist() == table.predictions[:, -1].tolist()
    classifier = AdaptiveClassifier.from_run(run, 0.9)
    assert classifier.point.about["calibrated_on"]["metric"] == "agreement"
    thresholds = np.array(classifier.point.decision.thresholds)
    agree = 0
    for row in range(ROWS):
        scores = table.scores["energy"][row]
        stage = next((s for s in range(2) if scores[s] >= thresholds[s]), 2)
        agree += table.predictions[row, stage] == table.predictions[row, 2]
    assert agree / ROWS >= 0.9
    assert classifier.point.about["calibration"]["kept"] == pytest.approx(agree / ROWS)


def test_other_rows_give_way_only_when_told_and_are_kept(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    write(Path(first)), write(Path(second), seed=9)
    assert calibrate(run, first) == 0
    assert calibrate(run, first) == 0  # the same rows again
    before = (run / "calibration" / "stages.parquet").read_bytes()
    assert calibrate(run, second) == 2
    assert "is calibrated on other rows already (120 rows of" in capsys.readouterr().err
    assert (run / "calibration" / "stages.parquet").read_bytes() == before
    assert calibrate(run, second, "--replace") == 0
    assert (run / "calibration-1" / "stages.parquet").read_bytes() == before
    assert (run / "calibration" / "stages.parquet").read_bytes() != before


def test_predict_says_whose_points_it_takes_and_where_its_rows_differ(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    units = write(tmp_path / "rows.jsonl")
    assert calibrate(run, str(tmp_path / "rows.jsonl")) == 0
    (tmp_path / "like.txt").write_text("\n".join(units) + "\n")
    (tmp_path / "other.txt").write_text("\n".join(unit + " " + unit for unit in units) + "\n")
    capsys.readouterr()
    shown = {}
    for name in ("like", "other"):
        out = tmp_path / f"{name}.jsonl"
        arguments = ["predict", str(run), str(tmp_path / f"{name}.txt"), "--out", str(out), "--progress", "0"]
        assert main([*arguments, "--device", "cpu"]) == 0
        captured = capsys.readouterr()
        assert "points chosen on 120 rows of" in captured.err
        manifest = json.loads(Path(f"{out}.manifest.json").read_text())
        assert manifest["point"]["about"]["calibrated_on"]["rows"] == 120
        shown[name] = ("not like the calibration rows" in captured.out, manifest.get("shift"))
    assert shown["like"] == (False, None)
    assert shown["other"][0] and "length" in shown["other"][1]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ('{"text": "x", "label": "no such"}\n' * 30, [], "row 0 has 'no such'"),
        ('{"text": "x"}\n' * 5, [], "`FILE` must have at least 20 rows to choose points on"),
        ('{"text": 3}\n' * 30, [], "`FILE`"),
        ('{"text": "x"}\n' * 30, ["--label-column", "gold"], "'gold'"),
        ('{"text": "x"}\n' * 30, ["--targets", "2"], "`--targets` must be shares"),
        ('{"text": "x"}\n' * 30, ["--columns", "a", "b", "c"], "`--columns` must name one column, or two"),
        ('{"text": "x"}\n' * 30, ["--tiers", "swift"], "`--tiers` must be NAME=FOLDER"),
    ],
)
def test_bad_input_is_refused_before_any_model_runs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, arguments: list[str], message: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    assert calibrate(run, str(tmp_path / "rows.jsonl"), *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") <= 2
    assert not (run / "calibration").exists()


def test_a_folder_that_is_no_calibration_of_these_tiers_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "rows.jsonl")
    (run / "calibration").mkdir()
    (run / "calibration" / "notes.txt").write_text("mine")
    assert calibrate(run, str(tmp_path / "rows.jsonl")) == 2
    assert "did not write; move it away" in capsys.readouterr().err
    assert (run / "calibration" / "notes.txt").read_text() == "mine"
    (run / "calibration" / "notes.txt").unlink()
    assert calibrate(run, str(tmp_path / "rows.jsonl")) == 0
    about = json.loads((run / "calibration" / "calibration.json").read_text())
    (run / "calibration" / "calibration.json").write_text(json.dumps(about | {"tiers": {"swift": "0"}}))
    with pytest.raises(ValueError, match="was calibrated with other tiers than it was tested with"):
        AdaptiveClassifier.from_run(run)
    assert AdaptiveClassifier.from_run(run, calibrated=False).point is not None
