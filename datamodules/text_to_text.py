"""What data modules share whose answers are texts that a decoder writes: label words, numbers, or free text."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from datamodules.base import SequenceDataModule
from datamodules.encoding import Tokens, encode
from datamodules.labels import ANY_TEXT, is_free_text
from datamodules.loading import EncodedRows
from datamodules.row_files import text_problem
from datamodules.row_tokens import check_label_words
from datamodules.rows import Rows

TRAINED = ("train", "validation")
"""Roles whose batches hold what is to be written; elsewhere models write for themselves."""


class TextToText(SequenceDataModule):
    """Texts in, texts out: what :class:`SequenceDataModule` gives, with the target's tokens as ``labels``.

    Each encoding of a batch of the roles ``train`` and ``validation`` has ``labels`` ``(B, T)`` int64, the target's
    tokens by the same tokenizer, padded with -100. A batch's ``label`` is the class where answers are label words (the
    class names are the words), the number where they are numbers, and for free text, whose ``label_names`` is ``*``
    alone, the position of the row in its role, by which :meth:`references` gives what it may be answered.

    Args:
        max_target_length: tokens kept of a target, the end of the text included; None keeps all.
        kwargs: see :class:`SequenceDataModule`.

    Raises:
        ValueError: fewer than two tokens are kept.
    """

    def __init__(self, max_target_length: int | None = None, **kwargs: Any) -> None:
        if max_target_length is not None and max_target_length < 2:
            raise ValueError(
                f"`max_target_length` must be at least 2, a token and the end of the text, but got {max_target_length}."
            )
        super().__init__(**kwargs)
        self.max_target_length = max_target_length
        self.truncated_targets: dict[str, dict[str, int]] = {}
        self._target_tokens: dict[tuple[str, str], Tokens] = {}
        self._distinct: set[str] = set()

    @property
    def label_names(self) -> list[str]:
        """The label words; ``*`` alone for free text, empty for numbers."""
        return [ANY_TEXT]

    @property
    def source_form(self) -> str | None:
        """How a text (``{0}``) or pair (``{0}``, ``{1}``) becomes what models that write read; None: as it is.

        :data:`NO_FORM` where it takes more than a text or a pair to make a source. ``dial predict`` puts the rows of
        other files into this form.
        """
        return None

    @property
    def target(self) -> str | None:
        """What is written, such as the code of a language: models that write another do not fit; None: nobody says."""
        return None

    def references(self, role: str) -> Sequence[tuple[str, ...]]:
        """What the rows of a role may be answered, each one or several texts."""
        rows = self.rows(role)
        if rows.targets is None:
            raise ValueError(f"`{role}` must have targets for this, but its rows have none. Name the target's column.")
        return rows.targets

    def _keep(self, role: str, rows: Rows) -> None:
        super()._keep(role, rows)
        if is_free_text(self.label_names):
            self._rows[role] = replace(self._rows[role], label=np.arange(len(self._rows[role])))

    # ---- tokens ----

    def train_texts(self) -> Callable[[], Iterator[Any]]:
        """A function that gives an iterator over the training role's sources and targets."""

        def texts() -> Iterator[Any]:
            rows = self.rows("train")
            yield from rows.text if rows.sources is None else rows.sources
            for references in self.references("train"):
                yield references[0]

        return texts

    def tokens(self, role: str, key: str) -> Tokens:
        """Tokens of a role's sources for one tokenizer, which must spell the label words if its models write."""
        if key not in self._distinct:
            if not is_free_text(self.label_names) and self._reads_targets and key not in self._plain_keys:
                check_label_words(self.label_names, self.tokenizers[key][0])
            self._distinct.add(key)
        return super().tokens(role, key)

    def as_read(self, rows: Rows, key: str) -> Rows:
        """The sources, but for models that read the units as they are: keys that the module has in ``plain_keys``."""
        if rows.sources is None or key in self._plain_keys:
            return rows
        return Rows(rows.sources, None, rows.label, rows.sample_id)

    @property
    def _module(self) -> Any:
        return getattr(self.trainer, "lightning_module", None)

    @property
    def _plain_keys(self) -> Collection[str]:
        keys: Collection[str] = getattr(self._module, "plain_keys", ())
        return keys

    @property
    def _reads_targets(self) -> bool:
        return bool(getattr(self._module, "reads_targets", True))

    def target_tokens(self, role: str, key: str) -> Tokens:
        """Tokens of a role's targets, the first reference of each row, for one tokenizer."""
        if (role, key) not in self._target_tokens:
            targets = [references[0] for references in self.references(role)]
            rows = Rows(targets, None, np.zeros(0), np.zeros(0))
            tokenizer = self.tokenizers[key][0]
            tokens = encode(rows, tokenizer, self.max_target_length, key, self.cache_dir, target=True)
            self._target_tokens[role, key] = tokens
            self.truncated_targets.setdefault(role, {})[key] = tokens.truncated
            self._say_truncated(role, "targets", tokens)
        return self._target_tokens[role, key]

    def encoded(self, role: str, key: str | None = None) -> EncodedRows:
        """Rows of a role with their encodings, and their targets where these are trained on.

        A module whose ``reads_targets`` is false, such as a classifier, gets none.
        """
        rows = super().encoded(role, key)
        if role in TRAINED and self._reads_targets:
            rows.targets = {name: self.target_tokens(role, name) for name in rows.tokens}
        return rows


def form_of(prefix: str) -> str | None:
    """The form of sources with something in front of them.

    >>> form_of("to German: "), form_of("")
    ('to German: {0}', None)
    """
    return prefix.replace("{", "{{").replace("}", "}}") + "{0}" if prefix else None


def check_texts(texts: Sequence[Any], column: str, where: str) -> None:
    """Refuse texts that are none or empty: nothing can be read in them, and nothing learnt from writing them.

    Raises:
        ValueError: naming the column and the first such row.
    """
    for row, text in enumerate(texts):
        problem = text_problem(text, column) or ("" if text.strip() else "is empty")
        if problem:
            raise ValueError(
                f"`{column}` must be a text in every row, but {where}, row {row}: {problem}. Fill it in, or leave the "
                "row out."
            )
