"""A grammar of sentences with a sentiment by composition, in four levels of difficulty.

1. plain: the words alone tell ("the plot was superb");
2. negated: one negation turns them round ("the plot was never superb");
3. contrasted: two opposite judgements, of which the structure says which one counts ("although the plot was superb, the
   cast was dull");
4. nested: a judgement that is reported, believed, denied or refuted, perhaps twice ("those who said that the plot was
   superb were wrong").

At level 3 no word tells on its own: with each, both sentiments are equally likely. At level 4 a word of praise or
blame is right about 58 times in 100.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import yaml

LEVELS = (1, 2, 3, 4)

WORDS: dict[str, list[str]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
GOOD, BAD, THINGS, PEOPLE = (WORDS[name] for name in ("good", "bad", "things", "people"))
DEGREES, VERBS, OPENINGS, PLAIN = (WORDS[name] for name in ("degrees", "verbs", "openings", "plain"))
NEGATED, CONTRASTS, KEEPING, TURNING = (WORDS[name] for name in ("negated", "contrasts", "keeping", "turning"))


@dataclass(frozen=True)
class Sentence:
    """A text with its label (1 positive, 0 negative) and level."""

    text: str
    label: int
    level: int


class Grammar:
    """Draws sentences; the same seed gives the same sentences on every platform and Python."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def sentence(self, level: int) -> Sentence:
        """One sentence of a level, either sentiment with the same probability."""
        positive = self._chance(0.5)
        text = (self._plain, self._negated, self._contrasted, self._nested)[level - 1](positive)
        if self._chance(0.4):
            text = f"{self._pick(OPENINGS)} {text}"
        text = re.sub(r"\ba (?=[aeiou])", "an ", text)
        return Sentence(f"{text} .", int(positive), level)

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _pick(self, choices: Sequence[str]) -> str:
        return choices[int(self.random.random() * len(choices))]  # random.choice may change between Pythons, this not

    def _clause(self, patterns: Sequence[str], good_word: bool) -> str:
        word = self._pick(GOOD if good_word else BAD)
        if self._chance(0.3):
            word = f"{self._pick(DEGREES)} {word}"
        return self._pick(patterns).format(thing=self._pick(THINGS), verb=self._pick(VERBS), word=word)

    def _plain(self, positive: bool) -> str:
        first = self._clause(PLAIN, positive)
        return f"{first} and {self._clause(PLAIN, positive)}" if self._chance(0.4) else first

    def _negated(self, positive: bool) -> str:
        return self._clause(NEGATED, not positive)

    def _simple(self, positive: bool, negated: float) -> str:
        return self._negated(positive) if self._chance(negated) else self._clause(PLAIN, positive)

    def _contrasted(self, positive: bool) -> str:
        return self._pick(CONTRASTS).format(main=self._simple(positive, 0.3), other=self._simple(not positive, 0.3))

    def _nested(self, positive: bool, depth: int = 0) -> str:
        turning = self._chance(0.35)  # at one half there is no gradient until both halves of the rule are learned
        inner = positive != turning
        claim = self._nested(inner, depth + 1) if depth == 0 and self._chance(0.15) else self._simple(inner, 0.2)
        return self._pick(TURNING if turning else KEEPING).format(people=self._pick(PEOPLE), claim=claim)


def draw(count: int, shares: Sequence[float], seed: int) -> list[Sentence]:
    """Draw ``count`` different sentences, the levels mixed by ``shares``, one per level."""
    grammar, seen, result = Grammar(seed), set[str](), list[Sentence]()
    bounds = list(accumulate(shares))
    while len(result) < count:
        place = grammar.random.random() * bounds[-1]
        sentence = grammar.sentence(1 + sum(place >= bound for bound in bounds[:-1]))
        if sentence.text not in seen:
            seen.add(sentence.text)
            result.append(sentence)
    return result
