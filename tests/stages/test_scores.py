import itertools
import math

import numpy as np
import pytest
import torch

from dial.stages.scores import SCORES, compute, of_row, random_score
from dial.stages.task import task_of


def reference(name: str, logits: list[float], temperature: float) -> float:
    """One row in plain Python, with exact sums; good for moderate logits."""
    z = [value / temperature for value in logits]
    total = math.fsum(math.exp(value) for value in z)
    p = sorted((math.exp(value) / total for value in z), reverse=True)
    return {
        "energy": temperature * math.log(total),
        "energy_released": math.log(math.fsum(math.exp(value) for value in p)),
        "softmax": p[0],
        "margin": p[0] - p[1],
        "entropy": math.fsum(value * math.log(value) for value in p),
    }[name]


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(("classes", "temperature"), [(2, 1.0), (3, 0.5), (7, 3.0)])
def test_scores_equal_a_loop(name: str, classes: int, temperature: float) -> None:
    logits = np.random.default_rng(classes).normal(size=(4, 5, classes)) * 3
    result = compute(name, logits, temperature)
    assert result.shape == (4, 5)
    assert result.dtype == np.float64
    for index in np.ndindex(4, 5):
        assert result[index] == pytest.approx(
            reference(name, logits[index].tolist(), temperature), rel=1e-12, abs=1e-14
        )


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_gives_a_tensor_with_the_same_values(name: str, dtype: torch.dtype) -> None:
    logits = (torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    result = compute(name, logits, 1.7)
    assert isinstance(result, torch.Tensor)
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), compute(name, logits.float().numpy(), 1.7), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("tensor", [False, True])
def test_extreme_logits_stay_finite(name: str, tensor: bool) -> None:
    rows = [*itertools.product([-1e4, 0.0, 1e4], repeat=3), (200.0, 0.0, -200.0), (89.0, 88.0, 0.0)]
    logits = np.array(rows, dtype=np.float32)
    result = np.asarray(compute(name, torch.from_numpy(logits) if tensor else logits, 0.5))
    assert np.isfinite(result).all()
    surest, unsure = rows.index((1e4, -1e4, -1e4)), rows.index((1e4, 1e4, 1e4))
    assert result[surest] > result[unsure] or name == "energy"


def test_energy_of_large_logits_is_the_largest() -> None:
    assert compute("energy", np.array([1e4, -1e4]), 1.0) == 1e4


def test_softmax_margin_entropy_and_released_energy_are_one_order_of_two_classes() -> None:
    logits = (np.random.default_rng(0).normal(size=(5000, 2)) * 4).astype(np.float32)
    gap = np.abs(logits[:, 0].astype(np.float64) - logits[:, 1])
    logits, gap = logits[gap < 15], gap[gap < 15]  # beyond it a probability comes too close to 1 to tell rows apart
    order = np.argsort(gap)
    for name in ("softmax", "margin", "entropy", "energy_released"):
        assert (np.diff(compute(name, logits)[order]) > 0).tolist() == (np.diff(gap[order]) > 0).tolist(), name
    assert (np.diff(compute("energy", logits)[order]) < 0).any()  # energy is another order


def test_scores_are_computed_in_double_precision_whatever_comes_in() -> None:
    logits = np.array([[18.0, 0.0], [18.5, 0.0]], dtype=np.float32)
    single = 1 / (1 + np.exp(-logits[:, 0]))
    assert single[0] == single[1]  # in fp32 the surer row cannot be told from the other
    for result in (compute("softmax", logits), compute("softmax", torch.from_numpy(logits)).numpy()):
        assert result[0] < result[1]


@pytest.mark.parametrize("gap", [5.0, 20.0, 36.0, 45.0, 300.0])
def test_entropy_keeps_its_digits_for_the_surest_rows(gap: float) -> None:
    rest = math.exp(-gap)
    expected = -(math.log1p(rest) + gap * rest / (1 + rest))
    assert expected < 0
    for logits in ([gap, 0.0], [0.0, gap], [0.0, gap, -1e4]):
        assert compute("entropy", np.array([logits]))[0] == pytest.approx(expected, rel=1e-12, abs=0)


def test_released_energy_lies_in_the_range_of_the_published_thresholds() -> None:
    scores = compute("energy_released", np.random.default_rng(0).normal(size=(1000, 2)) * 20)
    assert scores.min() >= math.log(2 * math.exp(0.5)) - 1e-12  # 1.1931
    assert scores.max() <= math.log(math.e + 1) + 1e-12  # 1.3133
    assert scores.max() > 1.31044  # E-LANG's threshold for SST-2 separates rows


def test_random_is_uniform_reproducible_and_independent() -> None:
    ids = np.arange(20_000)
    base = random_score(ids, 0, 1)
    assert base.min() >= 0
    assert base.max() < 1
    counts = np.histogram(base, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-square with 19 degrees of freedom: 0.1 %
    for other in (random_score(ids, 1, 1), random_score(ids, 0, 2), random_score(ids + 1, 0, 1)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.03
    shuffled = np.random.default_rng(0).permutation(ids)
    assert (random_score(shuffled, 0, 1) == base[shuffled]).all()


def test_random_of_strings_does_not_depend_on_the_longest() -> None:
    short = random_score(np.array(["a", "b", "ab", "ba"]), 0)
    long = random_score(np.array(["a", "b", "ab", "ba", "much longer than these"]), 0)
    assert (short == long[:4]).all()
    assert len(set(short.tolist())) == 4


@pytest.mark.parametrize(
    ("name", "regression", "words"),
    [
        ("enrgy", False, ["`--scores`", "energy_released", "'enrgy'"]),
        ("oracle", False, ["oracle is always part of the analysis"]),
        ("softmax", True, ["`--scores` for regression must be one of: random;", "'softmax'"]),
    ],
)
def test_unknown_scores_are_refused_with_the_list(name: str, regression: bool, words: list[str]) -> None:
    with pytest.raises(ValueError, match="must be one of") as error:
        task_of([] if regression else ["no", "yes"]).check_score(name, "--scores")
    assert all(word in str(error.value) for word in words)


def test_known_scores_pass() -> None:
    for name in (*SCORES, "random"):
        task_of(["no", "yes"]).check_score(name, "--scores")
    task_of([]).check_score("random", "--scores")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`temperature` must be positive, but got 0"):
        compute("energy", np.zeros((1, 2)), 0.0)
    with pytest.raises(ValueError, match="at least two classes"):
        compute("softmax", np.zeros((5, 1)))
    with pytest.raises(ValueError, match=r"one of: energy.*'random'"):
        compute("random", np.zeros((5, 2)))


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_one_row_in_plain_numbers_gives_the_same(name: str, temperature: float, classes: int) -> None:
    random = np.random.default_rng(0)
    logits = [random.normal(scale=scale, size=classes) for scale in (0.1, 1, 10, 1e4) for _ in range(20)]
    logits += [np.zeros(classes), np.full(classes, -1e4), np.eye(classes)[0] * 1e4]
    for row in logits:
        expected = compute(name, row, temperature)
        np.testing.assert_allclose(of_row(name, row.tolist(), temperature), expected, rtol=1e-12, atol=1e-300)
