"""New texts of a text: words replaced (Jiao et al. 2020); masks, parts of speech and n-grams (Tang et al. 2019)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datamodules.augmentation.masked_lm import MaskedLM
from datamodules.augmentation.split_text import SplitText, is_word, like
from datamodules.augmentation.tags import Tagger

Unit = tuple[str, ...]
MASK = "[MASK]"
"""What stands in texts for a masked word; tokenizers read their own mask there, or else the unknown word."""
LONGEST = 5  # words of an n-gram (Tang et al. 2019, section 3.2)


@dataclass
class Method(ABC):
    """Makes new texts of a text or pair.

    Of a pair the first side is changed, then the second, then both, in turns (Tang et al. 2019); the other is kept.

    Attributes:
        copies: texts that are made; those that are the original or one of each other again are left out.
    """

    copies: int

    def __call__(self, unit: Unit, generator: np.random.Generator) -> list[Unit]:
        """New texts or pairs, at most ``copies``, all different.

        Args:
            unit: one text, or two.
            generator: gives all that is random.
        """
        sides = [self.prepare(SplitText(text)) for text in unit]
        turns = [(0,)] if len(unit) == 1 else [(0,), (1,), (0, 1)]
        made = dict.fromkeys([unit])
        for copy in range(self.copies):
            changed = turns[copy % len(turns)]
            made[tuple(self.change(sides[i], generator) if i in changed else unit[i] for i in range(len(unit)))] = None
        return list(made)[1:]

    @abstractmethod
    def prepare(self, split: SplitText) -> Any:
        """What :meth:`change` needs of a text, which is the same for all copies."""

    @abstractmethod
    def change(self, prepared: Any, generator: np.random.Generator) -> str:
        """One new text."""


@dataclass
class WordReplacement(Method):
    """TinyBERT's: each word is replaced with a probability by one of its candidates (Jiao et al. 2020, algorithm 1).

    Candidates are the most probable words of a masked language model where its tokenizer has the word in one piece,
    else the words with the most similar vectors. They are taken once from the original text, as in the released code,
    where the algorithm as printed asks the model anew for each copy, at ``copies`` times the cost.

    Attributes:
        probability: of each word to be replaced.
        neighbours: similar words of each word.
        masked_lm: gives candidates in context; without one all words have their neighbours.
    """

    probability: float = 0.4
    neighbours: Mapping[str, Sequence[str]] = field(default_factory=dict)
    masked_lm: MaskedLM | None = None

    def prepare(self, split: SplitText) -> tuple[SplitText, list[Sequence[str]]]:
        """The text, and the candidates of each word; none where it stays."""
        found = {} if self.masked_lm is None else self.masked_lm.candidates(split)
        candidates = (found.get(i) or self.neighbours.get(word, ()) for i, word in enumerate(split.words))
        return split, [c if is_word(word) else () for word, c in zip(split.words, candidates, strict=True)]

    def change(self, prepared: tuple[SplitText, list[Sequence[str]]], generator: np.random.Generator) -> str:
        """See :meth:`Method.change`."""
        split, candidates = prepared
        replaced, choice = generator.random((2, len(candidates))).tolist()
        words = [
            like(others[int(choice[i] * len(others))], word) if others and replaced[i] < self.probability else word
            for i, (word, others) in enumerate(zip(split.words, candidates, strict=True))
        ]
        return split.joined(words)


@dataclass(frozen=True)
class TagWords:
    """Words by their tag, as often as they occur.

    Attributes:
        words: of each tag, in alphabetical order.
        shares: sums of their shares among the tag's words, up to each word.
    """

    words: Mapping[str, Sequence[str]]
    shares: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, counts: Mapping[tuple[str, str], int]) -> TagWords:
        """From the number of occurrences of each tag and word."""
        by_tag: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for (tag, word), count in sorted(counts.items()):
            by_tag[tag].append((word, count))
        shares = {tag: np.cumsum([n for _, n in found]) / sum(n for _, n in found) for tag, found in by_tag.items()}
        return cls({tag: [word for word, _ in found] for tag, found in by_tag.items()}, shares)

    def draw(self, tag: str, place: float) -> str:
        """The word of a tag at a place in [0, 1)."""
        words = self.words[tag]
        return words[min(int(np.searchsorted(self.shares[tag], place, side="right")), len(words) - 1)]


@dataclass
class MaskingTagsNgrams(Method):
    """Tang et al. 2019, section 3.2: words masked, or replaced by others of their part of speech, and n-grams sampled.

    A replacement is drawn among the training texts' words of the same tag, as often as they occur there. At last the
    text may be cut to a run of 1 to 5 of its words.

    Attributes:
        masking: probability of each word to be masked.
        replacement: of each word to be replaced, where it is not masked.
        sampling: of a text to be cut.
        tagger: tells parts of speech; needed where words are replaced.
        tag_words: to draw from.
    """

    masking: float = 0.1
    replacement: float = 0.1
    sampling: float = 0.25
    tagger: Tagger | None = None
    tag_words: TagWords | None = None

    def prepare(self, split: SplitText) -> tuple[SplitText, list[str]]:
        """The text, and the tag of each word."""
        return split, [] if self.tagger is None else self.tagger.tags(split)

    def change(self, prepared: tuple[SplitText, list[str]], generator: np.random.Generator) -> str:
        """See :meth:`Method.change`."""
        split, tags = prepared
        words, count = list(split.words), len(split.words)
        chance, place = generator.random((2, count)).tolist()
        for i, word in enumerate(split.words):
            if chance[i] < self.masking:
                words[i] = MASK
            elif chance[i] < self.masking + self.replacement and tags and is_word(word):
                assert self.tag_words is not None
                words[i] = like(self.tag_words.draw(tags[i], place[i]), word)
        if generator.random() >= self.sampling or not count:
            return split.joined(words)
        size = min(int(generator.integers(1, LONGEST + 1)), count)
        first = int(generator.integers(0, count - size + 1))
        return split.joined(words, first, first + size)


@dataclass
class CountTags:
    """Counts how often each word, in lower case, occurs under each tag."""

    tagger: Tagger

    def __call__(self, units: Iterable[Unit]) -> Counter[tuple[str, str]]:
        """Occurrences by tag and word."""
        counts: Counter[tuple[str, str]] = Counter()
        for unit in units:
            for split in map(SplitText, unit):
                tagged = zip(self.tagger.tags(split), split.words, strict=True)
                counts.update((tag, word.lower()) for tag, word in tagged if is_word(word))
        return counts


def words_of(units: Iterable[Unit]) -> Iterator[str]:
    """The words of texts, one after the other."""
    for unit in units:
        for text in unit:
            yield from filter(is_word, SplitText(text).words)
