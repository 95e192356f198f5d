"""The tables of what was measured, from studies as the callback writes them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dial.cli.steps import Step
from scripts import time_page as page
from scripts.results_cell import Cell
from scripts.results_plan import measured_steps
from scripts.results_steps import Measured


def spread(value: float) -> dict[str, float]:
    return {"median": value, "low": value - 0.1, "high": value + 0.1}


def model(name: str, ms: float, quality: float, agrees: float = 1.0) -> dict[str, Any]:
    latency = {"mean": spread(ms), "p50": spread(ms), "p95": spread(2 * ms), "p99": spread(3 * ms)}
    ratio = {"speedup": 10 / ms, "speedup_interval": [9 / ms, 11 / ms]}
    return {
        "name": name, "batch_size": 32, "quality": quality, "quality_of_super": 0.9, "agrees": agrees,
        "single": latency | ratio, "batched": {"rows_per_second": spread(2000 / ms), **ratio},
    }  # fmt: skip


def point(method: str, target: float, reading: str, speedup: float, reached: bool = True) -> dict[str, Any]:
    latency = model("", 10 / speedup, 0.0)["single"]
    return {
        "method": method, "target": target, "reading": reading, "speedup": speedup, "kept": 0.985, "reached": reached,
        "speedup_interval": [speedup - 0.2, speedup + 0.2], "latency": latency,
    }  # fmt: skip


def study(*points: dict[str, Any], first: str = "swift") -> dict[str, Any]:
    runs = [
        {"target": 0.99, "batch": batch, "batch_sizes": {"swift": size, "super": size}, "kept": 0.978,
         "rows_per_second": spread(321), "speedup": spread(1.7)}
        for batch, size in (("1", 1), ("best", 64))
    ]  # fmt: skip
    return {
        "machine": {"processor": "P", "threads": 2, "instructions": "I", "torch": "T"}, "settings": {"repeats": 5},
        "contenders": [model(first, 4.0, 0.8, 0.97), model("super", 10.0, 0.9)], "points": list(points),
        "throughput": runs, "prediction": [PREDICTED], "score": "energy", "split": "test", "super": "super",
    }  # fmt: skip


PREDICTED = {"target": 0.98, "batch": "best", "predicted_ms": 2.4, "measured_ms": 2.5, "ratio": 0.96}
ERRORS = """split,score,stage,last,quantile,low,high,rows,corrected,broken,both_right,both_wrong
test,energy,swift,super,1,0.5,0.6,10,4,1,3,2
test,energy,swift,super,10,0.9,0.99,12,0,2,10,0
test,softmax,swift,super,1,0.5,0.6,10,9,9,0,0
"""


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Everything of SST-2, and of CoLA the executor alone."""
    points = [point("cascade", 0.99, "expected", 2.0), point("cascade", 0.99, "in_sample", 1.5)]
    points.append(point("exits", 0.99, "expected", 3.0, reached=False))
    (tmp_path / "sst2").mkdir()
    qualities = {"metric": "accuracy", "qualities": {"int8": 0.897, "super": 0.901}}
    for name, found in (("study", study(*points)), ("study-int8", study(*points, first="int8") | qualities)):
        (tmp_path / f"sst2/{name}.json").write_text(json.dumps(found))
    sweep = tmp_path / "runs/sst2/seed0/sweeps/cascade-bilstm-distilled"
    sweep.mkdir(parents=True)
    (sweep / "errors.csv").write_text(ERRORS)
    (sweep / "errors.png").write_bytes(b"figure")
    page.keep_errors(tmp_path / "runs", tmp_path)
    (tmp_path / "cola").mkdir()
    executor = {"wall": {"ratio": 0.91, "low": 0.9, "high": 0.92}, "shares": [0.25, 0.75]}
    (tmp_path / "cola/executor.json").write_text(json.dumps(executor))
    return tmp_path


def collected(kept: Path) -> list[page.Record]:
    return page.collect(kept)


@pytest.fixture
def whole(kept: Path) -> list[page.Record]:
    """The same of every task."""
    sst2, cola, _ = collected(kept)
    return [dataclasses.replace(sst2, task=task, executor=cola.executor) for task in page.TIMED]


