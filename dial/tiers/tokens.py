"""Texts to token ids, and token ids to padded tensors, as a tier at work needs them: a batch at a time, no cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dial.tiers.encoding_key import has_plain_backend
from dial.tiers.tier import Tier

Unit = str | tuple[str, str]


class Tokens(NamedTuple):
    """One text or pair: its ids, its token types where the tokenizer has them, and whether it was longer."""

    ids: list[int]
    types: list[int] | None
    truncated: bool = False


def check_unit(unit: Any, name: str) -> Unit:
    """The text, or the pair as a tuple.

    Args:
        unit: what came.
        name: how the user calls it.

    Raises:
        ValueError: it is neither.

    Example:
        >>> check_unit(["a film", "it was good"], "row 3")
        ('a film', 'it was good')
        >>> check_unit(None, "row 3")
        Traceback (most recent call last):
            ...
        ValueError: row 3 must be a text or a pair of texts, but got None.
    """
    found = [unit] if isinstance(unit, str) else list(unit) if isinstance(unit, tuple | list) else []
    if all(isinstance(text, str) for text in found) and len(found) == (1 if isinstance(unit, str) else 2):
        try:
            for text in found:
                text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} must be a text or a pair of texts, but has half of a surrogate pair.") from None
        return unit if isinstance(unit, str) else (found[0], found[1])
    shown = repr(unit)
    raise ValueError(
        f"{name} must be a text or a pair of texts, but got {shown if len(shown) < 60 else shown[:57] + '...'}."
    )


class Tokeniser:
    """Encodes rows for one tier.

    Args:
        tier: whose tokenizer and maximum length count.
    """

    def __init__(self, tier: Tier) -> None:
        self.tokenizer: Any = tier.tokenizer
        self.max_length = tier.max_length
        self.typed = "token_type_ids" in self.tokenizer.model_input_names
        choices = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)  # masked anyway, but a valid id
        self.pad_id = next(choice for choice in choices if choice is not None)
        self.pad_type = getattr(self.tokenizer, "pad_token_type_id", 0)
        self.pad_left = self.tokenizer.padding_side == "left"
        unknown = self.tokenizer.unk_token_id
        self.filler = self.pad_id if unknown is None else unknown
        self._plain = has_plain_backend(self.tokenizer)
        self._truncation: dict[str, Any] | None = None

    def __call__(self, units: Sequence[Unit]) -> list[Tokens]:
        """Tokens of each row, at most ``max_length``, and at least one."""
        if not units:
            return []
        encoded = self._fast(units) if self._plain else self._slow(units)
        # An empty text where the tokenizer adds no special tokens; models need at least one token.
        return [row if row.ids else Tokens([self.filler], [0] if self.typed else None) for row in encoded]

    def _fast(self, units: Sequence[Unit]) -> list[Tokens]:
        # transformers sets up truncation in the backend; the backend alone is spared what it does to every row.
        backend = self.tokenizer.backend_tokenizer
        if backend.truncation != self._truncation or backend.padding is not None or self._truncation is None:
            self.tokenizer("", padding=False, truncation=True, max_length=self.max_length)
            self._truncation = backend.truncation
        found = backend.encode_batch_fast(list(units))
        return [Tokens(row.ids, row.type_ids if self.typed else None, len(row.overflowing) > 0) for row in found]

    def _slow(self, units: Sequence[Unit]) -> list[Tokens]:
        found = []
        for unit in units:
            # Lists of one: transformers takes a pair whose second text is empty for a single text otherwise.
            texts = [[unit]] if isinstance(unit, str) else [[text] for text in unit]
            batch = self.tokenizer(*texts, padding=False, verbose=False)
            truncated = len(batch["input_ids"][0]) > self.max_length
            if truncated:
                batch = self.tokenizer(
                    *texts, truncation=True, max_length=self.max_length, padding=False, verbose=False
                )
            row = {key: list(values[0]) for key, values in batch.items()}
            found.append(Tokens(row["input_ids"], row["token_type_ids"] if self.typed else None, truncated))
        return found

    def collate(self, rows: Sequence[Tokens], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Tensors ``(B, T)`` padded to the longest row.

        There is an ``attention_mask`` only where something is padded: an encoder that gets one looks at it to find that
        out, which shows in the time of a single row and waits for a GPU.
        """
        lengths = [len(row.ids) for row in rows]
        shape = len(rows), max(lengths)
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        types = np.full(shape, self.pad_type, dtype=np.int64) if self.typed else None
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            place = slice(shape[1] - length, None) if self.pad_left else slice(length)
            ids[index, place], mask[index, place] = row.ids, 1
            if types is not None and row.types is not None:
                types[index, place] = row.types
        arrays = {"input_ids": ids} | ({"attention_mask": mask} if min(lengths) < shape[1] else {})
        arrays |= {} if types is None else {"token_type_ids": types}
        return {key: torch.from_numpy(value).to(device, non_blocking=True) for key, value in arrays.items()}
