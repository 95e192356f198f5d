"""Metrics of free text, each as a function of sums over rows: BLEU, chrF, exact match, token F1, and error rates.

Labels are the references of a row, a tuple of texts, and predictions are texts. A metric of a corpus such as BLEU is no
mean over rows, but a function of sums of counts, so curves and intervals treat it like F1.
"""

from __future__ import annotations

import re
import string
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from datamodules.labels import NOT
from dial.stages.metrics.base import UNIT_RANGE, Mean, Metric, divide
from dial.stages.metrics.edits import edit_distances


class TextMetric(Metric):
    """A metric of texts against references.

    Attributes:
        sums: what the K statistics are called; a table holds them as ``stat_<name>_<stage>``.
        range: the lowest and the highest that the value can be.
    """

    task = "text"
    sums: tuple[str, ...]
    range: tuple[float, float] = UNIT_RANGE

    @abstractmethod
    def of_pairs(self, texts: Sequence[str], references: Sequence[tuple[str, ...]]) -> np.ndarray:
        """Statistics ``(M, K)`` of M texts, each against its references."""

    @abstractmethod
    def worst(self, statistics: np.ndarray) -> np.ndarray:
        """What rows would add to the sums if they were answered as badly as can be, in one or several ways.

        Args:
            statistics: ``(N, S, K)``.

        Returns:
            ``(W, N, K)``.
        """

    def statistics(self, label: np.ndarray, prediction: np.ndarray, classes: int | None = None) -> np.ndarray:
        """See :class:`Metric`; stages often write the same text, which is counted once.

        Args:
            label: ``(N,)`` tuples of references.
            prediction: ``(N,)`` or ``(N, S)`` texts.
            classes: not read.
        """
        texts = np.asarray(prediction, dtype=object)
        columns = texts.reshape(len(texts), -1)
        places: dict[tuple[int, str], int] = {}
        which = [
            [places.setdefault((row, text), len(places)) for text in line] for row, line in enumerate(columns.tolist())
        ]
        values = self.of_pairs([text for _, text in places], [label[row] for row, _ in places])
        picked = np.asarray(values, dtype=np.float64)[np.array(which, dtype=np.intp).reshape(columns.shape)]
        return np.moveaxis(np.moveaxis(picked, -1, 0).copy(), 0, -1).reshape(*texts.shape, -1)


