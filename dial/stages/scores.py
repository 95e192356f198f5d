"""Scores: how sure a stage is of its answer, from what exists at inference time. Higher means surer.

A new score is one function and one line in :data:`SCORES`. All of them are computed in float64 from the logits: in
fp32 the probabilities of surer rows round to the same value, and softmax, margin and entropy of two classes no longer
order them alike.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

Logits = TypeVar("Logits")  # np.ndarray or torch.Tensor; what comes in goes out

# The functions below see the logits divided by the temperature, with the classes first, (C, ...), and the module to
# compute with: numpy, or torch, which understands numpy's names for the few functions used here.


def _shifted(logits: Any, xp: Any) -> tuple[Any, Any]:
    """Return the largest logit ``(...)`` and the logits minus it, at most 0, so that ``exp`` cannot overflow."""
    largest = xp.amax(logits, axis=0)
    return largest, logits - largest


def _energy(logits: Any, xp: Any) -> Any:
    largest, shifted = _shifted(logits, xp)
    return largest + xp.log(xp.exp(shifted).sum(axis=0))


def _energy_released(logits: Any, xp: Any) -> Any:
    exponentials = xp.exp(_shifted(logits, xp)[1])
    return xp.log(xp.exp(exponentials / exponentials.sum(axis=0)).sum(axis=0))


def _softmax(logits: Any, xp: Any) -> Any:
    return 1 / xp.exp(_shifted(logits, xp)[1]).sum(axis=0)


def _margin(logits: Any, xp: Any) -> Any:
    first, second = logits[0], xp.full_like(logits[0], -np.inf)
    for logit in logits[1:]:
        second = xp.maximum(second, xp.minimum(first, logit))
        first = xp.maximum(first, logit)
    # p1 - p2 = p1 (1 - e^(z2 - z1)); expm1 keeps the digits of a small difference.
    return -xp.expm1(second - first) * _softmax(logits, xp)


def _entropy(logits: Any, xp: Any) -> Any:
    # -H = sum z e^z / Z - log Z over the shifted logits: where e^z underflows the term is 0, not the NaN of p log p.
    # Z = 1 + rest; log1p of the rest alone, without the largest class, keeps -H below 0 for the surest rows.
    shifted = _shifted(logits, xp)[1]
    exponentials = xp.exp(shifted)
    rest = (exponentials * (shifted < 0)).sum(axis=0) + ((shifted == 0).sum(axis=0) - 1)
    return (shifted * exponentials).sum(axis=0) / (1 + rest) - xp.log1p(rest)


SCORES: dict[str, Callable[[Any, Any], Any]] = {
    "energy": _energy,
    "energy_released": _energy_released,
    "softmax": _softmax,
    "margin": _margin,
    "entropy": _entropy,
}
"""Scores computed from the logits of a classifier, by name."""

STEP_SCORES = ("energy", "softmax", "entropy")
ANSWER_SCORES = (
    "answer_log_probability",
    *(f"decoder_{name}{part}" for name in STEP_SCORES for part in ("", "_low")),
)
"""Scores ``(B,)`` that only the finished answer tells, higher = surer: its mean log-probability per piece, and of each
score of the decoder's steps the mean and a low quantile."""

MODEL_SCORES: dict[str, str] = {
    "learned": "which only a model that learnt to exit gives at every stage before the last; train it with "
    "`--model.certainty joint`",
    "no_answer_gap": "which only tiers that extract spans give",
    **dict.fromkeys(
        ANSWER_SCORES, "which only tiers that write give; name it in `--sweep.scores` of a cascade of them"
    ),
}
"""Scores that no logits tell, as a model gives them itself: by name what an error says about the models that do."""


