"""Rows of random words, laid out as a tokenizer lays out a text, to try a model on."""

from __future__ import annotations

from typing import Any

import numpy as np

from dial.tiers.loading import longest
from dial.tiers.model_inputs import PAIR, WHOLE, accepted_inputs, embedding_size
from dial.tiers.tier import Tier
from dial.tiers.tokens import Tokens

LONGER = (1, 4, 11)  # tokens beyond the shortest row that holds a word: odd and even, as models may read them in pairs
LARGEST = 1 << 16  # ids to draw from, where the model has no table of words


class ProbeRows:
    """Rows for a tier.

    Args:
        tier: with its tokenizer.
        seed: of the words.

    Attributes:
        frame: ids before and after the words.
        empty: tokens of a row without words; a model needs at least one.
        limit: tokens that the model has positions for.
    """

    def __init__(self, tier: Tier, seed: int = 0) -> None:
        tokenizer, config = tier.tokenizer, tier.model.config
        size = embedding_size(tier.model) or LARGEST
        known = tokenizer.all_special_ids
        self.frame = _frame(tokenizer([PAIR[0]], **WHOLE)["input_ids"][0], set(known) - {tokenizer.unk_token_id})
        # Padding first, and the end of a text: models that look for these among the ids do so wherever they stand.
        named = [getattr(config, f"{kind}_token_id", None) for kind in ("pad", "eos", "sep", "bos", "cls")]
        special = [i for i in (*named, *known) if isinstance(i, int) and 0 <= i < size]
        words = sorted({i for i in tokenizer.get_vocab().values() if i < size} - set(special))
        self._words = np.array(words or range(size))
        self._special = np.array(list(dict.fromkeys(special)) or [0])
        self._types = _types(tokenizer) if "token_type_ids" in accepted_inputs(tier.model) else None
        self._random = np.random.default_rng(seed)
        self.empty = max(1, sum(map(len, self.frame)))
        self.limit, _ = longest(tokenizer, tier.model, LARGEST)

    def lengths(self, shortest: int) -> list[int]:
        """Three lengths to try, where the model takes no rows of fewer than ``shortest`` tokens."""
        return [min(self.limit, max(self.empty + 1, shortest) + more) for more in LONGER]

    def row(self, length: int, special: bool = False) -> Tokens:
        """A row of ``length`` tokens.

        Args:
            length: tokens, those of the frame among them.
            special: put tokens among its words that are none, as a text may that mentions them.
        """
        before, after = self.frame
        words = self._random.choice(self._words, max(0, length - len(before) - len(after)))
        if special:
            words[1::2] = np.resize(self._special, len(words[1::2]))
        ids = [*before, *words.tolist(), *after][:length]
        if self._types is None:
            return Tokens(ids, None)
        return Tokens(ids, [self._types[0]] * (length // 2) + [self._types[-1]] * (length - length // 2))


def _frame(ids: list[int], special: set[int]) -> tuple[list[int], list[int]]:
    """Special ids before and after the words of a text."""
    words = [position for position, token in enumerate(ids) if token not in special]
    return (list(ids[: words[0]]), list(ids[words[-1] + 1 :])) if words else ([], [])


def _types(tokenizer: Any) -> list[int] | None:
    """Token types of the two texts of a pair, as the tokenizer gives them."""
    encoded = tokenizer(*([text] for text in PAIR), **WHOLE)
    return sorted(set(encoded["token_type_ids"][0]) & {0, 1}) or [0] if "token_type_ids" in encoded else None
