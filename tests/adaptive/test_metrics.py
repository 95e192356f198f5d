import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from lightning_modules.adaptive.metrics import METRICS, Mean, evaluate, metric

CLASSIFICATION = {
    "accuracy": sklearn.metrics.accuracy_score,
    "f1": lambda y, p: sklearn.metrics.f1_score(y, p, pos_label=1, zero_division=0.0),
    "macro_f1": lambda y, p: sklearn.metrics.f1_score(y, p, average="macro", zero_division=0.0),
    "mcc": sklearn.metrics.matthews_corrcoef,
}
REGRESSION = {"pearson": scipy.stats.pearsonr, "spearman": scipy.stats.spearmanr}


def expected(name: str, label: np.ndarray, prediction: np.ndarray) -> float:
    with warnings.catch_warnings(action="ignore"):  # about samples of one class
        return CLASSIFICATION[name](label, prediction)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("f1", 2), *((name, classes) for name in ("accuracy", "macro_f1", "mcc") for classes in (2, 4))],
)
def test_classification_metrics_equal_scikit_learn(name: str, classes: int) -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        label, prediction = random.integers(classes, size=(2, random.integers(1, 25)))
        assert evaluate(name, label, prediction, classes) == pytest.approx(expected(name, label, prediction), abs=1e-12)


@pytest.mark.parametrize(
    ("label", "prediction"), [([0, 0], [0, 0]), ([1, 1], [0, 0]), ([0, 1], [1, 1]), ([1, 1], [1, 1])]
)
@pytest.mark.parametrize("name", ["f1", "macro_f1", "mcc", "accuracy"])
def test_degenerate_cases_follow_scikit_learn(name: str, label: list[int], prediction: list[int]) -> None:
    value = evaluate(name, np.array(label), np.array(prediction), 2)
    assert value == pytest.approx(expected(name, np.array(label), np.array(prediction)))


@pytest.mark.parametrize("name", REGRESSION)
def test_correlations_equal_scipy(name: str) -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        label = np.round(random.uniform(0, 5, size=30), 1)  # rounded: ties
        prediction = label + random.normal(size=30).round(1)
        assert evaluate(name, label, prediction) == pytest.approx(
            REGRESSION[name](label, prediction).statistic, abs=1e-10
        )


@pytest.mark.parametrize("name", REGRESSION)
def test_correlation_with_a_constant_is_zero(name: str) -> None:
    assert evaluate(name, np.arange(7.0), np.full(7, 0.1)) == 0
    assert evaluate(name, np.full(7, 1 / 3), np.arange(7.0)) == 0


def statistics_of(name: str) -> np.ndarray:
    random = np.random.default_rng(1)
    if METRICS[name].regression:
        label = random.normal(size=40)
        return METRICS[name].statistics(label, label + random.normal(size=40))
    label = random.choice(3, size=40, p=[0.2, 0.5, 0.3])
    prediction = np.where(random.random(40) < 0.5, label, random.choice(3, size=40, p=[0.6, 0.1, 0.3]))
    assert len({*np.bincount(label).tolist(), *np.bincount(prediction).tolist()}) == 6  # nothing can be confused
    return METRICS[name].statistics(label, prediction, 3)


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].additive])
def test_gradients_equal_finite_differences(name: str) -> None:
    sums = statistics_of(name).sum(axis=0)
    gradient = METRICS[name].gradient(sums)
    for k in range(len(sums)):
        step = np.zeros(len(sums))
        step[k] = 1e-4
        slope = (METRICS[name].value(sums + step) - METRICS[name].value(sums - step)) / 2e-4
        assert gradient[k] == pytest.approx(slope, rel=1e-5, abs=1e-8)
    stacked = METRICS[name].gradient(np.stack([sums, 2 * sums]))
    np.testing.assert_allclose(stacked, [gradient, METRICS[name].gradient(2 * sums)])


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].additive])
def test_all_stages_at_once_equal_one_at_a_time(name: str) -> None:
    random = np.random.default_rng(2)
    label, predictions = random.integers(3, size=20), random.integers(3, size=(20, 4))
    together = METRICS[name].statistics(label, predictions, 3)
    for stage in range(4):
        np.testing.assert_array_equal(together[:, stage], METRICS[name].statistics(label, predictions[:, stage], 3))


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].additive])
def test_empty_sums_have_a_value_and_no_slope(name: str) -> None:
    zeros = 0 * statistics_of(name).sum(axis=0)
    assert METRICS[name].value(zeros) == 0
    assert not METRICS[name].gradient(zeros).any()


def test_mean_of_a_given_statistic() -> None:
    exact_match = Mean("exact_match")
    statistics = exact_match.statistics(np.zeros(3), np.array([1.0, 0.0, 0.5]))
    assert exact_match.value(statistics.sum(axis=0)) == 0.5


def test_unknown_metric_is_refused_with_the_list() -> None:
    with pytest.raises(
        ValueError, match="must be one of: accuracy, f1, macro_f1, mcc, pearson, spearman; but got 'acc'"
    ):
        metric("acc")
