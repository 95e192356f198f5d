"""A stage: a point at which an answer exists and computation may stop."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A point at which an answer exists and computation may stop.

    Attributes:
        name: unique in its table; letters, digits, ``_``, ``.`` and ``-``; not ``reference``, whose costs have a column
            of their own.
        tier: the model that it belongs to.
        index: which exit of that model, from 0.
    """

    name: str
    tier: str
    index: int = 0

    def __post_init__(self) -> None:
        for what in ("name", "tier"):
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", getattr(self, what)):
                raise ValueError(
                    f"`{what}` of a stage must consist of letters, digits, '_', '.' and '-', "
                    f"but got {getattr(self, what)!r}. Rename it: it becomes part of column names."
                )
        if self.name == "reference":
            raise ValueError(
                "`name` of a stage must not be 'reference', as `macs_reference` is what speed-ups compare with. "
                "Rename it."
            )
