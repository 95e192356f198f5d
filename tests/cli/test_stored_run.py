"""A run folder of an earlier day is read by the commands of today: `dial predict`, `dial sweep` and `dial compare`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dial.cli.main import main
from tests.conftest import ROOT

STORED = ROOT / "tests" / "stored"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A copy of the folder, so that nothing is written beside the original."""
    return Path(shutil.copytree(STORED, tmp_path / "stored"))


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def alike(value: Any) -> Any:
    """The same, up to what another order of additions does to numbers."""
    numbers = value if isinstance(value, list) else [value]
    return pytest.approx(value, rel=1e-9) if all(isinstance(number, float) for number in numbers) else value


def test_its_models_answer_as_they_did(stored: Path) -> None:
    out = stored / "today.jsonl"
    rule = ["--score", "softmax", "--threshold", "0.925", "--device", "cpu", "--backend", "tested"]
    assert main(["predict", str(stored / "runs/cascade"), str(stored / "texts.txt"), "--out", str(out), *rule]) == 0
    before, now = (
        [json.loads(line) for line in path.read_text().splitlines()] for path in (stored / "answers.jsonl", out)
    )
    assert {row["stage"] for row in before} == {"swift", "super"}
    for old, new in zip(before, now, strict=True):
        assert new.keys() == old.keys()
        for name, value in old.items():
            near = name in ("score", "probability")
            assert new[name] == (pytest.approx(value, abs=1e-5) if near else value), name


def test_its_points_are_found_by_their_targets(stored: Path) -> None:
    run, out = stored / "runs/cascade", stored / "today.jsonl"
    assert main(["predict", str(run), str(stored / "texts.txt"), "--out", str(out), "--target", "0.97"]) == 0
    (point,) = (
        point
        for point in read(run / "sweep/summary.json")["splits"]["test"]["points"]
        if (point["score"], point["kind"], point["target"]) == ("softmax", "expected", 0.97)
    )
    chosen = read(stored / "today.jsonl.manifest.json")["point"]["decision"]
    assert [float(value) for value in chosen["thresholds"]] == [float(value) for value in point["thresholds"]]


def test_its_table_gives_the_same_numbers(stored: Path) -> None:
    before = read(stored / "runs/cascade/sweep/summary.json")
    table, out = stored / "runs/cascade/sweep/stages.parquet", stored / "sweep"
    more = ["--targets", "0.99", "0.97", "--scores", "softmax", "energy", "--bootstrap", "100"]
    assert main(["sweep", str(table), "--out", str(out), *more]) == 0
    now = read(out / "summary.json")
    assert now["calibration"] == before["calibration"] and now["stages"] == before["stages"]
    old, new = before["splits"]["test"], now["splits"]["test"]
    assert [stage["quality"] for stage in new["stages"]] == [stage["quality"] for stage in old["stages"]]
    assert len(new["points"]) == len(old["points"]) > 10
    names = ("score", "kind", "target", "thresholds", "quality", "kept", "macs", "speedup", "shares", "held")
    for earlier, point in zip(old["points"], new["points"], strict=True):
        for name in (*names, "kept_interval", "speedup_interval"):
            assert point[name] == alike(earlier[name]), (name, point["kind"])


def test_it_is_compared(stored: Path) -> None:
    out = stored / "compared"
    assert main(["compare", str(stored / "runs/cascade"), "--out", str(out)]) == 0
    (run,) = read(out / "compare.json")["rows"]
    stages = read(stored / "runs/cascade/sweep/summary.json")["splits"]["test"]["stages"]
    assert run["quality"] == pytest.approx(stages[-1]["quality"]["accuracy"])
