"""The built-in texts: numbers in words, which are written in digits. The longer, the harder, as is known."""

from typing import Any

import numpy as np

from datamodules.checks import check_generated
from datamodules.rows import Rows
from datamodules.text_to_text import TextToText

ROLES = ("train", "validation", "calibration", "test")
LEVELS = (3, 4, 5, 6)
"""Digits of a number."""
SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(number: int) -> str:
    """A number below a million in English.

    Example:
        >>> in_words(703_020), in_words(15), in_words(1_000)
        ('seven hundred three thousand twenty', 'fifteen', 'one thousand')
    """
    if number < len(SMALL):
        return SMALL[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return " ".join([TENS[tens - 2], *([SMALL[rest]] if rest else [])])
    size, name = (1_000, "thousand") if number >= 1_000 else (100, "hundred")
    high, rest = divmod(number, size)
    return " ".join([in_words(high), name, *([in_words(rest)] if rest else [])])


class NumberWordsDataModule(TextToText):
    """Numbers of three to six digits: *nine hundred two thousand five* is to be written as *9 0 2 0 0 5*.

    Each digit depends on few words, but the zeros that no word names must be counted, and there are more of them in
    longer numbers: so it is known which rows a router should pass on. No number occurs twice. ``sample_id`` counts
    through all roles.

    Args:
        train_rows: number of training rows, those that `train_digits` leaves out among them.
        validation_rows: number of validation rows.
        calibration_rows: number of calibration rows.
        test_rows: number of test rows.
        shares: parts of numbers of 3, 4, 5 and 6 digits among the rows.
        train_digits: longer numbers are left out of the training rows, so that it is known what a model cannot write.
        data_seed: the same seed gives the same numbers; ``seed`` is that of the training order.
        kwargs: see :class:`~datamodules.text_to_text.TextToText`; its fractions have no effect here.

    Raises:
        ValueError: for shares that are not four parts, more rows of a length than there are numbers, no such length, or
            no training row.
    """

    def __init__(
        self,
        train_rows: int = 10_000,
        validation_rows: int = 400,
        calibration_rows: int = 1_000,
        test_rows: int = 1_000,
        shares: list[float] | None = None,
        train_digits: int = LEVELS[-1],
        data_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shares = [0.05, 0.35, 0.3, 0.3] if shares is None else list(shares)
        self.sizes = dict(zip(ROLES, (train_rows, validation_rows, calibration_rows, test_rows), strict=True))
        check_generated(self.shares, len(LEVELS), self.sizes, data_seed)
        if train_digits not in LEVELS:
            raise ValueError(f"`train_digits` must be {LEVELS[0]} to {LEVELS[-1]}, but got {train_digits}.")
        self.train_digits, self.data_seed = train_digits, data_seed
        self.metrics = ["exact_match", "token_accuracy"]
        self._numbers = self._draw()
        if not (self._numbers[:train_rows] < 10**train_digits).any():
            raise ValueError(
                f"`train_digits` must leave some of the training rows, but got {train_digits}, and none is so short; "
                "raise it, or their parts of `shares`."
            )

    def _draw(self) -> np.ndarray:
        """Numbers of all roles, ``(N,)``."""
        rng, total = np.random.default_rng(self.data_seed), sum(self.sizes.values())
        bounds = np.rint(np.cumsum([0.0, *self.shares]) / sum(self.shares) * total).astype(int)
        parts = []
        for digits, count in zip(LEVELS, np.diff(bounds).tolist(), strict=True):
            first = 10 ** (digits - 1)
            if count > 9 * first:
                raise ValueError(
                    f"`train_rows` and the others must need at most {9 * first} numbers of {digits} digits, of which "
                    f"there are no more, but got {count}; ask for fewer rows, or lower its part of `shares`."
                )
            parts.append(first + rng.choice(9 * first, count, replace=False))
        return np.asarray(rng.permutation(np.concatenate(parts)))

    def has(self, role: str) -> bool:
        """Every role is generated."""
        return role in ROLES

    def read(self, role: str) -> Rows:
        """The rows of a role."""
        if role not in ROLES:
            raise ValueError(f"`role` must be one of {', '.join(ROLES)}, but got {role!r}.")
        start = sum(size for name, size in self.sizes.items() if ROLES.index(name) < ROLES.index(role))
        ids = np.arange(start, start + self.sizes[role], dtype=np.int64)
        if role == "train":
            ids = ids[self._numbers[ids] < 10**self.train_digits]
        numbers = self._numbers[ids].tolist()
        targets = [(" ".join(str(number)),) for number in numbers]
        return Rows([in_words(number) for number in numbers], None, ids, ids, None, targets)

    def levels(self, role: str) -> dict[int, int]:
        """``sample_id`` -> digits, 3 to 6, of a role's rows."""
        ids = self.sample_ids(role).tolist()
        return {sample_id: len(str(self._numbers[sample_id])) for sample_id in ids}
