"""A data set in one file: sums of two digits, odd or even."""

from __future__ import annotations

from typing import Any

import numpy as np

from datamodules.base import SequenceDataModule
from datamodules.rows import Rows


class ParityDataModule(SequenceDataModule):
    """Texts such as ``3 plus 4 (17)``; the number in brackets makes each of them another one.

    Args:
        count: training rows; a quarter as many are tested on.
        kwargs: see :class:`SequenceDataModule`.
    """

    def __init__(self, count: int = 240, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count, self.metrics = count, ["accuracy"]

    @property
    def label_names(self) -> list[str]:
        """See :class:`SequenceDataModule`."""
        return ["even", "odd"]

    def has(self, role: str) -> bool:
        """See :class:`SequenceDataModule`."""
        return role in ("train", "test")

    def read(self, role: str) -> Rows:
        """See :class:`SequenceDataModule`."""
        first = 0 if role == "train" else self.count
        numbers = np.arange(first, first + (self.count if role == "train" else self.count // 4))
        texts = [f"{n % 7} plus {n % 10} ({n})" for n in numbers]
        return Rows(texts, None, (numbers % 7 + numbers % 10) % 2, numbers)
