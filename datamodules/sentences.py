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

LEVELS = (1, 2, 3, 4)

GOOD = (
    "amazing beautiful brilliant captivating charming clever compelling convincing delightful elegant "
    "enchanting engaging enjoyable excellent exciting exquisite fascinating fantastic fine flawless fresh "
    "funny gorgeous graceful great gripping heartfelt hilarious imaginative impressive inspired lively "
    "lovely magical marvellous masterful memorable moving perfect pleasant poetic remarkable rewarding "
    "satisfying smart splendid stunning superb terrific thrilling touching uplifting vivid warm witty "
    "wonderful"
).split()
BAD = (
    "abysmal annoying appalling atrocious awful awkward bad bland boring chaotic cheap clumsy confusing "
    "contrived crude depressing disappointing dismal dreadful dreary dull embarrassing empty flat "
    "forgettable frustrating ghastly hollow horrible incoherent insipid irritating laboured lazy lifeless "
    "mediocre messy miserable monotonous pathetic pointless poor predictable pretentious ridiculous "
    "shallow sloppy stale stupid tedious terrible tiresome trite ugly unbearable weak wooden worthless"
).split()
THINGS = (
    "acting action animation atmosphere camerawork cast cinematography climax comedy dialogue direction "
    "drama editing ending finale film humour lighting lead movie music narration opening pacing "
    "performance photography plot production rhythm romance scenery score screenplay script sequel "
    "setting soundtrack story storytelling style suspense theme thriller twist villain writing"
).split()
PEOPLE = (
    "colleagues cousins critics fans friends guests journalists neighbours parents reviewers students "
    "teachers viewers visitors"
).split()
DEGREES = "absolutely quite rather really simply so thoroughly truly utterly very".split()
VERBS = "felt is looked remained seemed was".split()
OPENINGS = (
    "after all ,|all in all ,|as far as i can tell ,|at the cinema last night ,|for me ,|frankly ,|"
    "having seen it twice ,|honestly ,|in my opinion ,|in the end ,|on the whole ,|to be honest ,|"
    "we watched it on a plane :|when it came out ,"
).split("|")
PLAIN = (
    "the {thing} {verb} {word}",
    "i found the {thing} {word}",
    "this film has a {word} {thing}",
    "it comes with a {word} {thing}",
)
NEGATED = (
    "the {thing} {verb} not {word}",
    "the {thing} {verb} never {word}",
    "i did not find the {thing} {word}",
    "nobody found the {thing} {word}",
    "this film does not have a {word} {thing}",
    "there is nothing {word} about the {thing}",
    "the {thing} {verb} anything but {word}",
    "the {thing} {verb} far from {word}",
)
CONTRASTS = (  # {main} is what counts
    "although {other} , {main}",
    "{main} , although {other}",
    "even if {other} , {main}",
    "{main} , even if {other}",
    "{other} , but {main}",
    "{other} , yet {main}",
    "while {other} , it matters more that {main}",
    "it matters more that {main} than that {other}",
)
KEEPING = (
    "{people} said that {claim} , and they were right",
    "{people} who said that {claim} were right",
    "everybody agrees that {claim}",
    "nobody denies that {claim}",
    "it is true that {claim}",
    "i believe the {people} who think that {claim}",
)
TURNING = (
    "{people} said that {claim} , but they were wrong",
    "{people} who said that {claim} were wrong",
    "nobody agrees that {claim}",
    "everybody denies that {claim}",
    "it is false that {claim}",
    "i doubt the {people} who think that {claim}",
)


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
