"""The built-in questions: what of its kind came first or last. The more there are of the kind, the harder."""

from typing import Any, NamedTuple

import numpy as np

from datamodules.checks import check_generated
from datamodules.questions import QuestionAnswering
from datamodules.rows import Rows

ROLES = ("train", "validation", "calibration", "test")
LEVELS = (1, 2, 3)
"""Words of the kind that is asked for."""
KINDS = {
    "animal": "bear cat dog fox goat hare lynx mole".split(),
    "colour": "amber blue green grey pink red teal white".split(),
    "fruit": "apple cherry fig grape lemon mango pear plum".split(),
    "town": "arles bath cork delft essen faro ghent hull".split(),
}
OTHERS = (2, 6)
"""Words of other kinds in a context, at least and at most."""


class Drawn(NamedTuple):
    """One row.

    Attributes:
        question: what is asked.
        context: list of words.
        answer: one of them.
        level: words of the kind that is asked for.
    """

    question: str
    context: str
    answer: str
    level: int


class FirstOrLastDataModule(QuestionAnswering):
    """Questions like *which animal came last* about contexts like *first fig, then fox, then mole, then red*.

    With one word of the kind its kind alone tells the answer, with several their order must be looked at: so it is
    known which questions a router should pass on. ``sample_id`` counts through all roles.

    Args:
        train_rows: number of training rows.
        validation_rows: number of validation rows.
        calibration_rows: number of calibration rows.
        test_rows: number of test rows.
        shares: parts of questions with one, two and three words of the kind among the rows.
        data_seed: the same seed gives the same questions; ``seed`` is that of the training order.
        kwargs: see :class:`~datamodules.questions.QuestionAnswering`; its fractions have no effect here.

    Raises:
        ValueError: for shares that are not three parts.
    """

    def __init__(
        self,
        train_rows: int = 4_000,
        validation_rows: int = 200,
        calibration_rows: int = 600,
        test_rows: int = 1_000,
        shares: list[float] | None = None,
        data_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shares = [0.4, 0.3, 0.3] if shares is None else list(shares)
        self.sizes = dict(zip(ROLES, (train_rows, validation_rows, calibration_rows, test_rows), strict=True))
        check_generated(self.shares, len(LEVELS), self.sizes, data_seed)
        self.data_seed = data_seed

    def has(self, role: str) -> bool:
        """Every role is generated."""
        return role in ROLES

    def read(self, role: str) -> Rows:
        """The rows of a role."""
        if role not in ROLES:
            raise ValueError(f"`role` must be one of {', '.join(ROLES)}, but got {role!r}.")
        start = sum(size for name, size in self.sizes.items() if ROLES.index(name) < ROLES.index(role))
        ids = np.arange(start, start + self.sizes[role], dtype=np.int64)
        drawn = [self._draw(row) for row in ids.tolist()]
        contexts, answers = [each.context for each in drawn], [each.answer for each in drawn]
        starts = [context.index(answer) for context, answer in zip(contexts, answers, strict=True)]
        spans = np.array([(at, at + len(answer)) for at, answer in zip(starts, answers, strict=True)], np.int64)
        label, targets = np.arange(len(ids), dtype=np.int64), [(answer,) for answer in answers]
        return Rows([each.question for each in drawn], contexts, label, ids, None, targets, spans=spans)

    def _draw(self, row: int) -> Drawn:
        """The same for a row whatever the sizes of the roles."""
        random = np.random.default_rng([self.data_seed, row])
        level = int(random.choice(LEVELS, p=np.array(self.shares) / sum(self.shares)))
        kind = str(random.choice(list(KINDS)))
        own = random.choice(KINDS[kind], level, replace=False).tolist()
        rest = [word for name, words in KINDS.items() if name != kind for word in words]
        others = random.choice(rest, random.integers(OTHERS[0], OTHERS[1] + 1), replace=False).tolist()
        words = random.permutation([*own, *others]).tolist()
        end = str(random.choice(["first", "last"]))
        placed = [word for word in words if word in own]
        answer = placed[0 if end == "first" else -1]
        return Drawn(f"which {kind} came {end}", f"first {', then '.join(words)}.", answer, level)

    def levels(self, role: str) -> dict[int, int]:
        """``sample_id`` -> words of the kind, 1 to 3, of a role's rows."""
        return {sample_id: self._draw(sample_id).level for sample_id in self.sample_ids(role).tolist()}
