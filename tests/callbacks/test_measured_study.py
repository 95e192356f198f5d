"""The study behind `dial test --study.rows`: what it leaves, and what it refuses before any model runs."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import LightningModule, Trainer

from callbacks import MeasuredStudy, ThresholdSweep, measured_study
from datamodules import GLUEDataModule
from dial.costs.times import TimeTable
from dial.report.figures import plots
from dial.study import rivals
from lightning_modules import Cascade, Classifier

LABELS = ["negative", "positive"]


@pytest.fixture(autouse=True)
def _no_other_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take their time, and part in tests of the study itself."""
    monkeypatch.setattr(rivals, "installed", list)


@pytest.fixture
def run_test(tmp_path: Path, glue: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Function: test a module with a sweep and a study of six rows; gives the run folder."""
    monkeypatch.setattr(plots, "figures", lambda *values: {})

    def run(module: LightningModule, name: str = "run", trial: bool = False, **settings: Any) -> Path:
        data = GLUEDataModule(
            "sst2", str(glue("sst2")), cache_dir=str(tmp_path / "cache"), calibration_fraction=0.4, min_calibration=20
        )
        folder = tmp_path / name
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            default_root_dir=str(folder),
            limit_test_batches=1 if trial else None,
            callbacks=[ThresholdSweep(bootstrap=100), MeasuredStudy(**{"rows": 6, "repeats": 1, **settings})],
        )
        trainer.test(module, datamodule=data, verbose=False)
        return folder

    return run


@pytest.fixture(scope="module")
def tiers(make_tiny_bert) -> list[str]:
    return [str(make_tiny_bert(layers=1, seed=1)), str(make_tiny_bert(layers=2, seed=2))]


def test_a_cascade_leaves_a_study(run_test, tiers, capsys) -> None:
    folder = run_test(Cascade(tiers, label_names=LABELS, metrics=["accuracy"]))
    study = folder / "study"
    assert sorted(path.name for path in study.iterdir()) == ["study.json", "study.md", "study.png", "times.json"]
    results = json.loads((study / "study.json").read_text())
    assert results["rows"] == 6 and results["task"] == "sst2" and results["partial"] is False
    assert results["machine"]["threads"] >= 1
    assert (study / "study.md").read_text() in capsys.readouterr().out
    times = TimeTable.load(study / "times.json")
    known = json.loads((folder / "sweep" / "summary.json").read_text())["table"]["tiers"]
    assert {name: tier.fingerprint for name, tier in times.tiers.items()} == {
        name: tier["fingerprint"] for name, tier in known.items()
    }
    again = Cascade(tiers, label_names=LABELS, metrics=["accuracy"])
    run_test(again)  # the same settings: measured again
    with pytest.raises(ValueError, match=r"`study.out` must be a folder without a study of other settings"):
        run_test(again, repeats=2)


def test_by_default_there_is_none(run_test, tiers) -> None:
    folder = run_test(Cascade(tiers, label_names=LABELS, metrics=["accuracy"]), rows=0)
    assert (folder / "sweep").is_dir() and not (folder / "study").exists()


def test_a_trial_run_is_marked(run_test, tiers) -> None:
    folder = run_test(Cascade(tiers, label_names=LABELS, metrics=["accuracy"]), trial=True)
    assert json.loads((folder / "study" / "study.json").read_text())["partial"] is True
    assert "PARTIAL" in (folder / "study" / "study.md").read_text()


def test_refusals_before_any_model_runs(run_test, tiers, tmp_path) -> None:
    single = Classifier(path=tiers[0], label_names=LABELS, metrics=["accuracy"])
    with pytest.raises(ValueError, match=r"`study\.rows` compares stages, but the model has one"):
        run_test(single)
    assert not (tmp_path / "run" / "sweep").exists()
    cascade = Cascade(tiers, label_names=LABELS, metrics=["accuracy"])
    with pytest.raises(ValueError, match=r"`study.exits` must be a folder that `dial test` left"):
        run_test(cascade, exits=str(tmp_path))
    with pytest.raises(ValueError, match=r"`study.repeats` must be a whole number from 1 up, but got 0"):
        MeasuredStudy(rows=5, repeats=0)
    with pytest.raises(ValueError, match=r"`study.rows` must be a whole number from 1 up, but got -3"):
        MeasuredStudy(rows=-3)


def test_what_the_study_cannot_use_is_refused_before_any_model_runs(run_test, tiers, tmp_path, monkeypatch) -> None:
    def cascade(**settings: Any) -> Cascade:
        return Cascade(tiers, label_names=LABELS, metrics=["accuracy"], **settings)

    other = run_test(cascade(), "other", rows=0)
    monkeypatch.setattr(Cascade, "test_step", lambda *args: pytest.fail("a model runs"))
    with pytest.raises(ValueError, match=r"`study.exits` must be a run of one model with several exits, but .* has"):
        run_test(cascade(), exits=str(other))
    with pytest.raises(ValueError, match=r"`study.score` must be one of energy, .*, but got 'guess'"):
        run_test(cascade(), score="guess")
    with pytest.raises(ValueError, match=r"`names` must differ from what the study calls its rivals"):
        run_test(cascade(names=["super-int8", "super"]))


def test_exits_over_other_rows_are_refused_before_any_model_runs(run_test, tiers, tmp_path, monkeypatch) -> None:
    sweep = SimpleNamespace(
        settings={"tiers": {"model": {}}},
        stages=("model.layer1", "model.layer2"),
        summary={"partial": True},
        label_names=LABELS,
        table=SimpleNamespace(splits=["test"], of_split=lambda name: SimpleNamespace(sample_id=np.arange(3))),
    )
    monkeypatch.setattr(measured_study, "Sweep", lambda folder: sweep)
    monkeypatch.setattr(Cascade, "test_step", lambda *args: pytest.fail("a model runs"))
    cascade = Cascade(tiers, label_names=LABELS, metrics=["accuracy"])
    for change, message in (
        ({}, "`study.exits` must hold a whole sweep, but exits is of a trial run"),
        (
            {"summary": {"partial": False}, "label_names": ["no"]},
            "`study.exits` must be of the labels .* has the labels no",
        ),
        (
            {"label_names": LABELS},
            "`study.exits` must be a run over the same rows, but exits has 3 rows with other ids in",
        ),
    ):
        vars(sweep).update(change)
        with pytest.raises(ValueError, match=message):
            run_test(cascade, exits="exits")


def test_a_study_of_other_tiers_or_of_few_rows_replaces_none(run_test, tiers, tmp_path) -> None:
    out = str(tmp_path / "shared")
    run_test(Cascade(tiers, label_names=LABELS, metrics=["accuracy"]), out=out, rows=2)
    before = (tmp_path / "shared" / "study.json").read_bytes()
    refused = r"`study.out` must be a folder without a study of other settings or models, but .*shared"
    with pytest.raises(ValueError, match=refused):
        run_test(Cascade([tiers[0]] * 2, label_names=LABELS, metrics=["accuracy"]), "b", out=out, rows=2)
    with pytest.raises(ValueError, match=refused):
        run_test(Cascade(tiers, label_names=LABELS, metrics=["accuracy"]), "c", True, out=out, rows=2)
    assert (tmp_path / "shared" / "study.json").read_bytes() == before
    (tmp_path / "shared" / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"`study.out` must lead to readable files"):
        run_test(Cascade(tiers, label_names=LABELS, metrics=["accuracy"]), "d", out=out, rows=2)
