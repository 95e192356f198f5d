"""Decisions asked stage by stage against the table's replay of whole rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dial.inference.epsilon import measure_epsilon
from dial.inference.executor import Executor
from dial.inference.router import Decision, replayed
from dial.stages import scores as routing
from tests.tiers import small

STAGES = ("a", "b", "c", "d")


def ask_all(decision: Decision, outputs: np.ndarray, split: int | None = None) -> np.ndarray:
    """The stage of each row of ``(N, S, C)``; from stage ``split`` on in another course, as another tier has it."""
    course, alive = decision.course(np.arange(len(outputs))), np.arange(len(outputs))
    stage_of = np.zeros(len(outputs), dtype=int)
    for stage in range(outputs.shape[1]):
        if stage == split and len(alive):
            previous, agreements = course.counts
            course = decision.course(np.arange(len(outputs)), (previous.copy(), agreements.copy()))
        stage_of[alive] = stage
        keep = course(stage, torch.from_numpy(alive), torch.from_numpy(outputs[alive, stage]))
        alive = alive[keep.numpy()]
    assert len(alive) == 0
    return stage_of


@pytest.mark.parametrize("rule", ["threshold", "per_stage", "patience"])
@pytest.mark.parametrize("score", [*routing.SCORES, "random"])
@pytest.mark.parametrize("split", [None, 2])
def test_agrees_with_the_replay(rule: str, score: str, split: int | None) -> None:
    random = np.random.default_rng(0)
    outputs = random.normal(size=(300, 4, 3)).astype(np.float32)
    temperatures = (1.0, 0.5, 2.0, 1.0)
    scores = small.scores_of(score, outputs, list(temperatures), seed=3)
    thresholds = tuple(np.quantile(scores[:, :3], [0.6, 0.5, 0.4], axis=0).diagonal().tolist())
    if rule == "threshold":
        thresholds = (thresholds[1],) * 3
    if rule == "patience":
        thresholds = (1.0,) * 3
    decision = Decision(STAGES, rule, score, thresholds, temperatures, seed=3)
    expected = replayed(decision, scores, outputs.argmax(axis=-1))
    assert len(np.unique(expected)) >= 3
    np.testing.assert_array_equal(ask_all(decision, outputs, split), expected)


def test_patience_of_numbers() -> None:
    outputs = np.array([[1.0, 1.4, 1.5, 9], [1.0, 2.0, 2.0, 9], [1.0, 2.0, 3.0, 9]], dtype=np.float32)[..., None]
    decision = Decision(STAGES, "patience", "patience", (1.0,) * 3, tolerance=0.5)
    expected = [1, 2, 3]
    np.testing.assert_array_equal(replayed(decision, np.zeros((3, 4)), outputs[..., 0].astype(np.float64)), expected)
    np.testing.assert_array_equal(ask_all(decision, outputs), expected)


def test_a_score_at_its_threshold_stays_and_infinities_are_kept() -> None:
    outputs = np.array([[[2.0, 0.0], [2.0, 0.0]]], dtype=np.float32)
    at = float(routing.compute("softmax", outputs[0, 0]))
    for threshold, stage in ((at, 0), (np.nextafter(at, 2), 1), (np.inf, 1), (-np.inf, 0)):
        decision = Decision(("a", "b"), "threshold", "softmax", (threshold,))
        assert ask_all(decision, outputs).tolist() == [stage]


@pytest.mark.parametrize("score", [*routing.SCORES, "random"])
def test_a_row_alone_is_decided_as_in_a_batch(score: str) -> None:
    outputs = np.random.default_rng(0).normal(size=(40, 2, 3)).astype(np.float32)
    temperatures = (0.5, 2.0)
    scores = small.scores_of(score, outputs, list(temperatures), seed=3)
    bound = float(np.median(scores[:, 0]))
    decision = Decision(("a", "b"), "threshold", score, (bound,), temperatures, seed=3)
    for row, own in enumerate(scores):
        course = decision.course(np.array([row]))
        asked = [course.goes_on(0, torch.from_numpy(outputs[[row], 0]))]
        assert course.going.tolist() == asked
        if asked[0]:
            assert course.stage.tolist() == [-1] and np.isnan(course.score).all()
            asked.append(course.goes_on(1, torch.from_numpy(outputs[[row], 1])))
        stage = int(own[0] < bound)
        assert asked == [True, False][1 - stage :] and course.stage.tolist() == [stage]
        np.testing.assert_allclose(course.score, own[stage], rtol=1e-12)
        np.testing.assert_array_equal(course.outputs, outputs[[row], stage])


def test_a_row_alone_needs_a_finite_output_and_a_number_gets_no_score() -> None:
    decision = Decision(("a", "b"), "threshold", "softmax", (0.9,))
    for stage in (0, 1):
        for broken in ([np.nan, 1.0], [np.inf, 1.0], [-np.inf, 1.0], [np.inf, -np.inf]):
            with pytest.raises(ValueError, match=r"`[ab]` must give finite outputs, but it does not for row 7"):
                decision.course(np.array([7])).goes_on(stage, torch.tensor([broken]))
    course = decision.course(np.array([7]))
    assert not course.goes_on(1, torch.tensor([[3.5]]))
    assert np.isnan(course.score[0]) and course.outputs.tolist() == [[3.5]] and course.stage.tolist() == [1]


def test_a_score_that_the_model_gives() -> None:
    decision = Decision(("a", "b"), "threshold", "learned", (0.5,))
    course = decision.course(np.arange(3))
    rows, outputs = torch.arange(3), torch.zeros(3, 2)
    keep = course(0, rows, outputs, {"learned": torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)})
    assert keep.tolist() == [True, False, False]
    course(1, rows[:1], outputs[:1])  # the last stage decides nothing and need not give it
    assert np.isnan(course.score[0]) and course.stage.tolist() == [1, 0, 0]
    broken = {"learned": torch.tensor([0.4, float("inf"), 0.6], dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"`a` must give finite scores 'learned', .* does not for row 11"):
        decision.course(np.array([10, 11, 12]))(0, rows, outputs, broken)
    with pytest.raises(ValueError, match="`score` must be one that stage a has, but it does not give 'learned'"):
        decision.course(np.arange(3))(0, rows, outputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "oracle"}, "`rule` must be one of threshold, per_stage, patience, but got 'oracle'"),
        ({"thresholds": (0.5,)}, r"`thresholds` must be 3 numbers for the stages a, b, c, d, but got \[0.5\]"),
        ({"thresholds": (0.5, float("nan"), 1.0)}, "`thresholds` must be 3 numbers"),
        ({"temperatures": (1.0,)}, "`temperatures` must be 4 numbers"),
    ],
)
def test_refuses(arguments: dict[str, object], message: str) -> None:
    given = {"stages": STAGES, "rule": "threshold", "score": "softmax", "thresholds": (0.5,) * 3, **arguments}
    with pytest.raises(ValueError, match=message):
        Decision(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_epsilon_bounds_which_rows_can_move(dtype: str) -> None:
    """In bf16 rows farther than the measured difference from the threshold get the same stage in any batch."""
    network = small.networks(2)["exits first"]
    for tier in network.tiers:
        for parameter in tier.model.base_model.parameters():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    units = small.texts(80, 4)
    outputs = small.outputs_one_by_one(network, units)
    scores = small.scores_of("energy", outputs, [1.0] * len(network.stages))
    thresholds = tuple(float(value) + 1e-4 for value in np.median(scores[:, :-1], axis=0))
    decision = Decision(tuple(s.name for s in network.stages), "per_stage", "energy", thresholds)
    epsilon = measure_epsilon(network, decision, units)
    assert epsilon.value <= 1e-5 if dtype == "float32" else 1e-5 < epsilon.value < 0.1
    assert epsilon.rows == 80 and epsilon.moved <= epsilon.inside
    clear = (np.abs(scores[:, :-1] - thresholds) > 2 * epsilon.value).all(axis=1)
    assert clear.mean() > 0.3
    expected = replayed(decision, scores)
    for batch_size in (5, 32):
        stages = np.array([a.stage for a in Executor(network, decision, batch_size).run(units)])
        np.testing.assert_array_equal(stages[clear], expected[clear])
    with pytest.raises(ValueError, match="`units` must be at least two texts"):
        measure_epsilon(network, decision, units[:1])
