"""Metrics of a task, as functions of sums over examples wherever that is possible.

A metric that is *additive* maps every example to ``K`` numbers (say: is it a true positive, is it predicted positive,
is it labelled positive), sums them, and computes its value from the sums. When an example moves from one stage to the
next, only its own numbers change; so the exact trade-off curve, the bootstrap and the delta method all work on sums.

Values are fractions in [-1, 1]. Conventions for degenerate cases are those of scikit-learn (F1 without any positive is
0, MCC of a constant is 0); the correlation with a constant, which scipy leaves undefined, is 0 here.
"""

import numpy as np

from dial.stages.metrics.base import Mean, Metric, beside, columns, divide
from dial.stages.metrics.groups import GroupAccuracy
from dial.stages.metrics.texts import TEXT_METRICS

# Below this share of its largest possible value, a variance computed from sums is rounding error.
NO_VARIANCE = 1e-12


def one_hot(label: np.ndarray, prediction: np.ndarray, classes: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions and labels as booleans ``(..., C)`` of one shape."""
    prediction = np.asarray(prediction)
    if classes is None:
        classes = int(max(np.max(label, initial=0), np.max(prediction, initial=0))) + 1
    predicted = prediction[..., None] == np.arange(classes)
    labelled = beside(label, prediction)[..., None] == np.arange(classes)
    return predicted, np.broadcast_to(labelled, predicted.shape)


def middle(values: np.ndarray) -> float:
    """Return the lower median, which is one of the values, or 0 if there are none."""
    flat = np.ravel(values)
    return float(np.partition(flat, (len(flat) - 1) // 2)[(len(flat) - 1) // 2]) if len(flat) else 0.0


def variance(value: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return a variance computed as a difference of sums, 0 where it is only their rounding error."""
    return np.where(value > NO_VARIANCE * np.abs(scale), value, 0.0)


def correlation(covariance: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return covariance / sqrt(first * second) within [-1, 1], 0 where a variance is 0."""
    return np.clip(divide(covariance, np.sqrt(first) * np.sqrt(second)), -1.0, 1.0)


def correlation_gradient(moments: tuple | list, derivatives: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the gradient of covariance / sqrt(v w) from the gradients ``(..., K)`` of the three moments ``(...)``."""
    covariance, v, w = (np.asarray(moment)[..., None] for moment in moments)
    by_covariance, by_v, by_w = derivatives
    root = np.sqrt(v) * np.sqrt(w)
    slope = divide(by_covariance, root) - divide(covariance, 2 * root) * (divide(by_v, v) + divide(by_w, w))
    return np.where(root > 0, slope, 0.0)


def ranks(values: np.ndarray) -> np.ndarray:
    """Return 1-based ranks ``(N,)``; equal values get the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


class Accuracy(Mean):
    """Share of correct predictions. Sums: correct, count."""

    def __init__(self) -> None:
        super().__init__("accuracy")

    def statistics(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> np.ndarray:
        """See :class:`Metric`."""
        return super().statistics(label, beside(label, prediction) == prediction)


AGREEMENT = "agreement"


class Agreement(Accuracy):
    """Share of answers that are the last stage's, where those stand in for labels that nobody has."""

    def __init__(self) -> None:
        Mean.__init__(self, AGREEMENT)


class F1(Metric):
    """F1 of class 1, where there are two. Sums: true positives, predicted positives, labelled positives."""

    name = "f1"
    most_classes = 2

    def statistics(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> np.ndarray:
        """See :class:`Metric`.

        Raises:
            ValueError: there are more than two classes: what is no class 1 would count as one other class.
        """
        classes = max(classes or 0, 1 + int(max(np.max(label, initial=0), np.max(prediction, initial=0))))
        check_metric(self.name, self.task, classes, f"classification of {classes} classes")
        predicted = np.asarray(prediction) == 1
        labelled = np.broadcast_to(beside(label, prediction) == 1, predicted.shape)
        return columns(predicted & labelled, predicted, labelled)

    def value(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return divide(2 * sums[..., 0], sums[..., 1] + sums[..., 2])

    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        total = sums[..., 1] + sums[..., 2]
        shared = -divide(2 * sums[..., 0], total**2)
        return np.stack([divide(2.0, total), shared, shared], axis=-1)


class MacroF1(Metric):
    """Mean of the F1 of every class that is labelled or predicted at least once.

    Sums: true positives of every class, then predictions, then labels; K = 3 C.
    """

    name = "macro_f1"

    def statistics(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> np.ndarray:
        """See :class:`Metric`."""
        predicted, labelled = one_hot(label, prediction, classes)
        return np.concatenate([predicted & labelled, predicted, labelled], axis=-1).astype(np.float64)

    def value(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        hits, predicted, labelled = np.split(sums, 3, axis=-1)
        total = predicted + labelled
        return divide(divide(2 * hits, total).sum(axis=-1), (total > 0).sum(axis=-1))

    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        hits, predicted, labelled = np.split(sums, 3, axis=-1)
        total = predicted + labelled
        present = (total > 0).sum(axis=-1, keepdims=True)
        shared = -divide(2 * hits, total**2)
        return divide(np.concatenate([divide(2.0, total), shared, shared], axis=-1), present)


class Matthews(Metric):
    """Matthews correlation coefficient, of any number of classes (Gorodkin 2004).

    Predictions that are none of the classes count as one more, which no row is labelled with.

    Sums: correct, count, predictions of every class, labels of every class; K = 2 + 2 C.
    """

    name = "mcc"

    def statistics(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> np.ndarray:
        """See :class:`Metric`."""
        predicted, labelled = one_hot(label, prediction, classes)
        correct = (predicted & labelled).any(axis=-1, keepdims=True)
        return np.concatenate([correct, np.ones_like(correct), predicted, labelled], axis=-1).astype(np.float64)

    def value(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        _, _, _, covariance, predicted_variance, label_variance = self._parts(sums)
        return correlation(covariance, predicted_variance, label_variance)

    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        count, predicted, labelled, *moments = self._parts(sums)
        correct, other = sums[..., :1], count - predicted.sum(axis=-1, keepdims=True)
        zeros = np.zeros_like(predicted)
        # d(covariance), d(predicted variance), d(label variance) by (correct, count, predicted, labelled)
        by_covariance = np.concatenate([count, correct, -labelled, -predicted], axis=-1)
        by_predicted = np.concatenate([0 * count, 2 * (count - other), 2 * (other - predicted), zeros], axis=-1)
        by_labelled = np.concatenate([0 * count, 2 * count, zeros, -2 * labelled], axis=-1)
        return correlation_gradient(moments, (by_covariance, by_predicted, by_labelled))

    @staticmethod
    def _parts(sums: np.ndarray) -> tuple[np.ndarray, ...]:
        """Counts, and the moments of which the coefficient is made; values and slopes share them."""
        classes = (sums.shape[-1] - 2) // 2
        correct, count = sums[..., :1], sums[..., 1:2]
        predicted, labelled = sums[..., 2 : 2 + classes], sums[..., 2 + classes :]
        covariance = (correct * count)[..., 0] - (predicted * labelled).sum(axis=-1)
        square = (count**2)[..., 0]
        other = (count - predicted.sum(axis=-1, keepdims=True))[..., 0]
        predicted_variance = variance(square - (predicted**2).sum(axis=-1) - other**2, square)
        return (
            count,
            predicted,
            labelled,
            covariance,
            predicted_variance,
            variance(square - (labelled**2).sum(axis=-1), square),
        )


class Pearson(Metric):
    """Pearson's correlation. Sums: count, labels, predictions, their squares, and their products.

    Labels and predictions are counted from an origin among them, the same for all rows and stages of a call: the
    correlation does not depend on it, but raw squares of numbers far from 0 (years, prices) would drown its digits.

    Args:
        origin: of labels and of predictions; default: their medians in each call, of predictions that of the last
            stage. Give it where sums of several calls are added.
    """

    name = "pearson"
    task = "regression"

    def __init__(self, origin: tuple[float, float] | None = None) -> None:
        self.origin = origin

    def statistics(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> np.ndarray:
        """See :class:`Metric`."""
        x, y = np.asarray(label, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
        first, second = self.origin or (middle(x), middle(y[:, -1] if y.ndim > x.ndim else y))
        y = y - second
        x = np.broadcast_to(beside(x - first, y), y.shape)
        return columns(np.ones_like(y), x, y, x * x, y * y, x * y)

    def value(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return correlation(*self._moments(sums))

    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        zero = np.zeros_like(n)
        by_covariance = np.stack([xy, -y, -x, zero, zero, n], axis=-1)
        by_x = np.stack([xx, -2 * x, zero, n, zero, zero], axis=-1)
        by_y = np.stack([yy, zero, -2 * y, zero, n, zero], axis=-1)
        return correlation_gradient(self._moments(sums), (by_covariance, by_x, by_y))

    @staticmethod
    def _moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        return n * xy - x * y, variance(n * xx - x * x, n * xx), variance(n * yy - y * y, n * yy)


class Spearman(Metric):
    """Spearman's correlation: Pearson's, of ranks (ties share their mean rank).

    One example's rank depends on all others, so there are no sums; curves have it on a grid of points.
    """

    name = "spearman"
    additive = False
    task = "regression"

    def statistics(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> np.ndarray:
        """Not available."""
        raise TypeError("Spearman's correlation is not a function of sums; use `evaluate`.")

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Not available."""
        raise TypeError("Spearman's correlation is not a function of sums; use `evaluate`.")

    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """Not available."""
        raise TypeError("Spearman's correlation is not a function of sums; use `evaluate`.")

    def evaluate(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> float:
        """See :class:`Metric`."""
        return Pearson().evaluate(ranks(np.asarray(label)), ranks(np.asarray(prediction)))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *(Accuracy(), Agreement(), F1(), MacroF1(), Matthews(), GroupAccuracy()),
        *(Pearson(), Spearman()),
        *TEXT_METRICS,
    )
}
"""Metrics by name."""


NAMED = tuple(name for name in METRICS if name != AGREEMENT)
"""Metrics that are asked for by name; agreement stands in where there are no labels."""


def check_metric(name: str, task: str, classes: int, in_words: str, argument: str = "metrics") -> None:
    """Refuse a metric that does not exist, or not for this kind of task.

    Args:
        name: the metric.
        task: name of the task.
        classes: how many there are, if any.
        in_words: the task as the error names it.
        argument: how the user calls the metric.

    Raises:
        ValueError: naming the argument, the metrics that are allowed, and the one that came.
    """
    allowed = [key for key, each in METRICS.items() if each.task == task and classes <= each.most_classes]
    if name not in allowed:
        allowed = [key for key in allowed if key in NAMED]
        binary = name in METRICS and METRICS[name].task == task
        remedy = "It is F1 of class 1 of two; take macro_f1." if binary else "Choose from these."
        if name in METRICS and METRICS[name].task == "text":
            remedy = "It compares free text with references; choose from these, or give no label names but `*`."
        raise ValueError(f"`{argument}` for {in_words} must be of: {', '.join(allowed)}; but got {name!r}. {remedy}")


def evaluate(name: str, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> float:
    """Return the metric ``name`` of labels ``(N,)`` and predictions ``(N,)``; of references and texts for free text.

    Raises:
        ValueError: if there is no such metric.

    Example:
        >>> evaluate("f1", np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0]))
        0.5
    """
    each = metric(name)
    return each.evaluate(label if each.task == "text" else np.asarray(label), np.asarray(prediction), classes)


def metric(name: str) -> Metric:
    """Return the metric ``name``, or raise a ValueError that lists them."""
    if name not in METRICS:
        raise ValueError(f"`metric` must be one of: {', '.join(NAMED)}; but got {name!r}. Choose one of these.")
    return METRICS[name]
