import numpy as np
import pytest
from scipy.stats import norm

from dial.tradeoff import density
from dial.tradeoff.density import densities


def mixture(rng, rows=20_000, right=3.0, wrong=0.0, spread=1.0):
    is_right = rng.random(rows) < 0.75
    return rng.normal(np.where(is_right, right, wrong), np.where(is_right, 1.0, spread)), is_right


def test_crossing_of_two_normal_densities_lies_where_the_formula_says():
    score, right = mixture(np.random.default_rng(0))
    found = densities(score, right)
    assert found.status == "one"
    assert found.threshold == pytest.approx(
        1.5, abs=0.06
    )  # equal spreads: midway, whatever the shares of right and wrong
    area = np.trapezoid(found.right, found.grid)
    assert area == pytest.approx(1.0, abs=1e-3)
    spread = densities(*mixture(np.random.default_rng(1), spread=2.0))
    grid = np.linspace(0, 3, 30_001)
    gap = norm.pdf(grid, 3, 1) - norm.pdf(grid, 0, 2)
    assert spread.threshold == pytest.approx(grid[np.flatnonzero(gap[:-1] * gap[1:] <= 0)[0]], abs=0.1)


def test_densities_equal_the_sum_of_kernels():
    rng = np.random.default_rng(2)
    score, right = mixture(rng, rows=200)
    found = densities(score, right)
    group = score[right]
    width = group.std(ddof=1) * len(group) ** (-1 / 5)
    for index in (100, 400, 700):
        value = sum(norm.pdf(found.grid[index], x, width) for x in group) / len(group)
        assert found.right[index] == pytest.approx(value)


@pytest.mark.parametrize("saturated", [False, True])
def test_very_many_rows_in_bins_have_the_densities_of_each_row(monkeypatch, saturated):
    rng = np.random.default_rng(0)
    right = rng.random(20_000) < 0.7
    score = np.where(right, rng.normal(2, 1, 20_000), rng.gamma(2, 0.5, 20_000))
    if saturated:  # most rows in one bin
        score = np.where(right, 1 - 1e-4 * rng.random(20_000) ** 2, 1 - 0.5 * rng.random(20_000))
        score[rng.random(20_000) < 0.05] = 0.6
    binned = densities(score, right)
    monkeypatch.setattr(density, "MANY_ROWS", 20_000)
    each = densities(score, right)
    np.testing.assert_allclose(binned.grid, each.grid, atol=2e-3 * np.ptp(each.grid))
    for ours, rows in ((binned.right, each.right), (binned.wrong, each.wrong)):
        np.testing.assert_allclose(np.interp(each.grid, binned.grid, ours), rows, atol=5e-3 * rows.max())
    np.testing.assert_allclose(binned.crossings, each.crossings, atol=1e-3)


@pytest.mark.parametrize("width", [0.004, 0.05, 1.0])  # finer than the grid, as it is here, and wider than all rows
def test_the_density_of_bins_is_the_sum_of_their_kernels(width):
    rng = np.random.default_rng(5)
    score, grid = rng.normal(size=9000), np.linspace(-6, 6, 1024)
    found, step = density._density(score, width, grid), grid[1] - grid[0]
    bin_width = step / max(4, int(np.ceil(4 * step / width)))
    centres = grid[0] + np.rint((score - grid[0]) / bin_width) * bin_width
    for index in (0, 300, 512, 700, 1023):
        near = centres[np.abs(centres - grid[index]) <= 8 * width]
        assert found[index] == pytest.approx(norm.pdf(grid[index], near, width).sum() / 9000, rel=1e-6, abs=1e-12)


def test_a_score_that_is_surer_of_its_errors_has_no_crossing():
    score, right = mixture(np.random.default_rng(0), right=0.0, wrong=3.0)
    assert densities(score, right).status == "none"
    assert densities(score, right).threshold is None


def test_several_crossings_are_reported_and_none_is_picked():
    rng = np.random.default_rng(3)
    wrong = np.concatenate([rng.normal(0, 0.5, 3000), rng.normal(4, 0.4, 2500)])
    right = np.concatenate([rng.normal(2, 0.4, 2500), rng.normal(6, 0.5, 3000)])
    found = densities(np.concatenate([wrong, right]), np.arange(11_000) >= 5500)
    assert found.status == "several"
    assert len(found.crossings) == 3
    assert found.threshold is None


@pytest.mark.parametrize(("right", "what"), [([True] * 6, "0 wrong rows"), ([True] * 5 + [False], "1 wrong rows")])
def test_too_few_rows_of_a_kind_give_a_reason(right, what):
    found = densities(np.arange(6.0), np.array(right))
    assert found.threshold is None
    assert what in found.status


def test_a_constant_score_gives_a_reason():
    assert "no density" in densities(np.ones(50), np.arange(50) % 2 == 0).status
