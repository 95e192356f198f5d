import numpy as np
import pytest

from dial.tradeoff.ordering import ascending

CASES = {
    "normal": lambda r: r.normal(size=5000),
    "ties": lambda r: r.integers(0, 50, size=5000) / 7,
    "nearly one": lambda r: 1 / (1 + np.exp(-40 * r.random(5000))),
    "many in one cell": lambda r: np.append(r.random(5000) * 1e-12, 1.0),
    "outlier": lambda r: np.append(r.normal(size=5000), 1e300),
    "too wide": lambda r: np.concatenate([r.normal(size=5000), [1.7e308, -1.7e308]]),
    "infinities": lambda r: np.concatenate([r.normal(size=5000), [np.inf, -np.inf]]),
    "constant": lambda r: np.zeros(5000),
    "subnormal": lambda r: r.random(5000) * 1e-310,
    "few": lambda r: r.normal(size=20),
    "none": lambda r: np.zeros(0),
}


@pytest.mark.parametrize("case", CASES)
def test_sorts_like_numpy(case: str) -> None:
    values = CASES[case](np.random.default_rng(0))
    order = ascending(values)
    assert sorted(order.tolist()) == list(range(len(values)))
    np.testing.assert_array_equal(values[order], np.sort(values))
