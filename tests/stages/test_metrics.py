import statistics
import warnings
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from dial.stages.metrics.base import Mean
from dial.stages.metrics.metrics import METRICS, Pearson, evaluate, metric
from tests.stages.texts import written

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
    for rows in range(2, 60):  # the mean of equal numbers is not always that number
        for value in (0.1, 1e7 + 0.1):
            assert evaluate(name, np.arange(float(rows)), np.full(rows, value)) == 0


def correlated(name: str, label: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    """The value from statistics of all rows at once, and from those of two halves that are added."""
    halves = [np.arange(len(label)) % 2 == half for half in (0, 1)]
    origin = Pearson(origin=(float(label[0]), float(prediction[0])))
    parts = [origin.statistics(label[half], prediction[half]).sum(axis=0) for half in halves]
    return evaluate(name, label, prediction), float(origin.value(parts[0] + parts[1]))


@pytest.mark.parametrize("mean", [0.0, 1e7, -1e7, 1e12])
def test_a_correlation_keeps_its_digits_far_from_zero(mean: float) -> None:
    """Labels such as years or prices; the reference sees the same numbers, whose own digits are all that is lost."""
    random = np.random.default_rng(3)
    label = mean + random.normal(size=200)
    prediction = mean + 0.5 * (label - mean) + random.normal(size=200)
    exact = statistics.correlation([Fraction(x) for x in label], [Fraction(y) for y in prediction])
    for value in correlated("pearson", label, prediction):
        assert value == pytest.approx(float(exact), abs=1e-9)
    sums = METRICS["pearson"].statistics(label, prediction).sum(axis=0)
    slope = METRICS["pearson"].gradient(sums)
    assert abs(slope @ sums) < 1e-9  # the value does not change with the number of rows
    assert evaluate("pearson", label, np.full(200, mean + 0.1)) == 0


def test_every_stage_and_resample_has_one_origin() -> None:
    """Rows move from stage to stage: what they add must not depend on which rows, or stages, are looked at together."""
    random = np.random.default_rng(4)
    label = 1e7 + random.normal(size=60)
    predictions = label[:, None] + random.normal(size=(60, 3)) * [3.0, 1.0, 0.3]
    predictions[:, 0] += 100.0
    rows = METRICS["pearson"].statistics(label, predictions)
    for _ in range(20):
        drawn, stages = random.integers(60, size=60), random.integers(3, size=60)
        want = scipy.stats.pearsonr(label[drawn], predictions[drawn, stages]).statistic
        assert METRICS["pearson"].value(rows[drawn, stages].sum(axis=0)) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize(
    ("label", "prediction", "classes"),
    [([0, 4, 4], [0, 4, 0], None), ([0, 1, 1], [0, 2, 1], None), ([0, 1, 1], [1, 1, 0], 3)],
    ids=["labels", "predictions", "classes"],
)
def test_f1_of_more_than_two_classes_is_refused(label: list[int], prediction: list[int], classes: int | None) -> None:
    with pytest.raises(ValueError, match=r"must be of: accuracy, macro_f1, mcc, group_accuracy; .*take macro_f1"):
        evaluate("f1", np.array(label), np.array(prediction), classes)


def classes_of(name: str) -> int:
    return 2 if name == "f1" else 3


def statistics_of(name: str) -> np.ndarray:
    random = np.random.default_rng(1)
    if METRICS[name].task == "text":
        references, texts = written(40)
        return METRICS[name].statistics(references, texts[:, 0])
    if METRICS[name].task == "regression":
        label = random.normal(size=40)
        return METRICS[name].statistics(label, label + random.normal(size=40))
    if name == "f1":
        label = random.choice(2, size=40, p=[0.3, 0.7])
        prediction = np.where(random.random(40) < 0.7, label, 0)
    else:
        label = random.choice(3, size=40, p=[0.2, 0.5, 0.3])
        prediction = np.where(random.random(40) < 0.5, label, random.choice(3, size=40, p=[0.6, 0.1, 0.3]))
    counts = {*np.bincount(label).tolist(), *np.bincount(prediction).tolist()}
    assert len(counts) == 2 * classes_of(name)  # nothing can be confused
    return METRICS[name].statistics(label, prediction, classes_of(name))


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
    classes = classes_of(name)
    metric_ = Pearson(origin=(1.0, 1.0)) if name == "pearson" else METRICS[name]
    label, predictions = random.integers(classes, size=20), random.integers(classes, size=(20, 4))
    if metric_.task == "text":
        label, predictions = written(20, 4)
    together = metric_.statistics(label, predictions, classes)
    for stage in range(4):
        np.testing.assert_array_equal(together[:, stage], metric_.statistics(label, predictions[:, stage], classes))


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].additive])
def test_empty_sums_have_a_value_and_no_slope(name: str) -> None:
    zeros = 0 * statistics_of(name).sum(axis=0)
    assert METRICS[name].value(zeros) == 0
    assert not METRICS[name].gradient(zeros).any()


def test_mean_of_a_given_statistic() -> None:
    exact_match = Mean("exact_match")
    rows = exact_match.statistics(np.zeros(3), np.array([1.0, 0.0, 0.5]))
    assert exact_match.value(rows.sum(axis=0)) == 0.5


def test_unknown_metric_is_refused_with_the_list() -> None:
    allowed = (
        "accuracy, f1, macro_f1, mcc, group_accuracy, pearson, spearman, bleu, chrf, exact_match, .*; but got 'acc'"
    )
    with pytest.raises(ValueError, match=f"must be one of: {allowed}"):
        metric("acc")
