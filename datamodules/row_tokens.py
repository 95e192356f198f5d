"""Texts to token ids, and token ids to padded tensors: the same for the rows of a data set and for a model at work."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Unit = str | tuple[str, ...]
NO_FORM = ""
"""The form of sources that no text or pair alone can be put into; see ``TextToText.source_form``."""
SWITCH = "_switch_to_target_mode"  # what transformers calls on a tokenizer before it reads targets


class UnreadableRowError(ValueError):
    """A row that a tokeniser cannot read.

    Args:
        place: its position among those that were given.
        problem: what is wrong with it, and the remedy, as the end of a sentence that begins with the row.
    """

    def __init__(self, place: int, problem: str) -> None:
        super().__init__(f"row {place} {problem}.")
        self.place, self.problem = place, problem


class RowTokens(NamedTuple):
    """One text or pair: its ids, its token types where the tokenizer has them, and whether it was longer."""

    ids: Sequence[int] | np.ndarray
    types: Sequence[int] | np.ndarray | None
    truncated: bool = False


class Padding(NamedTuple):
    """What fills a batch.

    Attributes:
        pad_id: masked, but a valid id.
        pad_type: token type of the padding.
        pad_left: whether it stands before the tokens.
    """

    pad_id: int
    pad_type: int
    pad_left: bool

    @classmethod
    def of(cls, tokenizer: Any) -> "Padding":
        """What a tokenizer says; where it has no padding, the end of a text, else 0."""
        choices = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        pad_id = next(choice for choice in choices if choice is not None)
        return cls(pad_id, getattr(tokenizer, "pad_token_type_id", 0), tokenizer.padding_side == "left")

    def batch(self, rows: Sequence[Any], masked: bool = True) -> dict[str, Tensor]:
        """Tensors ``(B, T)`` int64 padded to the longest row: ``input_ids``, ``attention_mask``[, ``token_type_ids``].

        Args:
            rows: ids and token types of each, as the first two of a tuple.
            masked: give an ``attention_mask`` also where nothing is padded.
        """
        lengths = [len(row[0]) for row in rows]
        shape = len(rows), max(lengths)
        ids = np.full(shape, self.pad_id, np.int64)
        mask = np.zeros(shape, np.int64)
        types = None if rows[0][1] is None else np.full(shape, self.pad_type, np.int64)
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            place = slice(shape[1] - length, None) if self.pad_left else slice(length)
            ids[index, place], mask[index, place] = row[0], 1
            if types is not None:
                types[index, place] = row[1]
        arrays = {"input_ids": ids} | ({"attention_mask": mask} if masked or min(lengths) < shape[1] else {})
        arrays |= {} if types is None else {"token_type_ids": types}
        return {key: torch.from_numpy(value) for key, value in arrays.items()}


def has_plain_backend(tokenizer: Any) -> bool:
    """Whether the Rust backend alone says what a call gives: no class in between changes texts, pairs or ids."""
    from transformers import PreTrainedTokenizerFast  # here, as it takes a second

    kind = type(tokenizer)
    steps = ("__call__", "_encode_plus", "_batch_encode_plus")
    return issubclass(kind, PreTrainedTokenizerFast) and all(
        getattr(kind, step, None) is getattr(PreTrainedTokenizerFast, step, None) for step in steps
    )


def switches_to_targets(tokenizer: Any) -> bool:
    """Whether a tokenizer treats what a decoder writes otherwise than what an encoder reads."""
    return hasattr(tokenizer, SWITCH)


class RowTokeniser:
    """Gives rows their tokens.

    Args:
        tokenizer: any transformers tokenizer.
        max_length: tokens kept of a text or pair; None keeps all.
        target: whether rows are what a decoder writes, which some tokenizers (of Marian, mBART, NLLB) treat otherwise.
    """

    def __init__(self, tokenizer: Any, max_length: int | None, target: bool = False) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.typed = "token_type_ids" in tokenizer.model_input_names
        self.padding = Padding.of(tokenizer)
        self.filler = self.padding.pad_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        self._target = target and switches_to_targets(tokenizer)
        self._plain = has_plain_backend(tokenizer) and not self._target
        self._truncation: dict[str, Any] | None = None
        self._ready = False

    def __call__(self, units: Sequence[Unit]) -> list[RowTokens]:
        """Tokens of each row, at most ``max_length``, and at least one."""
        if not units:
            return []
        encoded = self._fast(units) if self._plain else self._slow(units)
        # An empty text where the tokenizer adds no special tokens; models need at least one token.
        return [row if len(row.ids) else RowTokens([self.filler], [0] if self.typed else None) for row in encoded]

    def _fast(self, units: Sequence[Unit]) -> list[RowTokens]:
        # transformers sets up truncation in the backend; the backend alone is spared what it does to every row.
        backend = self.tokenizer.backend_tokenizer
        if not self._ready or backend.truncation != self._truncation or backend.padding is not None:
            self.tokenizer("", padding=False, truncation=self.max_length is not None, max_length=self.max_length)
            self._truncation, self._ready = backend.truncation, True
        encoded = backend.encode_batch_fast(list(units))
        return [RowTokens(row.ids, row.type_ids if self.typed else None, len(row.overflowing) > 0) for row in encoded]

    def _slow(self, units: Sequence[Unit]) -> list[RowTokens]:
        """Tokens of units one by one, for tokenizers that are written in Python."""
        encoded = []
        for unit in units:
            # Lists of one: transformers takes a pair whose second text is empty for a single text otherwise.
            texts = [[unit]] if isinstance(unit, str) else [[text] for text in unit]
            given = {"text_target": texts[0]} if self._target else dict(zip(("text", "text_pair"), texts, strict=False))
            batch = self.tokenizer(**given, padding=False, verbose=False)
            truncated = self.max_length is not None and len(batch["input_ids"][0]) > self.max_length
            if truncated:
                batch = self.tokenizer(
                    **given, truncation=True, max_length=self.max_length, padding=False, verbose=False
                )
            row = {key: list(values[0]) for key, values in batch.items()}
            encoded.append(RowTokens(row["input_ids"], row["token_type_ids"] if self.typed else None, truncated))
        return encoded


def check_label_words(words: Sequence[str], tokenizer: Any) -> None:
    """Refuse label words that a tokenizer does not tell apart or cannot spell: no model could write them.

    Args:
        words: of the classes in order.
        tokenizer: any transformers tokenizer.

    Raises:
        ValueError: naming the two words and their tokens, or a word and what its tokens spell.
    """
    known: dict[tuple[int, ...], str] = {}
    for word, row in zip(words, RowTokeniser(tokenizer, None, target=True)(list(words)), strict=True):
        ids = tuple(map(int, row.ids))
        if ids in known:
            pieces = " ".join(map(str, tokenizer.convert_ids_to_tokens(list(ids))))
            raise ValueError(
                f"`label_names` must be words that the tokenizer tells apart, but it reads both {known[ids]!r} and "
                f"{word!r} as {pieces}. Name the classes otherwise."
            )
        known[ids] = word
    for ids, word in known.items():
        spelt = tokenizer.decode(list(ids), skip_special_tokens=True)
        if spelt.split() != word.split():
            raise ValueError(
                f"`label_names` must be words that the tokenizer can spell, but of {word!r} its tokens give back "
                f"{spelt!r}, which would be no answer. Name the class otherwise, or use another tokenizer."
            )
