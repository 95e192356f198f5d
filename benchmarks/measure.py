"""What benchmarks of a ratio share: times taken in turns, the ratio with its interval, and the machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def machine() -> str:
    """Processor, cores, threads and versions, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.processor() or platform.machine()
    cores = len(names) or torch.get_num_threads()
    return f"{model}, {cores} cores, {torch.get_num_threads()} thread(s); torch {torch.__version__}"


def write_texts(path: Path, rows: int, words: int = 10_000, seed: int = 0) -> None:
    """A CSV file of ``text`` and ``label``: 3 to 40 words, 13 on average, as frequent as their rank says."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(2.4, 0.55, rows).round(), 3, 40).astype(int)
    share = 1 / np.arange(1, words + 1)
    drawn = rng.choice(words, size=lengths.sum(), p=share / share.sum())
    texts = [" ".join(f"w{word}" for word in row) for row in np.split(drawn, np.cumsum(lengths)[:-1])]
    labels = rng.integers(0, 2, rows)
    path.write_text("text,label\n" + "".join(f"{t},{v}\n" for t, v in zip(texts, labels, strict=True)))


class Turns:
    """Seconds of what is measured and of its reference, which takes its turn after each step.

    What is measured is everything between two calls of :meth:`step`: loader, loops, callbacks. So both meet the same
    moments of a machine that does other things as well.

    Args:
        reference: does the reference's step.
        warm_up: pairs that do not count.
    """

    def __init__(self, reference: Callable[[], None], warm_up: int = 5) -> None:
        self.reference, self.warm_up = reference, warm_up
        self._left: tuple[float, float] | None = None
        self._pairs: list[tuple[float, ...]] = []

    def step(self) -> None:
        """Take the time since the last call, then that of the reference."""
        arrived = clocks()
        self.reference()
        done = clocks()
        if self._left is not None:
            spent = [b - a for a, b in zip(self._left, arrived, strict=True)]
            self._pairs.append((*spent, *(b - a for a, b in zip(arrived, done, strict=True))))
        self._left = clocks()

    def report(self, what: str, target: float | None = None) -> str:
        """Medians and the ratio, on the wall and of processor time, with 95 % bootstrap intervals."""
        pairs = np.array(self._pairs[self.warm_up :])
        rng = np.random.default_rng(0)
        lines = []
        for clock, column in (("wall", 0), ("processor", 1)):
            ours, reference = pairs[:, column], pairs[:, column + 2]
            ratios = ours / reference
            drawn = np.median(ratios[rng.integers(0, len(ratios), (2000, len(ratios)))], axis=1)
            low, high = np.quantile(drawn, [0.025, 0.975])
            lines.append(
                f"{what}, {clock} time: {1e3 * np.median(ours):.1f} ms against {1e3 * np.median(reference):.1f} ms; "
                f"ratio {np.median(ratios):.3f} [{low:.3f}, {high:.3f}], of the sums {ours.sum() / reference.sum():.3f}"
                f"{'' if target is None else f'; target {target}'} ({len(pairs)} pairs)"
            )
        return "\n".join(lines)


def clocks() -> tuple[float, float]:
    """Seconds on the wall and of processor time."""
    return time.perf_counter(), time.process_time()
