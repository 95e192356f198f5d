"""What benchmarks measure with, where a wrong number would not show."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from dial.inference.executor import Executor
from tests.inference.test_executor import halves
from tests.tiers import small


def test_all_model_calls_are_noted_and_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    network, units = small.networks(1)["exits"], small.texts(40, 1)
    (tier,), rule = network.tiers, halves(network, small.outputs_one_by_one(network, units))
    shapes = list[tuple[int, ...]]()

    def noted(part: Any) -> Any:
        def compute(inputs: Mapping[str, Tensor]) -> Tensor:
            shapes.append(tuple(inputs["input_ids"].shape))
            hidden: Tensor = part(**inputs)
            return hidden

        return compute

    tier.compute_with([noted(part) for part in tier.segments()])
    recorder = importlib.import_module("bench_predict").Recorder(tier)
    assert len(list(Executor(network, rule, 4).run(units))) == 40
    first, shapes[:] = list(shapes), []
    recorder.replay()
    assert len(first) > 10 and shapes == first
