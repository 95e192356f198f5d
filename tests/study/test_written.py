"""The study of tiers that write: each row of its table against the stage table; answers that differ are counted."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from dial.inference.staged import StagedModel
from dial.stages.table import StageTable
from dial.study.study import StudySettings
from dial.study.written import WrittenStudy, render_written, write_written_study
from tests.inference.test_written import networks, table_of
from tests.tiers import small

ROWS = 24


@pytest.fixture(scope="module")
def parts() -> tuple[StagedModel, StageTable, dict[int, str]]:
    """Label words, of which the Super is right in most rows; the first rows are for calibration."""
    network, units = networks("label words"), small.texts(ROWS)
    table = table_of("label words", network, units)
    label = np.where(np.arange(ROWS) % 5 == 0, 1, table.predictions[:, -1]).clip(0)
    split = np.where(np.arange(ROWS) < 8, "calibration", "test")
    return network, dataclasses.replace(table, label=label, split=split), dict(enumerate(units))


def study(parts: Any, cache: Any, **settings: Any) -> WrittenStudy:
    network, table, units = parts
    return WrittenStudy(network, table, "test", units, StudySettings(**{"rows": 9, "repeats": 2, **settings}), cache)


def test_each_row_is_the_executor_at_a_point_of_the_table(parts, tmp_path) -> None:
    results = study(parts, tmp_path, targets=(0.9, 0.5)).run()
    rows = parts[1].of_split("test")
    arms = results["arms"]
    assert [(arm["name"], arm["target"], arm["batch"]) for arm in arms] == [
        (name, target, batch)
        for batch in ("1", "best")
        for name, target in (("swift", None), ("super", None), ("cascade", 0.9), ("cascade", 0.5))
    ]
    assert results["rows"] == 9 and results["rows_of_split"] == 16 and results["score"] == "energy"
    right = rows.predictions == rows.label[:, None]
    for arm in arms:
        assert arm["otherwise"] == 0
        stay = rows.scores["energy"][:, 0] >= arm["thresholds"][0]
        assert arm["swift_ratio"] == stay.mean()
        assert arm["quality"] == pytest.approx(np.where(stay, right[:, 0], right[:, 1]).mean())
        spent = np.where(stay, rows.macs[:, 0], rows.macs[:, 1])
        if arm["name"] == "super":  # the Swift does not run
            spent = rows.macs_reference
        assert arm["flops_speedup"] == pytest.approx(rows.macs_reference.mean() / spent.mean())
        assert 0 < arm["model_ms"]["low"] <= arm["wall_ms"]["high"] and arm["processor_ms"]["median"] > 0
    assert [arm["time_speedup"]["median"] for arm in arms if arm["name"] == "super"] == [1, 1]
    text = render_written(results)
    assert text.count("E-LANG, Table 1") == 2 and "cascade" in text
    write_written_study(tmp_path / "study", results)
    assert (tmp_path / "study/study.md").read_text() == text and (tmp_path / "study/study.json").is_file()


def test_answers_other_than_the_replays_are_counted(parts, tmp_path) -> None:
    network, table, units = parts
    texts = table.texts.copy()
    texts[-1, 1] = "another"  # the last row is timed in each study
    results = study((network, dataclasses.replace(table, texts=texts), units), tmp_path, repeats=1).run()
    counts = {(arm["name"], arm["batch"]): arm["otherwise"] for arm in results["arms"] if arm["target"] is None}
    assert counts == {("swift", "1"): 0, ("swift", "best"): 0, ("super", "1"): 1, ("super", "best"): 1}


def test_a_score_that_the_table_lacks_is_refused(parts, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"`score` must be one of .*energy.*, but got 'margin'"):
        study(parts, tmp_path, score="margin")
    with pytest.raises(ValueError, match=r"`score` must be one that looks at the rows, but got 'random'; train"):
        study(parts, tmp_path, score="random")
