"""What measured times say of points, against sums row by row; and the page and the figure that show it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dial.stages.stage import Stage
from dial.stages.table import StageTable
from dial.study.analysis import (
    Measured,
    Times,
    analyse,
    choose_exits,
    choose_points,
    nearest,
    ratio,
    stage_times,
    timed_table,
)
from dial.study.figure import study_figure
from dial.study.report import render, write_study
from tests.stages.tables import random_table

REPEATS = 3


def scored(rows: int = 120, stages: int = 2, seed: int = 0) -> StageTable:
    table = random_table(rows, stages, seed=seed, splits=("calibration", "test"))
    return table.with_scores(["softmax", "entropy", "random"])


def measured(rows: int = 120, sampled: int = 20) -> Measured:
    """A study with made-up times: of the swift about 1 ms a row, of the super about 10."""
    table = scored(rows)
    whole = table.of_split("test")
    random = np.random.default_rng(1)
    taken = np.unique(np.linspace(0, len(whole) - 1, sampled).round().astype(int))

    def times(level: float, exits: int = 1) -> Times:
        values = level * np.cumsum(random.uniform(0.5, 1.5, (REPEATS, len(taken), exits)), axis=2)
        return Times(values, values[:, :, -1].sum(axis=1) * 1.5)

    names = {"tier0": 1.0, "tier1": 10.0, "tier1-padded": 40.0, "tier1-int8": 5.0}
    points = choose_points(whole, table.of_split("calibration"), "softmax", (0.99, 0.9))
    other = scored(rows, stages=3, seed=0)
    exits = tuple(Stage(f"exits{i}", "exits", i) for i in range(3))
    other = dataclasses.replace(other, stages=exits, lengths={"exits": other.lengths["tier0"]})
    reference = {"expected": 0.8, "in_sample": 0.8}
    chosen = choose_exits(other.of_split("test"), other.of_split("calibration"), "entropy", (0.99, 0.9), reference)
    runs = [
        {"point": next(p for p in points if (p.method, p.reading, p.target) == ("cascade", "expected", target))}
        | {"target": target, "batch": batch, "batch_sizes": {"tier0": 8, "tier1": 4}, "shares": {"tier0": 0.5}}
        | {"model_ms": [4.0, 5.0, 6.0], "wall_ms": [5.0, 6.0, 7.0], "processor_ms": [8.0, 9.0, 7.0]}
        | {"predicted_ms": 5.5}
        for target in (0.99, 0.9)
        for batch in ("1", "best")
    ]
    about = {
        name: {"dtype": "float32", "padded_to": 64 if "padded" in name else None, "batch_size": 4}
        | {"throughput": {"1": 50.0, "2": 80.0, "4": 90.0}}
        for name in [*names, "exits"]
    }
    outputs = dict.fromkeys(names, whole.outputs[taken, -1])
    single = {name: times(level) for name, level in names.items()} | {"exits": times(4.0, 3)}
    batched = {name: times(level / 3) for name, level in names.items()} | {"exits": times(1.0, 3)}
    found = (other.of_split("test"), chosen, "exits")
    return Measured(whole, taken, "softmax", points, single, batched, outputs, about, "tier1-padded", found, runs)


def test_speed_ups_are_sums_of_what_ran() -> None:
    study = measured()
    found = analyse(study)
    table, taken = study.rows, study.sampled
    for entry, point in zip(found["points"], study.points, strict=False):
        stays = point.taken.stages == 0 if point.method != "random" else point.taken.chances_of_rows[:, 0]
        stays, skipped = stays.astype(float), point.taken.left_out == (("tier0",),)
        ratios = []
        for repeat in range(REPEATS):
            spent, alone = 0.0, 0.0
            for place, row in enumerate(taken):
                spent += 0 if skipped else study.single["tier0"].rows[repeat, place, 0]
                spent += (1 - stays[row]) * study.single["tier1"].rows[repeat, place, 0]
                alone += study.single["tier1"].rows[repeat, place, 0]
            ratios.append(alone / spent)
        assert entry["speedup"] == pytest.approx(sorted(ratios)[1])
        low, high = entry["speedup_interval"]
        assert low <= entry["speedup"] * 1.02 and high >= entry["speedup"] * 0.98
        right = table.predictions == table.label[:, None]
        assert entry["quality"] == pytest.approx((stays * right[:, 0] + (1 - stays) * right[:, 1]).mean())
        assert entry["kept"] == pytest.approx(entry["quality"] / found["super_quality"])
        assert entry["shares"]["tier0"] == pytest.approx(stays.mean())


def test_points_are_those_of_each_method_and_reading() -> None:
    found = analyse(measured())
    kinds = [(p["target"], p["method"], p["reading"]) for p in found["points"]]
    cascade = [("cascade", "expected"), ("cascade", "in_sample"), ("random", "expected"), ("random", "in_sample")]
    cascade.append(("oracle", "in_sample"))
    exits = [("exits", "expected"), ("exits", "in_sample")]
    assert kinds == [(t, *kind) for t in (0.99, 0.9) for kind in cascade] + [
        (t, *e) for t in (0.99, 0.9) for e in exits
    ]
    by = {(p["target"], p["method"], p["reading"]): p for p in found["points"]}
    for target in (0.99, 0.9):
        assert by[target, "cascade", "in_sample"]["kept"] >= target - 1e-9
        assert by[target, "oracle", "in_sample"]["speedup"] >= by[target, "cascade", "in_sample"]["speedup"] * 0.9


def test_exits_are_held_to_the_supers_quality() -> None:
    table = scored(stages=3).of_split("test")
    own = (table.predictions[:, -1] == table.label).mean()
    (within,) = choose_exits(table, None, "entropy", (0.99,), {"in_sample": own})
    answers = table.predictions[np.arange(len(table)), within.taken.stages]
    assert within.reached and (answers == table.label).mean() >= 0.99 * own - 1e-9
    (beyond,) = choose_exits(table, None, "entropy", (0.99,), {"in_sample": 1.2})
    assert not beyond.reached
    assert [p.reading for p in choose_exits(table, table, "entropy", (0.9,), {"in_sample": 0.5, "expected": 0.5})] == [
        "expected",
        "in_sample",
    ]


def test_a_cascade_with_exits_pays_the_whole_first_tier() -> None:
    stages = (Stage("a.one", "a", 0), Stage("a.two", "a", 1), Stage("b", "b", 0))
    table = random_table(4, stages=3)
    table = dataclasses.replace(table, stages=stages, lengths={})
    times = {
        "a": Times(np.array([[[1.0, 3.0]] * 4]), np.ones(1)),
        "b": Times(np.array([[[10.0]] * 4]), np.ones(1)),
    }
    assert stage_times(table, times)[0].tolist() == [[1, 3, 13]] * 4


def test_rows_that_were_not_timed_take_the_times_of_their_length() -> None:
    lengths = np.array([5, 20, 9, 30, 6, 21, 8, 28, 5])
    sampled = np.array([0, 1, 2])
    for row, found in enumerate(nearest(lengths, sampled)):
        assert abs(lengths[sampled][found] - lengths[row]) == min(abs(lengths[sampled] - lengths[row]))
    same = nearest(np.full(6, 4), np.array([0, 1, 2]))
    assert np.bincount(same).tolist() == [2, 2, 2]
    table = random_table(40)
    taken = np.arange(0, 40, 3)
    values = np.random.default_rng(0).uniform(1, 2, (3, len(taken), 1))
    times = {name: Times(values, np.ones(3)) for name in ("tier0", "tier1")}
    timed = timed_table(table, taken, times)
    assert timed.macs[taken, 0] == pytest.approx(np.median(values, axis=0)[:, 0])
    assert timed.macs[taken, 1] == pytest.approx(2 * np.median(values, axis=0)[:, 0])


def test_the_interval_of_a_ratio_covers_it() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        reference = random.gamma(4, 2.5, (1, 200)) * random.uniform(0.95, 1.05, (5, 1))
        cost = reference * np.where(random.uniform(size=200) < 0.5, 0.1, 1.1)
        middle, (low, high) = ratio(reference, cost, seed=trial)
        assert low <= middle <= high
        covered += low <= 1 / 0.6 <= high
    assert covered >= 51  # of 60, expected 57


def test_throughput_and_prediction() -> None:
    study = measured()
    found = analyse(study)
    assert [(t["target"], t["batch"]) for t in found["throughput"]] == [
        (0.99, "1"),
        (0.99, "best"),
        (0.9, "1"),
        (0.9, "best"),
    ]
    first = found["throughput"][0]
    assert first["rows_per_second"] == {"median": 200.0, "low": pytest.approx(1000 / 6), "high": 250.0}
    alone = study.single["tier1"].last().sum(axis=1) / len(study.sampled)
    wanted = sorted(a / b for a, b in zip(alone, [4, 5, 6], strict=True))
    assert first["speedup"]["median"] == pytest.approx(wanted[1])
    assert found["prediction"][0] | {} == {
        "target": 0.99,
        "batch": "1",
        "predicted_ms": 5.5,
        "measured_ms": 5.0,
        "ratio": pytest.approx(1.1),
    }


def complete() -> dict[str, Any]:
    machine = {"processor": "some", "threads": 2, "device": "cpu", "instructions": "AVX2", "torch": "2.13"}
    settings = {"targets": [0.99, 0.9], "repeats": REPEATS}
    return {"machine": machine, "settings": settings, "task": "sst2", "skipped": {}} | analyse(measured())


def test_the_page_says_every_number(tmp_path: Path) -> None:
    results = complete() | {"skipped": {"tier1-bfloat16": "no bf16 here"}, "partial": True}
    text = render(results)
    for each in results["contenders"]:
        assert f"{each['single']['mean']['median']:.2f}" in text and each["name"] in text
    for point in results["points"]:
        if point["reached"]:
            assert f"{point['speedup']:.2f} [{point['speedup_interval'][0]:.2f}" in text
    assert "PARTIAL" in text and "Not measured: tier1-bfloat16: no bf16 here" in text and "2 thread(s)" in text
    write_study(tmp_path / "study", results)
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["study.json", "study.md", "study.png"]
    assert json.loads((tmp_path / "study" / "study.json").read_text())["rows"] == results["rows"]


def test_the_figure_has_a_line_for_each_method_and_a_dot_for_each_model() -> None:
    results = complete()
    figure = study_figure(results)
    first, second, third, fourth = figure.axes[:4]
    assert {line.get_label() for line in first.lines} >= {"cascade", "random", "oracle", "exits"}
    cascade = next(line for line in first.lines if line.get_label() == "cascade")
    wanted = next(c for c in results["curves"] if (c["kind"], c["method"]) == ("single", "cascade"))
    assert cascade.get_xdata().tolist() == wanted["ms"]
    assert {text.get_text() for text in second.get_legend().get_texts()} >= {"cascade, batch 1", "exits, best batch"}
    assert [t.get_text() for t in third.get_yticklabels()][:2] == ["tier0", "tier1"]
    assert len(fourth.get_legend().get_texts()) == 4
