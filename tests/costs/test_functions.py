"""Cost functions against the counts themselves, and their sums against plain loops."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, ModernBertConfig, PretrainedConfig

from dial.costs.fitting import fit_cost
from dial.costs.functions import CostFunction, ModelCosts, charged_lengths
from dial.costs.macs import count_macs


def quadratic(length: int) -> int:
    return 7 + 11 * length + 3 * length**2


class Recorder:
    """A count that remembers for which lengths it was asked."""

    def __init__(self, count: Callable[[int], int]) -> None:
        self.count, self.asked = count, list[int]()

    def __call__(self, length: int) -> int:
        self.asked.append(length)
        return self.count(length)


@pytest.mark.parametrize("lengths", [[128], [7, 128], range(1, 513), [500, 512], [1, 7], np.array([3, 3, 90])])
def test_a_quadratic_is_found_with_five_counts(lengths: list[int]) -> None:
    count = Recorder(quadratic)
    cost = fit_cost(count, lengths)
    assert cost.coefficients == (7.0, 11.0, 3.0)
    assert len(count.asked) == len(set(count.asked)) == 5
    assert min(count.asked) >= 1
    assert max(count.asked) == max(lengths)
    for length in (1, 2, 64, 513):
        assert cost([length]) == [quadratic(length)]


@pytest.mark.parametrize("count", [lambda n: 5, lambda n: 9 * n, lambda n: n * (n + 1) // 2, lambda n: 10**15 + n])
def test_constants_lines_and_triangles_are_quadratics(count: Callable[[int], int]) -> None:
    cost = fit_cost(count, [10, 300])
    assert cost.coefficients is not None
    assert cost(np.arange(1, 400)).tolist() == [count(n) for n in range(1, 400)]


PIECEWISE = {
    "every second token": lambda n: quadratic((n + 1) // 2),
    "seven tenths kept": lambda n: quadratic(n) + quadratic(-(-7 * n // 10)),
    "windows of 64": lambda n: n * min(n, 64),
    "padded to blocks": lambda n: quadratic(-(-n // 16) * 16),
    "one more at the end": lambda n: quadratic(n) + (n == 128),
    "jump in the middle": lambda n: quadratic(n) + 100 * (n > 60),
    "bump between the fitted ones": lambda n: quadratic(n) + 100 * (20 < n < 60),
    "cubic": lambda n: n**3,
}


@pytest.mark.parametrize("name", list(PIECEWISE))
def test_what_is_no_quadratic_is_counted_at_every_length_once(name: str) -> None:
    count = Recorder(PIECEWISE[name])
    lengths = [*range(5, 129), 9, 9, 128]
    cost = fit_cost(count, lengths)
    assert cost.coefficients is None
    assert len(count.asked) == len(set(count.asked))
    assert cost(lengths).tolist() == [PIECEWISE[name](n) for n in lengths]
    with pytest.raises(ValueError, match=r"lengths must be among the 124 that were counted.*got also \[4, 200\]"):
        cost([4, 5, 200])


def test_rounding_that_fits_at_every_even_length_is_noticed() -> None:
    lengths = range(32, 129)  # the lengths fitted, and half-way between them, are all even
    assert fit_cost(lambda n: 6 * (n // 2), lengths)(lengths).tolist() == [6 * (n // 2) for n in lengths]


def test_short_lengths_are_counted_as_they_are() -> None:
    assert fit_cost(quadratic, [2, 5]).counts == {2: quadratic(2), 5: quadratic(5)}


def test_an_empty_text_costs_one_token() -> None:
    for cost in (fit_cost(quadratic, [0, 90]), fit_cost(lambda n: n**3, [0, 90])):
        assert cost([0])[0] == cost([1])[0] > 0


@pytest.mark.parametrize("lengths", [[], [-1, 5]])
def test_bad_lengths_to_fit(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="lengths must be one or more numbers of tokens"):
        fit_cost(quadratic, lengths)


def test_negative_length() -> None:
    with pytest.raises(ValueError, match="lengths must be 0 or more tokens; got -3"):
        fit_cost(quadratic, [90])([4, -3])


def test_cost_takes_one_of_two() -> None:
    for arguments in ({}, {"coefficients": (1.0, 2.0, 3.0), "counts": {1: 1}}):
        with pytest.raises(ValueError, match="either coefficients or counts"):
            CostFunction(**arguments)


def test_shapes_and_dtype_are_kept() -> None:
    for cost in (fit_cost(quadratic, [90]), fit_cost(lambda n: n**3, range(91))):
        assert cost(np.array([], dtype=int)).shape == (0,)
        values = cost(np.array([[1, 2], [90, 2]], dtype=np.int32))
        assert values.shape == (2, 2)
        assert values.dtype == np.float64


@pytest.mark.parametrize("count", [quadratic, lambda n: n**3, lambda n: n * (n + 1) // 2])
def test_json_round_trip(count: Callable[[int], int]) -> None:
    cost = fit_cost(count, range(1, 40))
    again = CostFunction.from_json(json.loads(json.dumps(cost.to_json())))
    assert again == cost
    with pytest.raises(ValueError, match="three 'coefficients' or 'counts'"):
        CostFunction.from_json({"coefficients": [1.0]})


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_encoders_are_quadratic(family: str, implementation: str) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config: PretrainedConfig = BertConfig(vocab_size=20, **sizes)
    if family == "modernbert":
        windows = {"local_attention": 8, "global_attn_every_n_layers": 2}
        config = ModernBertConfig(vocab_size=20, pad_token_id=0, **sizes, **windows)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=implementation)

    def count(length: int) -> int:
        return count_macs(model, {"input_ids": torch.ones(1, length, dtype=torch.long)})

    cost = fit_cost(count, [5, 70])
    assert cost.coefficients is not None
    assert cost.coefficients[2] == 2 * 2 * 16  # per layer one product for the weights, one for the values
    for length in (1, 6, 41, 200):
        assert cost([length])[0] == count(length)


def test_length_conventions() -> None:
    true, padded = {"a": np.array([3, 9])}, {"a": np.array([9, 9])}
    assert charged_lengths("true", true, padded)["a"].tolist() == [3, 9]
    assert charged_lengths("padded", true, padded)["a"].tolist() == [9, 9]
    assert charged_lengths(128, true, padded)["a"].tolist() == [128, 128]
    for wrong in ("fixed", 0, -1, True, 1.5):
        with pytest.raises(ValueError, match="length convention must be 'true', 'padded' or a number of tokens"):
            charged_lengths(wrong, true, padded)  # type: ignore[arg-type]


def line(slope: float, start: float = 0.0) -> CostFunction:
    return CostFunction(coefficients=(start, slope, 0.0))


COSTS = ModelCosts(
    answer={
        "small": {0: line(2), 1: line(5, 1)},
        "middle": {0: line(10)},
        "large": {0: line(100), 1: line(300), 2: line(700, 3)},
    },
    decide={"middle": {0: line(4)}},
)
STAGES = [
    SimpleNamespace(tier=tier, index=index)
    for tier, index in (("small", 0), ("small", 1), ("middle", 0), ("large", 0), ("large", 1), ("large", 2))
]
LENGTHS = {"small": np.array([3, 8, 1]), "middle": np.array([4, 9, 1]), "large": np.array([5, 12, 2])}


def test_stage_macs_equal_loops() -> None:
    decide, macs = COSTS.stage_macs(STAGES, LENGTHS)
    for row in range(3):
        small, middle, large = (int(LENGTHS[tier][row]) for tier in ("small", "middle", "large"))
        first = 5 * small + 1  # all of the first tier, by its last exit
        second = first + 4 * middle  # of the second its decision only: its answer was not needed
        expected = [
            (2 * small, 2 * small),
            (first, first),
            (second, first + 10 * middle),
            (second + 100 * large, second + 100 * large),
            (second + 300 * large, second + 300 * large),
            (second + 700 * large + 3, second + 700 * large + 3),
        ]
        assert list(zip(decide[row], macs[row], strict=True)) == expected


def test_tier_alone_is_its_last_exit() -> None:
    assert COSTS.alone("large", LENGTHS["large"]).tolist() == [700 * n + 3 for n in (5, 12, 2)]
    assert COSTS.alone("small", [4]).tolist() == [21]


def test_a_tier_of_which_only_an_early_exit_is_a_stage() -> None:
    _, macs = COSTS.stage_macs([STAGES[0], STAGES[2]], LENGTHS)
    assert macs[0].tolist() == [2 * 3, 2 * 3 + 10 * 4]


def test_e_lang_speed_up_of_fixed_lengths() -> None:
    """E-LANG's MNLI row: a Super of 21.8 G and a mean of 9.05 G are a speed-up of 2.41."""
    costs = ModelCosts({"swift": {0: line(0, 4.0)}, "super": {0: line(0, 21.8)}})
    stages = [SimpleNamespace(tier="swift", index=0), SimpleNamespace(tier="super", index=0)]
    lengths = charged_lengths(128, {"swift": np.ones(1000), "super": np.ones(1000)}, {})
    _, macs = costs.stage_macs(stages, lengths)
    deferred = np.arange(1000) < 1000 * (9.05 - 4.0) / 21.8
    spent = np.where(deferred, macs[:, 1], macs[:, 0]).mean()
    assert costs.alone("super", lengths["super"]).mean() / spent == pytest.approx(2.41, abs=0.005)


