"""Metrics of a task, as functions of sums over examples wherever that is possible.

A metric that is *additive* maps every example to ``K`` numbers (say: is it a true positive, is it predicted positive,
is it labelled positive), sums them, and computes its value from the sums. When an example moves from one stage to the
next, only its own numbers change; so the exact trade-off curve, the bootstrap and the delta method all work on sums.

Values are fractions in [-1, 1]. Conventions for degenerate cases are those of scikit-learn (F1 without any positive is
0, MCC of a constant is 0); the correlation with a constant, which scipy leaves undefined, is 0 here.
"""

from abc import ABC, abstractmethod

import numpy as np

# Below this share of its largest possible value, a variance computed from sums is rounding error.
NO_VARIANCE = 1e-12


def beside(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return labels ``(N,)`` as ``(N, 1)`` where predictions are ``(N, S)``."""
    label = np.asarray(label)
    return label[:, None] if np.ndim(prediction) == label.ndim + 1 else label


def columns(*statistics: np.ndarray) -> np.ndarray:
    """Return ``K`` arrays ``(...)`` as ``(..., K)`` float64, each in one piece of memory: they are summed singly."""
    return np.moveaxis(np.stack(statistics).astype(np.float64, copy=False), 0, -1)


def one_hot(label: np.ndarray, prediction: np.ndarray, classes: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions and labels as booleans ``(..., C)`` of one shape."""
    prediction = np.asarray(prediction)
    if classes is None:
        classes = int(max(np.max(label, initial=0), np.max(prediction, initial=0))) + 1
    predicted = prediction[..., None] == np.arange(classes)
    labelled = beside(label, prediction)[..., None] == np.arange(classes)
    return predicted, np.broadcast_to(labelled, predicted.shape)


def divide(numerator: np.ndarray | float, denominator: np.ndarray) -> np.ndarray:
    """Divide, with 0 where the denominator is 0."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    return np.divide(numerator, denominator, out=np.zeros(shape), where=np.asarray(denominator) != 0)


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


class Metric(ABC):
    """A metric: statistics of each example, and the value of their sums.

    Attributes:
        name: as in :data:`METRICS`.
        additive: whether the value is a function of sums of :meth:`statistics`.
        task: name of the task that it is for.
        most_classes: how many classes there may be.
    """

    name: str
    additive: bool = True
    task: str = "classification"
    most_classes: float = float("inf")

    @abstractmethod
    def statistics(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> np.ndarray:
        """Return what an example adds to the sums.

        Args:
            label: ``(N,)``.
            prediction: ``(N,)``, or ``(N, S)`` for all stages at once.
            classes: number of classes; by default as many as occur. Give it where sums of several calls are compared.

        Returns:
            ``(N, K)`` or ``(N, S, K)`` float64.
        """

    @abstractmethod
    def value(self, sums: np.ndarray) -> np.ndarray:
        """Return the metric ``(...)`` of sums ``(..., K)``."""

    @abstractmethod
    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """Return the derivative of :meth:`value` by each of the sums, ``(..., K)``; 0 where the value is degenerate."""

    def evaluate(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> float:
        """Return the metric of labels ``(N,)`` and predictions ``(N,)``."""
        return float(self.value(self.statistics(label, prediction, classes).sum(axis=0)))


UNIT_RANGE = (0.0, 1.0)
"""The range of a statistic that declares none: exact match and F1 of an answer lie in it."""


class Mean(Metric):
    """Mean of a number per example that somebody computed already (``stat_<name>_<stage>`` in a table).

    Its statistics are the number itself and 1; give the number as the prediction.

    Args:
        name: of the statistic.
        range: the lowest and the highest that the number can be, whatever has been seen of it.
    """

    def __init__(self, name: str, range: tuple[float, float] = UNIT_RANGE) -> None:
        self.name, self.range = name, range

    def statistics(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> np.ndarray:
        """See :class:`Metric`; ``label`` is not read."""
        values = np.asarray(prediction, dtype=np.float64)
        return columns(values, np.ones_like(values))

    def value(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return divide(sums[..., 0], sums[..., 1])

    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        total, count = sums[..., 0], sums[..., 1]
        return np.stack([divide(1.0, count), -divide(total, count**2)], axis=-1)


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
        correct = sums[..., :1]
        zeros = np.zeros_like(predicted)
        # d(covariance), d(predicted variance), d(label variance) by (correct, count, predicted, labelled)
        by_covariance = np.concatenate([count, correct, -labelled, -predicted], axis=-1)
        by_predicted = np.concatenate([0 * count, 2 * count, -2 * predicted, zeros], axis=-1)
        by_labelled = np.concatenate([0 * count, 2 * count, zeros, -2 * labelled], axis=-1)
        return correlation_gradient(moments, (by_covariance, by_predicted, by_labelled))

    @staticmethod
    def _parts(sums: np.ndarray) -> tuple[np.ndarray, ...]:
        classes = (sums.shape[-1] - 2) // 2
        correct, count = sums[..., :1], sums[..., 1:2]
        predicted, labelled = sums[..., 2 : 2 + classes], sums[..., 2 + classes :]
        covariance = (correct * count)[..., 0] - (predicted * labelled).sum(axis=-1)
        square = (count**2)[..., 0]
        predicted_variance = variance(square - (predicted**2).sum(axis=-1), square)
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
    metric.name: metric for metric in (Accuracy(), Agreement(), F1(), MacroF1(), Matthews(), Pearson(), Spearman())
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
        raise ValueError(f"`{argument}` for {in_words} must be of: {', '.join(allowed)}; but got {name!r}. {remedy}")


def evaluate(name: str, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> float:
    """Return the metric ``name`` of labels ``(N,)`` and predictions ``(N,)``.

    Raises:
        ValueError: if there is no such metric.

    Example:
        >>> evaluate("f1", np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0]))
        0.5
    """
    return metric(name).evaluate(np.asarray(label), np.asarray(prediction), classes)


def metric(name: str) -> Metric:
    """Return the metric ``name``, or raise a ValueError that lists them."""
    if name not in METRICS:
        raise ValueError(f"`metric` must be one of: {', '.join(NAMED)}; but got {name!r}. Choose one of these.")
    return METRICS[name]
