"""The search of one threshold per stage, against loops over whole tables."""

import dataclasses

import numpy as np
import pytest

from dial.stages.metrics.metrics import METRICS, evaluate
from dial.stages.table import StageTable
from dial.tradeoff.levels import Levels
from dial.tradeoff.per_stage import TOLERANCE, _Problem
from tests.stages.population import logits_table


def problem(rows: int, stages: int, metric: str, target: float, seed: int) -> tuple[StageTable, _Problem]:
    """A table of tied scores, where some rows cost no more at a later stage, and its search."""
    strengths = tuple(np.linspace(0.6, 2.5, stages))
    table = logits_table(rows, seed=seed, splits=("calibration",), strengths=strengths, metrics=(metric,))
    most = 3 if seed else 1  # by 0 all stages cost the same, and only quality counts
    macs = np.cumsum(np.random.default_rng(seed).integers(0, most, size=(rows, stages)), axis=1) + 1.0
    scores = {"softmax": table.scores["softmax"].round(1 if seed % 2 else 2)}
    table = dataclasses.replace(table, scores=scores, macs=macs, decide_macs=macs)
    statistics = table.metric_statistics(metric)[1]
    levels = Levels.of(scores["softmax"], table.sample_id, macs, statistics, rows)
    return table, _Problem(levels, METRICS[metric], target)


def outcome(table: StageTable, metric: str, thresholds: list[np.ndarray], levels: list[int]) -> tuple[float, float]:
    """Quality and mean cost where each row stays at the first stage whose threshold it reaches."""
    answers, cost = [], 0.0
    for row, scores in enumerate(table.scores["softmax"]):
        stage = 0
        while stage < len(levels) and scores[stage] < thresholds[stage][levels[stage]]:
            stage += 1
        answers.append(table.predictions[row, stage])
        cost += table.macs[row, stage]
    return evaluate(metric, table.label, np.array(answers)), cost / len(table)


def naive_round(
    table: StageTable, metric: str, thresholds: list[np.ndarray], least: float, levels: list[int], held: int | None
) -> list[int]:
    """Stage after stage, try all levels on all rows and take the best one."""
    levels = list(levels)
    for stage, values in enumerate(thresholds):
        if stage == held:
            continue
        tried = [
            outcome(table, metric, thresholds, [*levels[:stage], level, *levels[stage + 1 :]])
            for level in range(len(values))
        ]
        if len(set(tried)) == 1 and tried[0][0] >= least:  # no row comes here, or none is changed by this
            best = list(range(len(values)))
        else:
            allowed = [level for level, (quality, _) in enumerate(tried) if quality >= least]
            if not allowed:
                continue
            cheapest = min(tried[level][1] for level in allowed)
            best = [level for level in allowed if tried[level][1] <= cheapest * (1 + 1e-12)]
            highest = max(tried[level][0] for level in best)
            best = [level for level in best if tried[level][0] >= highest]
        levels[stage] = 0 if best[0] == 0 else best[-1] if best[-1] == len(values) - 1 else best[len(best) // 2]
    return levels


@pytest.mark.parametrize("metric", ["accuracy", "f1", "mcc"])
@pytest.mark.parametrize("seed", range(4))
def test_a_round_sets_each_stage_to_the_best_of_all_its_levels(metric: str, seed: int) -> None:
    target = (1.0, 0.95, 0.9, 0.8)[seed]
    table, search = problem(50, 3 + seed % 2, metric, target, seed)
    thresholds = search.rows.thresholds
    rng, moved = np.random.default_rng(seed), 0
    starts = [search.never, *(rng.integers(0, search.never + 1) for _ in range(4))]
    for start, held in zip(starts, (None, None, 1, 0, None), strict=True):
        cost, end_cost, end = search.round(start, held)
        expected = naive_round(table, metric, thresholds, search.least, start.tolist(), held)
        for levels, ours in ((start.tolist(), cost), (end.tolist(), end_cost)):
            quality, macs = outcome(table, metric, thresholds, levels)
            assert search.quality(np.array(levels)) == pytest.approx(quality)
            assert ours == pytest.approx(macs if quality >= search.least else np.inf)
            assert ours == search.cost(np.array(levels))
        # Where no row comes to a stage any level is as good, so what counts is what is done with the rows.
        assert outcome(table, metric, thresholds, end.tolist()) == outcome(table, metric, thresholds, expected)
        moved += end.tolist() != start.tolist()
    assert moved >= 3


def test_the_least_quality_is_the_share_of_the_last_stages() -> None:
    table, search = problem(80, 3, "f1", 0.9, 1)
    assert search.least == pytest.approx(0.9 * evaluate("f1", table.label, table.predictions[:, -1]) - TOLERANCE)


def test_a_descent_ends_where_no_round_changes_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    _, search = problem(120, 4, "accuracy", 0.95, 2)
    rounds: list[np.ndarray] = []
    original = _Problem.round

    def counted(self: _Problem, levels: np.ndarray) -> tuple[float, float, np.ndarray]:
        rounds.append(levels)
        return original(self, levels)

    monkeypatch.setattr(_Problem, "round", counted)
    cost, end = search.descend(search.never, 20)
    assert 1 < len(rounds) < 20
    assert cost == search.cost(end) < search.cost(search.never)
    _, again, better = original(search, end)
    assert not again < cost or np.array_equal(better, end)
    rounds.clear()
    search.least = 2.0  # which no thresholds reach
    assert search.descend(search.never, 20)[0] == np.inf
    assert len(rounds) == 1