def test_missing_costs_and_lengths_are_named() -> None:
    with pytest.raises(ValueError, match="got a stage large/3"):
        COSTS.stage_macs([SimpleNamespace(tier="large", index=3)], LENGTHS)
    with pytest.raises(ValueError, match="got a stage tiny/0"):
        COSTS.alone("tiny", [3])
    with pytest.raises(ValueError, match="lengths must have every stage's tier; got small, not 'middle'"):
        COSTS.stage_macs(STAGES, {"small": LENGTHS["small"]})
    with pytest.raises(ValueError, match="lengths must be of 3 examples; got 2 for 'middle'"):
        COSTS.stage_macs(STAGES, {**LENGTHS, "middle": np.array([1, 2])})


def test_costs_json(tmp_path: Path) -> None:
    counted = ModelCosts({"a": {0: line(2), 1: CostFunction(counts={3: 4, 10: 11})}}, COSTS.decide)
    for costs in (COSTS, counted):
        costs.save(tmp_path / "costs.json")
        assert ModelCosts.load(tmp_path / "costs.json") == costs
    assert json.loads((tmp_path / "costs.json").read_text())["unit"] == "MACs per example"
    (tmp_path / "costs.json").write_text('{"schema": 99}')
    with pytest.raises(ValueError, match=r"costs\.json must have schema 1; got 99"):
        ModelCosts.load(tmp_path / "costs.json")
