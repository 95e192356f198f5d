"""Texts as words and what stands between them, so that words can be replaced and all else kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

WORD = re.compile(r"(?<!\w)['’]\w+|\b\w(?:\.\w\b)+|\w+(?:['’\-]\w+)*")
"""A word, hyphens and apostrophes inside of it included, a clitic that stands apart, as in "it 's", or letters as in
"U.S."."""
TOKEN = re.compile(rf"{WORD.pattern}|[^\w\s]")


@dataclass(frozen=True)
class SplitText:
    """A text and the places of its words.

    Attributes:
        text: as it was given.

    Example:
        >>> split = SplitText("It 's a well-made film, really.")
        >>> split.words
        ['It', "'s", 'a', 'well-made', 'film', 'really']
        >>> split.joined(["This", "'s", "a", "good", "film", "really"])
        "This 's a good film, really."
    """

    text: str

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """First character of each word, and the one behind it."""
        return [match.span() for match in WORD.finditer(self.text)]

    @cached_property
    def words(self) -> list[str]:
        """The words, in order."""
        return [self.text[begin:end] for begin, end in self.spans]

    @cached_property
    def tokens(self) -> tuple[list[str], list[int]]:
        """Words and punctuation marks in order, and which of them are the words.

        >>> SplitText("Dull, very.").tokens
        (['Dull', ',', 'very', '.'], [0, 2])
        """
        found = list(TOKEN.finditer(self.text))
        words = set(self.spans)
        return [match[0] for match in found], [i for i, match in enumerate(found) if match.span() in words]

    def joined(self, words: Sequence[str], first: int = 0, last: int | None = None) -> str:
        """The text with other words in place of its own, or a run of them alone.

        Args:
            words: as many as the text has.
            first: number of the first word that is kept.
            last: number of the word behind the last that is kept; default: all, with what stands around the words.
        """
        begin, end = (0, len(self.text)) if last is None else (self.spans[first][0], self.spans[last - 1][1])
        parts, place = [], begin
        for i in range(first, len(words) if last is None else last):
            parts += [self.text[place : self.spans[i][0]], words[i]]
            place = self.spans[i][1]
        return "".join([*parts, self.text[place:end]])


def like(word: str, model: str) -> str:
    """A word in the case of another one.

    >>> like("film", "Movie"), like("film", "MOVIE"), like("film", "movie"), like("Paris", "I")
    ('Film', 'FILM', 'film', 'Paris')
    """
    if len(model) > 1 and model.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if model[:1].isupper() else word


def is_word(text: str) -> bool:
    """Whether a text has a letter: numbers and marks are not replaced."""
    return any(character.isalpha() for character in text)
