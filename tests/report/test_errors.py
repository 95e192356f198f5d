"""Rows corrected and broken per quantile of a score, against counting them one by one."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from dial.report.errors import errors_of_splits, quantile_of, stage_errors, write_errors
from dial.report.figures.errors import errors_figure
from dial.stages.table import StageTable
from tests.stages.tables import random_table, regression_table


def scored(**settings: object) -> StageTable:
    return random_table(**settings).with_scores(["energy", "softmax"])  # type: ignore[arg-type]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("stages", [2, 4])
def test_counts_are_those_of_a_loop(ties: bool, stages: int) -> None:
    table = scored(rows=57, stages=stages, classes=3, ties=ties)
    found = stage_errors(table, "energy", 5)
    assert [each.stage for each in found] == list(table.stage_names[:-1])
    for s, each in enumerate(found):
        scores = table.scores["energy"][:, s].tolist()
        wanted = {name: [0] * 5 for name in ("corrected", "broken", "both_right", "both_wrong")}
        for row, score in enumerate(scores):
            below, equal = sum(other < score for other in scores), sum(other == score for other in scores)
            part = math.floor(5 * (below + equal / 2) / 57)
            before = bool(table.predictions[row, s] == table.label[row])
            after = bool(table.predictions[row, -1] == table.label[row])
            kinds = {(0, 1): "corrected", (1, 0): "broken", (1, 1): "both_right", (0, 0): "both_wrong"}
            wanted[kinds[before, after]][part] += 1
            assert each.low[part] <= score <= each.high[part]
        for name, counts in wanted.items():
            assert getattr(each, name).tolist() == counts
        assert each.rows.sum() == 57
        gained = (table.predictions[:, -1] == table.label).sum() - (table.predictions[:, s] == table.label).sum()
        assert each.corrected.sum() - each.broken.sum() == gained
        assert each.share("corrected").sum() == pytest.approx(each.corrected.sum() / 57)


def test_quantiles_are_equal_without_ties_and_keep_ties_together() -> None:
    random = np.random.default_rng(0)
    parts = quantile_of(random.permutation(np.arange(100.0)), 10)
    assert np.bincount(parts).tolist() == [10] * 10
    tied = np.array([0.0] * 30 + [1.0] * 70)
    assert [len(set(quantile_of(tied, 10)[tied == value].tolist())) for value in (0, 1)] == [1, 1]
    assert quantile_of(tied, 10)[0] == 1 and quantile_of(tied, 10)[-1] == 6  # the middles of ranks 15 and 65


def test_empty_quantiles_have_no_scores() -> None:
    table = scored(rows=20)
    table.scores["energy"][:, 0] = 1.5
    (each,) = stage_errors(table, "energy", 4)
    assert each.rows.tolist() == [0, 0, 20, 0]
    assert np.isnan(each.low[[0, 1, 3]]).all() and each.low[2] == each.high[2] == 1.5


def test_refusals() -> None:
    table = scored(splits=("calibration", "test"))
    with pytest.raises(ValueError, match="`table` must hold one split"):
        stage_errors(table, "energy")
    with pytest.raises(ValueError, match="`score` must be one of energy, softmax, but got 'entropy'"):
        stage_errors(table.of_split("test"), "entropy")
    with pytest.raises(ValueError, match="`quantiles` must be 1 or more, but got 0"):
        stage_errors(table.of_split("test"), "energy", 0)
    with pytest.raises(ValueError, match="classification"):
        stage_errors(regression_table(), "random")


def test_what_has_no_errors_gives_none() -> None:
    assert errors_of_splits(regression_table(), ["test"], ["random"]) == []
    assert errors_of_splits(scored(stages=1), ["test"], ["energy"]) == []


def test_the_file_holds_every_count(tmp_path: Path) -> None:
    table = scored(rows=60, stages=3, splits=("calibration", "test", "test_mismatched"))
    errors = errors_of_splits(table, ["test", "test_mismatched"], ["energy", "softmax"])
    write_errors(tmp_path / "errors.csv", errors)
    with (tmp_path / "errors.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 2 * 2 * 10
    for line in lines:
        (each,) = [e for e in errors if (e.split, e.score, e.stage) == (line["split"], line["score"], line["stage"])]
        part = int(line["quantile"]) - 1
        for name in ("rows", "corrected", "broken", "both_right", "both_wrong"):
            assert int(line[name]) == getattr(each, name)[part]
        if line["low"]:
            assert float(line["low"]) == each.low[part] and float(line["high"]) == each.high[part]
    write_errors(tmp_path / "trial.csv", errors, partial=True)
    with (tmp_path / "trial.csv").open() as file:
        assert {line["partial"] for line in csv.DictReader(file)} == {"true"}


def test_the_figure_says_every_share() -> None:
    table = scored(rows=90, stages=3, splits=("test", "test_mismatched"))
    errors = errors_of_splits(table, table.splits, ["softmax"])
    figure = errors_figure(errors)
    assert len(figure.axes) == 2
    for axis, split in zip(figure.axes, table.splits, strict=True):
        mine = [each for each in errors if each.split == split]
        said = [text.get_text() for text in axis.texts]
        shares = [each.share(name) for name in ("corrected", "broken") for each in mine]
        assert said == [f"{100 * share:.1f}" for row in shares for share in row if share]
        names = [label.get_text() for label in axis.get_yticklabels()]
        total = 100 * mine[0].corrected.sum() / mine[0].rows.sum()
        assert names[0] == f"tier0 F→T ({total:.1f} %)" and len(names) == 4