def test_points_in_time_by_target_and_reading(kept: Path) -> None:
    lines = page.time_table(collected(kept)).splitlines()
    assert lines[0] == "| task, Swift | method | 99 %, expected | 99 %, in-sample | 98 %, expected | 98 %, in-sample |"
    assert lines[2] == "| sst2, bilstm-distilled | deebert | not reached | – | – | – |"
    cells = "2.00× [1.80, 2.20] (98.5) | 1.50× [1.30, 1.70] (98.5) | – | –"
    assert lines[3:] == [f"| sst2, bilstm-distilled | cascade | {cells} |"]


def test_models_alone_and_the_cascade_in_its_best_batches(kept: Path) -> None:
    swift, whole, cascade = page.model_table(collected(kept)).splitlines()[2:]
    assert swift == "| sst2 | swift | 4.0 | 4.0 | 8.0 | 12.0 | 2.50× | 32 | 500 | 2.50× | 88.9 |"
    assert whole == "| sst2 | super | 10.0 | 10.0 | 20.0 | 30.0 | 1.00× | 32 | 200 | 1.00× | 100.0 |"
    assert cascade == "| sst2 | cascade at 99 % | 5.0 | 5.0 | 10.0 | 15.0 | 2.00× | 64, 64 | 321 | 1.70× | 97.8 |"


def test_int8_has_its_quality_on_all_rows(kept: Path) -> None:
    (line,) = page.int8_table(collected(kept)).splitlines()[2:]
    speed = "2.50× [2.25, 2.75] | 2.50× [2.25, 2.75] | 10.0 / 4.0 | 2.00× [1.80, 2.20] (98.5)"
    assert line == f"| sst2 (accuracy) | 90.1 | 89.7 | 97.0 | {speed} |"


def test_predicted_times_of_both_cascades(kept: Path) -> None:
    lines = page.prediction_table(collected(kept)).splitlines()[2:]
    numbers = "98 % | best | 2.40 | 2.50 | 0.96"
    assert lines == [f"| sst2 | cascade | {numbers} |", f"| sst2 | int8, then float32 | {numbers} |"]


def test_executor_and_errors_by_tenth(kept: Path) -> None:
    records = collected(kept)
    assert page.executor_table(records).splitlines()[2:] == ["| cola | 91.0 [90.0, 92.0] | 25 / 75 |"]
    (line,) = page.error_table(records).splitlines()[2:]
    assert line == f"| sst2, bilstm-distilled | 22 | 4 / 1 | {' | '.join(['0 / 0'] * 8)} | 0 / 2 |"


def made(records: list[page.Record]) -> list[str]:
    return list(page.tables(records, "data", "models"))


def test_a_table_is_made_where_every_task_has_what_it_needs(kept: Path, whole: list[page.Record]) -> None:
    """A task that was not measured must not drop out of what was published."""
    assert made(collected(kept)) == ["time-commands"]
    assert made(whole) == [*page.MAKERS, "time-commands"]
    some = [dataclasses.replace(record, study=None) for record in whole]
    assert made(some) == ["int8", "executor", "errors", "time-commands"]
    assert page.collect(kept / "none")[0].study is None


def test_the_page_says_how_and_by_which_commands(whole: list[page.Record]) -> None:
    texts = page.tables(whole, "data", "models")
    assert texts["time"].startswith("P, 2 threads") and "medians of 5 repetitions" in texts["time"]
    assert "--study.exits runs/results/sst2/seed0/exits-deebert" in texts["time-commands"]


def test_errors_are_kept_from_the_sweep(kept: Path) -> None:
    assert (kept / "sst2/errors.png").read_bytes() == b"figure"
    assert (kept / "sst2/errors.csv").read_text() == ERRORS


def test_steps_use_the_trained_tiers() -> None:
    steps: list[Step] = list(measured_steps(Cell("cola", data="data", models="models", runs="runs")))
    kept = ["cola/seed0/study/kept", "cola/seed0/study-int8/kept", "cola/seed0/executor"]
    assert [step.name for step in steps if isinstance(step, Measured)] == kept
    assert [step.name for step in steps] == ["cola/seed0/study", kept[0], "cola/seed0/study-int8", *kept[1:]]
    assert "[runs/cola/seed0/layers2-distilled/tier, runs/cola/seed0/super/tier]" in steps[0].command
    assert "[{path: runs/cola/seed0/super/tier, dtype: int8}, runs/cola/seed0/super/tier]" in steps[2].command
