"""The built-in data: generated sentences whose difficulty is known."""

from typing import Any

import numpy as np

from datamodules.base import SequenceDataModule
from datamodules.checks import check_generated
from datamodules.rows import Rows
from datamodules.sentences import LEVELS, draw

ROLES = ("train", "validation", "calibration", "test")


class GradedSentimentDataModule(SequenceDataModule):
    """Sentences with a sentiment by composition, in four levels: plain, negated, contrasted, nested or reported.

    A model that only looks at the words can solve the first level and no more than guess at the third and fourth, so
    that it is known which rows a router should pass on. See :mod:`datamodules.sentences` for the grammar. No sentence
    occurs twice. ``sample_id`` counts through all roles.

    Args:
        train_rows: number of training rows.
        validation_rows: number of validation rows.
        calibration_rows: number of calibration rows.
        test_rows: number of test rows.
        shares: parts of levels 1 to 4 among the rows.
        data_seed: the same seed gives the same sentences; ``seed`` is that of the training order.
        kwargs: see :class:`SequenceDataModule`; its fractions have no effect here.

    Raises:
        ValueError: for shares that are not four parts.
    """

    def __init__(
        self,
        train_rows: int = 20_000,
        validation_rows: int = 1_000,
        calibration_rows: int = 2_000,
        test_rows: int = 2_000,
        shares: list[float] | None = None,
        data_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shares = [0.4, 0.1, 0.25, 0.25] if shares is None else list(shares)
        self.sizes = dict(zip(ROLES, (train_rows, validation_rows, calibration_rows, test_rows), strict=True))
        check_generated(self.shares, len(LEVELS), self.sizes, data_seed)
        self.data_seed = data_seed
        self.metrics = ["accuracy"]
        self._drawn: dict[str, tuple[Rows, np.ndarray]] = {}

    @property
    def label_names(self) -> list[str]:
        """The two sentiments."""
        return ["negative", "positive"]

    def has(self, role: str) -> bool:
        """Every role is generated."""
        return role in ROLES

    def read(self, role: str) -> Rows:
        """Generate the rows of all roles and give one's."""
        if role not in ROLES:
            raise ValueError(f"`role` must be one of {', '.join(ROLES)}, but got {role!r}.")
        if not self._drawn:
            self._draw()
        return self._drawn[role][0]

    def _draw(self) -> None:
        """Sentences of all roles out of one draw, so that no role repeats another's."""
        sentences = draw(sum(self.sizes.values()), self.shares, self.data_seed)
        start = 0
        for role, size in self.sizes.items():
            part = sentences[start : start + size]
            label = np.array([sentence.label for sentence in part], np.int64)
            rows = Rows(
                [sentence.text for sentence in part], None, label, np.arange(start, start + size, dtype=np.int64)
            )
            self._drawn[role] = rows, np.array([sentence.level for sentence in part], np.int64)
            start += size

    def levels(self, role: str) -> dict[int, int]:
        """``sample_id`` -> level, 1 to 4, of a role's rows."""
        rows = self.rows(role)
        whole, level = self._drawn[role]
        known = dict(zip(whole.sample_id.tolist(), level.tolist(), strict=True))
        return {sample_id: known[sample_id] for sample_id in rows.sample_id.tolist()}
