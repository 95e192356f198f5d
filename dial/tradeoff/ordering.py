"""Sorting positions by value, faster than NumPy's general sort for the many rows of a sweep."""

import numpy as np

FEW = 1000  # below this many values NumPy's own sort is as fast


def ascending(values: np.ndarray) -> np.ndarray:
    """Return positions that sort ``values (N,)``, like ``np.argsort``; the order among equal values is not specified.

    The values are scaled to 32-bit integers and sorted by radix, 16 bits at a time. Values that fall on one integer may
    still be out of order after that; a merge sort, which takes what is sorted already as it is, settles these few.

    Example:
        >>> ascending(np.array([0.3, 0.1, 0.2]))
        array([1, 2, 0])
    """
    if len(values) < FEW:
        return np.argsort(values)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        low = values.min()
        scale = (2.0**32 - 1) / (values.max() - low)
    if not (
        np.isfinite(low) and np.isfinite(scale) and scale > 0
    ):  # infinities, NaN, one value, or too wide or narrow a range
        return np.argsort(values)
    key = ((values - low) * scale).astype(np.uint32)
    order = np.argsort(
        key.astype(np.uint16), kind="stable"
    )  # NumPy sorts 16 bits by radix; the cast keeps the lower ones
    order = order[np.argsort((key >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]
    nearly = values[order]
    if (nearly[1:] < nearly[:-1]).any():
        order = order[np.argsort(nearly, kind="stable")]
    return order
