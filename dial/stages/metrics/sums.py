"""Arithmetic of metrics that are functions of sums over examples, with their degenerate cases."""

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