class Bleu(TextMetric):
    """BLEU of a corpus (Papineni et al. 2002) as sacreBLEU computes it by default.

    That is with tokenizer 13a, orders 1 to 4 and ``exp`` smoothing.
    Sums: length of the texts and of their closest references, n-grams that match, n-grams that there are.
    """

    name = "bleu"
    ORDERS = 4
    sums = (
        *("bleu_length", "bleu_reference"),
        *(f"bleu_match_{order}" for order in (1, 2, 3, 4)),
        *(f"bleu_total_{order}" for order in (1, 2, 3, 4)),
    )

    def of_pairs(self, texts: Sequence[str], references: Sequence[tuple[str, ...]]) -> np.ndarray:
        """See :class:`TextMetric`."""
        from sacrebleu.metrics import BLEU  # here, as few runs need it

        bleu = BLEU(effective_order=True)  # which changes no count, and spares a warning about single sentences
        scores = (bleu.sentence_score(text, list(row)) for text, row in zip(texts, references, strict=True))
        rows = [[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores]
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.sums))

    def value(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return self._parts(sums)[0]

    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`; where no n-gram of an order matches, the smoothed count stands still."""
        value, matches, totals, short = self._parts(sums)
        lengths, references = sums[..., 0], sums[..., 1]
        by_length = np.where(short, divide(references, lengths**2), 0.0)
        by_reference = np.where(short, -divide(1.0, lengths), 0.0)
        by_match = np.where(matches > 0, divide(1.0, self.ORDERS * matches), 0.0)
        by_total = -divide(1.0, self.ORDERS * totals)
        parts = [by_length[..., None], by_reference[..., None], by_match, by_total]
        gradient: np.ndarray = value[..., None] * np.concatenate(parts, axis=-1)
        return gradient

    def worst(self, statistics: np.ndarray) -> np.ndarray:
        """See :class:`TextMetric`: no match in a text as long as this one or its reference, and no text at all."""
        unmatched, empty = np.zeros_like(statistics[:, -1]), np.zeros_like(statistics[:, -1])
        unmatched[:, 1] = empty[:, 1] = statistics[:, -1, 1]
        unmatched[:, 0] = statistics[:, -1, :2].max(axis=-1)
        unmatched[:, -self.ORDERS :] = np.maximum(unmatched[:, :1] - np.arange(self.ORDERS), 0)
        return np.stack([unmatched, empty])

    def _parts(self, sums: np.ndarray) -> tuple[np.ndarray, ...]:
        """BLEU from counts, with what its slopes need: matches, totals, and where the text is short."""
        lengths, references = sums[..., 0], sums[..., 1]
        matches, totals = np.split(sums[..., 2:], 2, axis=-1)
        # The k-th order without a match counts as a match of 2⁻ᵏ.
        smoothed = np.where(matches > 0, matches, 0.5 ** np.cumsum(matches == 0, axis=-1))
        possible = (totals > 0).all(axis=-1) & (matches > 0).any(axis=-1)
        precision = np.where(totals > 0, divide(smoothed, totals), 1.0)
        short = lengths < references
        penalty = np.exp(np.where(short, 1 - divide(references, lengths), 0.0))
        value = np.where(possible, penalty * np.exp(np.log(precision).mean(axis=-1)), 0.0)
        return value, matches, totals, short


class ChrF(TextMetric):
    """chrF2 of a corpus (Popović 2015) as sacreBLEU computes it: orders 1 to 6 without spaces, recall counted doubly.

    Sums: for each order the n-grams of the text, those of the reference, and those that match.
    """

    name = "chrf"
    ORDERS, BETA2 = 6, 4.0
    sums = tuple(f"chrf_{what}_{order}" for order in (1, 2, 3, 4, 5, 6) for what in ("text", "reference", "match"))

    def of_pairs(self, texts: Sequence[str], references: Sequence[tuple[str, ...]]) -> np.ndarray:
        """See :class:`TextMetric`; of several references the one with the best value, the first of equals."""
        rows = np.zeros((len(texts), len(self.sums)))
        for row, (text, accepted) in enumerate(zip(texts, references, strict=True)):
            written = _character_ngrams(text, self.ORDERS)
            counts = np.array([self._counts(written, _character_ngrams(each, self.ORDERS)) for each in accepted])
            rows[row] = counts[self.value(counts).argmax()]
        return rows

    @staticmethod
    def _counts(written: list[Counter[str]], expected: list[Counter[str]]) -> list[int]:
        counts = []
        for one, other in zip(written, expected, strict=True):
            matches = sum(min(count, other[ngram]) for ngram, count in one.items() if ngram in other)
            counts += [one.total() if other else 0, other.total(), matches]
        return counts

    def value(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        precision, recall, _ = self._means(sums)
        return divide((1 + self.BETA2) * precision * recall, self.BETA2 * precision + recall)

    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        written, expected, matches = np.moveaxis(sums.reshape(*sums.shape[:-1], self.ORDERS, 3), -1, 0)
        precision, recall, used = self._means(sums)
        square = (self.BETA2 * precision + recall) ** 2
        orders = used.sum(axis=-1)
        by_precision = divide(divide((1 + self.BETA2) * recall**2, square), orders)[..., None] * used
        by_recall = divide(divide((1 + self.BETA2) * self.BETA2 * precision**2, square), orders)[..., None] * used
        parts = [
            -by_precision * divide(matches, written**2),
            -by_recall * divide(matches, expected**2),
            by_precision * divide(1.0, written) + by_recall * divide(1.0, expected),
        ]
        return np.stack(parts, axis=-1).reshape(sums.shape)

    def worst(self, statistics: np.ndarray) -> np.ndarray:
        """See :class:`TextMetric`: no match in a text as long as this one or its reference, and no text at all."""
        unmatched, empty = statistics[:, -1].copy(), statistics[:, -1].copy()
        unmatched[:, 0::3] = np.maximum(unmatched[:, 0::3], unmatched[:, 1::3])
        unmatched[:, 2::3] = 0
        empty[:, 2::3] = empty[:, 0::3] = 0
        return np.stack([unmatched, empty])

    def _means(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision and recall, averaged over the orders that both sides have, and which these are."""
        written, expected, matches = np.moveaxis(sums.reshape(*sums.shape[:-1], self.ORDERS, 3), -1, 0)
        used = (written > 0) & (expected > 0)
        orders = used.sum(axis=-1)
        means = (divide((divide(matches, of) * used).sum(axis=-1), orders) for of in (written, expected))
        precision, recall = means
        return precision, recall, used


class MeanOfTexts(TextMetric, Mean):
    """Mean over rows of the best value among a row's references. Sums: the value, count."""

    def __init__(self) -> None:
        self.sums = (self.name,)

    @abstractmethod
    def of_pair(self, text: str, reference: str) -> float:
        """Value of a text against one reference."""

    def of_pairs(self, texts: Sequence[str], references: Sequence[tuple[str, ...]]) -> np.ndarray:
        """See :class:`TextMetric`."""
        best = [max(self.of_pair(text, each) for each in row) for text, row in zip(texts, references, strict=True)]
        return np.stack([np.array(best, dtype=np.float64), np.ones(len(best))], axis=-1)

    def worst(self, statistics: np.ndarray) -> np.ndarray:
        """See :class:`TextMetric`: nothing of it is right."""
        return (statistics[:, -1] * [0, 1])[None]


class ExactMatch(MeanOfTexts):
    """Share of texts that equal a reference, whatever the spaces."""

    name = "exact_match"

    def of_pair(self, text: str, reference: str) -> float:
        """See :class:`MeanOfTexts`."""
        return float(text.split() == reference.split())


class SquadExactMatch(MeanOfTexts):
    """Share of texts that equal a reference as SQuAD has it: without case, punctuation and English articles.

    Of a question that has no answer (SQuAD 2.0) the reference is an empty text.
    """

    name = "squad_em"

    def of_pair(self, text: str, reference: str) -> float:
        """See :class:`MeanOfTexts`."""
        return float(_squad_tokens(text) == _squad_tokens(reference))


class TokenF1(MeanOfTexts):
    """Mean F1 of the bags of tokens, as SQuAD has it: without case, punctuation and English articles."""

    name = "token_f1"

    def of_pair(self, text: str, reference: str) -> float:
        """See :class:`MeanOfTexts`."""
        written, expected = Counter(_squad_tokens(text)), Counter(_squad_tokens(reference))
        if not written or not expected:
            return float(written == expected)
        return 2 * (written & expected).total() / (written.total() + expected.total())


class ReferentAccuracy(MeanOfTexts):
    """Share of right referents in T5's form of the Winograd schemas (Raffel et al. 2020, section 2.4 and their code).

    A text names the noun phrase if, without case and determiners, the words of one are among those of the other, and
    both or neither have an apostrophe. A reference that begins with ``≠`` is one that must not be named.
    """

    name = "referent_accuracy"
    DETERMINERS = frozenset(
        "a an few her his each every many much my our some that the their these this those which whose your".split()
    )

    def of_pair(self, text: str, reference: str) -> float:
        """See :class:`MeanOfTexts`."""
        written, expected = self._words(text), self._words(reference.removeprefix(NOT))
        if not written:
            return 0.0
        apart = any("'" in word for word in written) != any("'" in word for word in expected)
        named = not apart and (set(written) <= set(expected) or set(written) >= set(expected))
        return float(named != reference.startswith(NOT))

    def _words(self, text: str) -> list[str]:
        return [word for word in text.strip().lower().split() if word not in self.DETERMINERS]


class EditAccuracy(TextMetric):
    """One minus an error rate: edits from the text to its reference, over the length of the references.

    Below 0 where texts are so long that more must be deleted than the references hold. Of several references the one
    with the fewest edits counts, the shortest of equals. Sums: edits, length of the references.
    """

    range = (float("-inf"), 1.0)

    def __init__(self) -> None:
        self.sums = (f"{self.name}_edits", f"{self.name}_length")

    @abstractmethod
    def items(self, text: str) -> Sequence[Any]:
        """What is counted of a text."""

    def of_pairs(self, texts: Sequence[str], references: Sequence[tuple[str, ...]]) -> np.ndarray:
        """See :class:`TextMetric`."""
        row = np.repeat(np.arange(len(texts)), [len(accepted) for accepted in references])
        expected = [self.items(each) for accepted in references for each in accepted]
        edits = edit_distances([self.items(texts[index]) for index in row.tolist()], expected)
        lengths = np.array([len(each) for each in expected], dtype=np.int64)
        order = np.lexsort((lengths, edits, row))
        first = order[np.unique(row[order], return_index=True)[1]]
        return np.stack([edits[first], lengths[first]], axis=-1).astype(np.float64)

    def value(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        edits, length = sums[..., 0], sums[..., 1]
        return divide(length - edits, length)

    def gradient(self, sums: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        edits, length = sums[..., 0], sums[..., 1]
        return np.stack([-divide(1.0, length), divide(edits, length**2)], axis=-1)

    def worst(self, statistics: np.ndarray) -> np.ndarray:
        """See :class:`TextMetric`: as many edits as the reference is long, or as any stage has made necessary."""
        wrong = statistics[:, -1].copy()
        wrong[:, 0] = np.maximum(statistics[..., 0].max(axis=1), wrong[:, 1])
        return wrong[None]


class CharacterAccuracy(EditAccuracy):
    """One minus the character error rate; that of phonemes, where each is one character."""

    name = "character_accuracy"

    def items(self, text: str) -> Sequence[Any]:
        """The characters, with a single space between words."""
        return " ".join(text.split())


class TokenAccuracy(EditAccuracy):
    """One minus the word error rate; that of phonemes, where spaces stand between them."""

    name = "token_accuracy"

    def items(self, text: str) -> Sequence[Any]:
        """What spaces separate."""
        return text.split()


def _character_ngrams(text: str, orders: int) -> list[Counter[str]]:
    """How often each n-gram of characters but spaces occurs, by order from 1."""
    plain = "".join(text.split())
    return [Counter(plain[i : i + n] for i in range(len(plain) - n + 1)) for n in range(1, orders + 1)]


@lru_cache(maxsize=1 << 15)  # references meet every stage and both metrics
def _squad_tokens(text: str) -> tuple[str, ...]:
    """Words without case, punctuation and English articles.

    >>> _squad_tokens("The U.S. team's")
    ('us', 'teams')
    """
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return tuple(re.sub(r"\b(a|an|the)\b", " ", plain).split())


TEXT_METRICS: tuple[TextMetric, ...] = (
    *(Bleu(), ChrF(), ExactMatch(), TokenF1(), SquadExactMatch()),
    *(CharacterAccuracy(), TokenAccuracy(), ReferentAccuracy()),
)
"""Metrics of free text, the usual first."""
