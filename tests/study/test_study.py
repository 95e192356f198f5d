"""A small study from end to end: every model is measured, and the executor takes the stages of the table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dial.inference.operating_point import Sweep
from dial.inference.run import load_network
from dial.inference.staged import StagedModel
from dial.study import rivals
from dial.study.figure import study_figure
from dial.study.report import render
from dial.study.study import Study, StudySettings
from dial.tiers.precision import missing_route
from dial.tiers.tier import Tier
from tests.inference.run_folder import make_run
from tests.tiers import small

SETTINGS = {"rows": 14, "repeats": 2, "targets": (0.95, 0.9), "pad_to": 12}


def runs_of(folder: Path, tiers: list[Tier], **settings: Any) -> Sweep:
    return Sweep(make_run(folder, tiers, **settings))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    torch.manual_seed(0)
    tiers = [small.plain_tier("swift", model_type="bilstm", words=12), small.plain_tier("super", 2)]
    return runs_of(tmp_path_factory.mktemp("cascade"), tiers)


@pytest.fixture(scope="module")
def exits(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    torch.manual_seed(1)
    return runs_of(tmp_path_factory.mktemp("exits"), [small.exits_tier("model", small.plain_tier("base"))])


def study_of(sweep: Sweep, cache: Path, others: Any = None, **settings: Any) -> Study:
    units = dict(enumerate(small.texts(160, seed=5)))
    network = load_network(sweep, {}, "cpu")
    return Study(network, sweep.table, "test", units, StudySettings(**{**SETTINGS, **settings}), cache, others)


def test_everything_is_measured(cascade: Sweep, exits: Sweep, tmp_path: Path) -> None:
    table = exits.table
    table = dataclasses.replace(table, label=cascade.table.label)
    study = study_of(cascade, tmp_path, (load_network(exits, {}, "cpu"), table))
    results = study.run()
    others = [f"super-{b}-{dtype}" for b in rivals.installed() for dtype in rivals.OF_BACKENDS[b]]
    names = ["swift", "super", "super-padded", "super-bfloat16", "super-int8", *others, "super-pipeline", "exits"]
    assert [c["name"] for c in results["contenders"]] == [n for n in names if n not in results["skipped"]]
    assert set(results["skipped"]) <= ({"super-int8"} if missing_route() else set())
    assert results["rows"] == 14 and results["rows_of_split"] == 80
    by_name = {c["name"]: c for c in results["contenders"]}
    for each in results["contenders"]:
        assert each["single"]["mean"]["median"] > 0 and each["batched"]["rows_per_second"]["median"] > 0
        assert each["single"]["p50"]["median"] <= each["single"]["p95"]["median"] <= each["single"]["p99"]["median"]
    assert by_name["super"]["single"]["speedup"] == 1
    assert by_name["super-padded"]["agrees"] == 1 and by_name["super-padded"]["padded_to"] == 12
    part = cascade.table.of_split("test").take(study.sampled)
    assert by_name["super"]["quality"] == pytest.approx((part.predictions[:, 1] == part.label).mean())
    assert by_name["swift"]["quality"] == pytest.approx((part.predictions[:, 0] == part.label).mean())
    assert {p["method"] for p in results["points"]} == {"cascade", "random", "oracle", "exits"}
    assert [(t["target"], t["batch"]) for t in results["throughput"]] == [
        (target, batch) for target in (0.95, 0.9) for batch in ("1", "best")
    ]
    assert len(results["prediction"]) == 4 and all(p["ratio"] > 0 for p in results["prediction"])
    assert "super-padded" in render(results)
    assert study.times is not None and set(study.times.tiers) == {"swift", "super"}
    timed = study.times.timed(cascade.table)  # the tiers are the table's
    assert (timed.macs[:, 1] > timed.macs[:, 0]).all()


def test_a_batch_size_that_is_set_is_not_searched_for(
    cascade: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "installed", list)  # they take their time, and part in another test
    results = study_of(cascade, tmp_path, rows=6, repeats=1, batch_size=3).run()
    assert not list(tmp_path.rglob("batch-sizes/*.json"))
    for each in results["contenders"]:
        assert each["batch_size"] == 3 and list(each["throughput"]) == ["3"]
        assert each["throughput"]["3"] == pytest.approx(each["batched"]["rows_per_second"]["median"], rel=1e-6)
    assert [run["batch_sizes"] for run in results["throughput"] if run["batch"] == "best"] == [
        {"swift": 3, "super": 3}
    ] * 2
    study_figure(results)
    with pytest.raises(ValueError, match="`batch_size` must be a whole number from 1 up, but got 0"):
        StudySettings(batch_size=0)


def test_the_executor_takes_the_stages_of_the_table(cascade: Sweep, tmp_path: Path) -> None:
    study = study_of(cascade, tmp_path)
    point = next(p for p in study.points if (p.method, p.reading) == ("cascade", "expected"))
    run: dict[str, Any] = {"point": point, "batch_sizes": {"swift": 4, "super": 2}}
    run |= {"model_ms": [], "wall_ms": [], "processor_ms": []}
    study._execute(run)
    assert run["taken"].tolist() == point.taken.stages[study.sampled].tolist()
    assert 0 < run["model_ms"][0] < run["wall_ms"][0]


def test_without_calibration_rows_points_are_cross_fitted(tmp_path: Path) -> None:
    torch.manual_seed(2)
    tiers = [small.plain_tier("swift"), small.plain_tier("super", 2)]
    sweep = runs_of(tmp_path / "run", tiers, calibration="crossfit")
    study = study_of(sweep, tmp_path, rows=8, repeats=1)
    assert study.held_out is None
    assert {p.reading for p in study.points} == {"expected", "in_sample"}
    assert all(len(p.taken.macs) == 160 for p in study.points)


def test_refusals(cascade: Sweep, exits: Sweep, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`rows` must be a whole number from 1 up, but got 0"):
        StudySettings(rows=0)
    with pytest.raises(ValueError, match="`targets` must be shares"):
        StudySettings(targets=(1.5,))
    with pytest.raises(ValueError, match="`score` must be one of energy, softmax, random, but got 'margin'"):
        study_of(cascade, tmp_path, score="margin")
    table = exits.table
    other = dataclasses.replace(table, label=(cascade.table.label + 1) % 3)
    with pytest.raises(ValueError, match="`exits` must be a run over the same rows"):
        study_of(cascade, tmp_path, (load_network(exits, {}, "cpu"), other))


@pytest.mark.parametrize("name", ["super-int8", "super-padded", "exits"])
def test_no_tier_is_called_what_a_rival_is_called(name: str, cascade: Sweep, exits: Sweep, tmp_path: Path) -> None:
    """Two under one name would be one in every table."""
    network = load_network(cascade, {}, "cpu")
    network.tiers[0].name = name
    other = (load_network(exits, {}, "cpu"), exits.table)
    with pytest.raises(ValueError, match=f"`names` must differ from what the study calls its rivals.* but got {name};"):
        Study(StagedModel(list(network.tiers)), cascade.table, "test", {}, StudySettings(), tmp_path, other)


def test_a_rival_that_cannot_run_is_left_out_and_named(
    cascade: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*args: Any) -> Tier:
        raise RuntimeError('"addmm" not implemented for this device')

    monkeypatch.setattr(rivals, "load_tier", lacking)
    study = study_of(cascade, tmp_path)
    assert [c.name for c in study.contenders] == ["swift", "super", "super-padded", "super-pipeline"]
    assert "not implemented" in study.skipped["super-bfloat16"] and "super-int8" in study.skipped


def test_a_model_with_exits_is_studied_alone(exits: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "installed", list)  # they take their time, and part in another test
    results = study_of(exits, tmp_path, rows=6, repeats=1, targets=(0.9,)).run()
    point = next(p for p in results["points"] if p["method"] == "cascade")
    assert list(point["shares"]) == ["model.layer1", "model.layer2", "model.layer3"]
    assert np.isfinite(point["speedup"])
