"""Policies that keep rows in the batch give the same answers, and do so only where it is measured to be faster."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dial.inference.compaction import Compaction, MeasuredCompaction
from dial.inference.executor import Executor
from dial.inference.router import Decision
from tests.tiers import small


def halves() -> tuple[object, Decision, list[str]]:
    network = small.networks(0)["exits"]
    units = small.texts(60)
    outputs = small.outputs_one_by_one(network, units)
    scores = small.scores_of("softmax", outputs, [1.0] * 3)
    thresholds = tuple(float(value) + 1e-4 for value in np.quantile(scores[:, :-1], [0.5, 0.5], axis=0).diagonal())
    return network, Decision(tuple(s.name for s in network.stages), "per_stage", "softmax", thresholds), units


def clock(everyone: float, fewer: float, taken_out: float) -> Callable[[Callable[[], None]], float]:
    """Times of the three passes that are measured, again and again."""
    times = [everyone, fewer, taken_out]

    def measure(call: Callable[[], None]) -> float:
        call()
        times.append(times.pop(0))
        return times[-1]

    return measure


@pytest.mark.parametrize(("times", "compacts"), [((2.0, 1.0, 1.4), True), ((1.0, 1.0, 1.2), False)])
def test_answers_are_the_same_and_rows_stay_where_that_is_faster(
    times: tuple[float, float, float], compacts: bool
) -> None:
    network, decision, units = halves()
    expected = [(a.stage, a.prediction) for a in Executor(network, decision, 16).run(units)]  # type: ignore[arg-type]
    executor = Executor(network, decision, 16)  # type: ignore[arg-type]
    policy = MeasuredCompaction(executor.tiers[0], clock(*times))
    executor._compactions = [policy]
    sizes: list[int] = []
    list(executor.run(units))  # measures
    layers = executor.tiers[0].model.layers
    layers[2].register_forward_pre_hook(lambda _m, args, kwargs: sizes.append(len(args[0])), with_kwargs=True)
    assert [(a.stage, a.prediction) for a in executor.run(units)] == expected
    reached = sum(stage == 2 for stage, _ in expected)
    assert 0 < reached < 40
    assert (sum(sizes) == reached) == compacts
    assert sum(sizes) == reached or max(sizes) == 16
    per_row, cost = policy._times({"input_ids": torch.zeros(16, 12)})
    assert (per_row > 0) == compacts and cost >= 0


def test_a_batch_that_all_rows_have_left_ends() -> None:
    network, decision, units = halves()
    sure = Decision(decision.stages, "threshold", "softmax", (0.0, 0.0))
    executor = Executor(network, sure, 16)  # type: ignore[arg-type]
    executor._compactions = [MeasuredCompaction(executor.tiers[0], clock(1.0, 1.0, 9.0))]
    list(executor.run(units))
    executor.tiers[0].model.layers[1].register_forward_pre_hook(lambda *_: pytest.fail("nobody is left"))
    assert {a.stage for a in executor.run(units)} == {0}


def test_what_is_left_is_compacted_at_once_on_a_cpu_and_with_one_exit() -> None:
    networks = small.networks(0)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert type(Compaction.of(networks["exits"].tiers[0], "measured", cpu)) is Compaction
    assert type(Compaction.of(networks["single"].tiers[0], "measured", cuda)) is Compaction
    assert type(Compaction.of(networks["exits"].tiers[0], "always", cuda)) is Compaction
    assert type(Compaction.of(networks["exits"].tiers[0], "measured", cuda)) is MeasuredCompaction