def compute(name: str, logits: Logits, temperature: float = 1.0) -> Logits:
    r"""Return the score of every row.

    With :math:`z` the logits divided by the temperature :math:`T` and :math:`p` their softmax:

    * ``energy``: :math:`T \log \sum_i e^{z_i}`, the negative free energy of E-LANG (Eq. 3; their code has T = 1).
    * ``energy_released``: :math:`\log \sum_i e^{p_i}`, what the code released with E-LANG computes.
    * ``softmax``: the largest :math:`p` (TangoBERT).
    * ``margin``: the largest :math:`p` minus the second.
    * ``entropy``: :math:`-H(p)` in nats, so that higher is surer here too (COST-EFF, DeeBERT).

    For two classes all but ``energy`` are one order.

    Args:
        name: a key of :data:`SCORES`.
        logits: ``(..., C)`` with ``C`` at least 2, array or tensor.
        temperature: positive.

    Returns:
        ``(...)`` float64, of the kind (and on the device) of ``logits``.

    Raises:
        ValueError: if the score is not one of :data:`SCORES`, there are fewer than two classes, or the temperature is
            not positive.

    Example:
        >>> compute("softmax", np.array([[0.0, 0.0], [1e4, -1e4]]))
        array([0.5, 1. ])
    """
    if name not in SCORES:
        raise ValueError(
            f"`name` must be a score of logits, one of: {', '.join(SCORES)}; but got {name!r}. Choose one of these."
        )
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"`temperature` must be positive, but got {temperature}. Leave it at 1 for no scaling.")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(logits, torch.Tensor):
        xp: Any = torch
        values: Any = logits.detach().double().movedim(-1, 0)
    else:
        xp = np
        values = np.moveaxis(np.asarray(logits), -1, 0).astype(np.float64, order="C")
    if values.shape[0] < 2:
        raise ValueError(
            f"`logits` must have at least two classes in the last dimension, but got {values.shape[0]}. "
            "Route numbers by 'random'."
        )
    if temperature == 1:
        return SCORES[name](values, xp)
    result = SCORES[name](values / temperature, xp)
    return result * temperature if name == "energy" else result


def of_row(name: str, logits: Sequence[float], temperature: float = 1.0) -> float:
    """What :func:`compute` gives for one row, up to rounding, from plain numbers.

    A row alone is what a server answers; between two layers of an encoder array operations cost more than their sums.

    Args:
        name: a key of :data:`SCORES`.
        logits: finite numbers, at least two.
        temperature: positive.

    Example:
        >>> of_row("softmax", [0.0, 0.0]), round(of_row("energy", [1.0, 0.0]), 4)
        (0.5, 1.3133)
    """
    values = logits if temperature == 1 else [value / temperature for value in logits]
    largest = max(values)
    exponentials = [math.exp(value - largest) for value in values]
    total = sum(exponentials)
    if name == "softmax":
        return 1 / total
    if name == "energy":
        return temperature * (largest + math.log(total))
    if name == "energy_released":
        return math.log(sum([math.exp(value / total) for value in exponentials]))
    if name == "margin":
        second = sorted(values)[-2]
        return -math.expm1(second - largest) / total
    if name == "entropy":
        below = [value - largest for value in values if value < largest]
        rest = sum([math.exp(value) for value in below]) + (len(values) - len(below) - 1)
        return sum([value * math.exp(value) for value in below]) / (1 + rest) - math.log1p(rest)
    return float(compute(name, np.asarray(logits), temperature))


def random_score(sample_id: np.ndarray, stage_index: int, seed: int = 0) -> np.ndarray:
    """Return a uniform number in [0, 1) for every example, a hash of seed, stage and ``sample_id``.

    It does not depend on the order of the rows, on batches or on the number of processes.

    Args:
        sample_id: ``(N,)`` integers or strings.
        stage_index: position of the stage in the table; the numbers of two stages are independent.
        seed: another seed gives another, independent routing.

    Returns:
        ``(N,)`` float64.

    Example:
        >>> a, b = random_score(np.array([3, 7]), 0), random_score(np.array([7, 3]), 0)
        >>> bool((a == b[::-1]).all())
        True
    """
    key = _mix(_mix(np.array([seed], dtype=np.int64).view(np.uint64)) + np.uint64(stage_index))
    ids = np.asarray(sample_id)
    if ids.dtype.kind in "iub":
        folded = ids.astype(np.int64).view(np.uint64)
    else:
        text = np.ascontiguousarray(ids.astype(str))
        points = (
            text.view(np.uint32).reshape(len(text), -1).astype(np.uint64)
            if text.itemsize
            else np.zeros((len(text), 0), np.uint64)
        )
        folded = np.full(len(text), 0x51_7C_C1_B7_27_22_0A_95, dtype=np.uint64)
        for column in points.T:  # 0 pads shorter strings; skipping it makes the hash independent of the longest
            folded = np.where(column > 0, _mix(folded ^ column), folded)
    return (_mix(_mix(folded) ^ key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    """Spread every bit of a 64-bit number over all others (the finaliser of SplitMix64)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
