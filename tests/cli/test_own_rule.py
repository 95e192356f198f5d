"""A rule in a file of the user's own, through `dial sweep` and `dial predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dial.cli.main import main
from dial.stages.parquet import load_table, save_table
from dial.tradeoff.rules import RULES
from tests.inference.run_folder import make_run
from tests.stages.population import logits_table
from tests.tiers import small

OWN = "tests.own.mean_rule"


@pytest.fixture
def dial() -> Iterator[Callable[..., int]]:
    """Runs a command as if nothing had been imported before it, and leaves nothing behind."""

    def forget() -> None:
        sys.modules.pop(OWN, None)
        RULES.pop("mean", None)

    def call(*arguments: str) -> int:
        forget()
        return main(arguments)

    yield call
    forget()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    base = small.plain_tier("base")
    tiers = [small.exits_tier("swift", base, (1, 2)), small.plain_tier("super", 2, words=12)]
    return make_run(tmp_path_factory.mktemp("run"), tiers)


def stage_by_loop(outputs: np.ndarray, threshold: float) -> tuple[int, float]:
    """Of one row ``(S, C)``: where the mean of the largest probabilities reaches the threshold, and that mean."""
    total = 0.0
    for stage, logits in enumerate(outputs.astype(float)):
        total += float(np.exp(logits - logits.max()).max() / np.exp(logits - logits.max()).sum())
        if total / (stage + 1) >= threshold:
            break
    return stage, total / (stage + 1)


def test_a_sweep_charts_it_and_chooses_its_points(
    dial: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = logits_table(160, seed=1, strengths=(0.8, 1.5, 2.5))
    save_table(table, tmp_path / "table.parquet")
    more = ["--targets", "0.98", "--bootstrap", "100", "--scores", "softmax"]
    arguments = ["sweep", str(tmp_path / "table.parquet"), *more]
    assert dial(*arguments, "--import", OWN, "--out", str(tmp_path / "own")) == 0
    assert "Operating points of the mean so far:" in capsys.readouterr().out
    summary: dict[str, Any] = json.loads((tmp_path / "own" / "summary.json").read_text())
    result, test = summary["splits"]["test"], table.of_split("test")
    assert [entry["rule"] for entry in result["scores"] if entry["score"] == "mean"] == ["mean"]
    points = {point["kind"]: point for point in result["points"] if point["rule"] == "mean"}
    assert set(points) == {"expected", "confident", "in_sample"}
    for point in points.values():
        (threshold,) = {float(value) for value in point["thresholds"]}
        stages = [stage_by_loop(row, threshold)[0] for row in test.outputs]
        assert point["quality"]["accuracy"] == np.mean(test.predictions[np.arange(160), stages] == test.label)
    # Without the rule it is another configuration, whose results do not go into the same folder.
    assert dial(*arguments, "--out", str(tmp_path / "own")) == 2
    assert dial(*arguments, "--out", str(tmp_path / "plain")) == 0
    plain = json.loads((tmp_path / "plain" / "summary.json").read_text())
    assert {entry["rule"] for entry in plain["splits"]["test"]["scores"]} == {"threshold", "patience"}


@pytest.mark.parametrize("batch_size", ["1", "7"])
def test_predictions_are_routed_by_it(
    dial: Callable[..., int], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], batch_size: str
) -> None:
    table = load_table(run / "sweep" / "stages.parquet")
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in small.texts(160, seed=5)))
    command = ["predict", str(run), str(texts), "--batch-size", batch_size]
    by_target = ["--rule", "mean", "--target", "0.5", "--out", str(tmp_path / "out.jsonl")]
    assert dial(*command, *by_target) == 2
    assert "`--rule` must be one of threshold, patience, but got 'mean'" in capsys.readouterr().err
    assert dial(*command, *by_target, f"--import={OWN}") == 0
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    decision = manifest["point"]["decision"]
    assert (decision["rule"], decision["score"]) == ("mean", "mean")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    stopped = [stage_by_loop(outputs, float(decision["thresholds"][0])) for outputs in table.outputs]
    stages = [stage for stage, _ in stopped]
    assert len(set(stages)) > 1
    assert [row["stage"] for row in rows] == [table.stage_names[stage] for stage in stages]
    np.testing.assert_allclose([row["score"] for row in rows], [mean for _, mean in stopped], atol=1e-5)
    # The point is kept with its rule's name, and read back where the rule is there.
    again = [*command, "--point", str(tmp_path / "out.jsonl.manifest.json"), "--out", str(tmp_path / "again.jsonl")]
    assert dial(*again) == 2
    assert "but got 'mean'; --import yours" in capsys.readouterr().err
    assert dial("predict", "--import", OWN, *again[1:]) == 0
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "out.jsonl").read_text()


def test_a_module_that_is_not_there_is_refused(dial: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert dial("sweep", "--import", "no.such.module", "table.parquet") == 2
    assert "`--import` must be a module" in capsys.readouterr().err
    assert dial("sweep", "table.parquet", "--import") == 2
    assert "`--import` must be a module" in capsys.readouterr().err


def test_a_module_that_a_library_hides_is_refused(
    dial: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "colorsys.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert dial("sweep", "stages.parquet", "--import", "colorsys") == 2
    assert "hides colorsys.py; rename the file" in capsys.readouterr().err
