"""The best spans of a batch of windows, from the logits of where an answer starts and ends.

A span is worth the sum of its two logits, and spans of all windows of a row compete by that (Devlin et al. 2019,
section 4.2, where the first token stands for "no answer"). How sure a window is of a span is the product of two
softmaxes, over its tokens of the context and the first token: what training makes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.windows import NO_ANSWER, OUTSIDE

SPAN_SCORES = ("softmax", "margin", "energy", "no_answer_gap")
NOWHERE = (-1, -1)
"""Span of "no answer"."""


@dataclass(frozen=True)
class Candidate:
    """One answer to a row.

    Attributes:
        window: position of its window in the batch.
        start: first character in the context; -1 for "no answer".
        end: the one behind the last; -1 for "no answer".
        value: sum of its two logits.
        probability: of both its ends, by its window.
    """

    window: int
    start: int
    end: int
    value: float
    probability: float

    @property
    def span(self) -> tuple[int, int]:
        """First character and the one behind the last."""
        return self.start, self.end


@dataclass(frozen=True, eq=False)
class Spans:
    """What was found in a batch of B rows.

    Attributes:
        candidates: the best answers to each row, best first, each at another place.
        scores: ``(B,)`` float64 by the names of :data:`SPAN_SCORES`, higher = surer.
    """

    candidates: list[list[Candidate]]
    scores: dict[str, np.ndarray]


def masked(logits: Tensor, starts: Tensor) -> Tensor:
    """Logits ``(W, T, 2)`` with minus infinity at tokens that are neither of the context nor the first.

    Args:
        logits: of start and end.
        starts: ``(W, T)`` first character of each token in the context, -1 for other tokens.
    """
    possible = starts != OUTSIDE
    possible[:, NO_ANSWER] = True
    return logits.masked_fill(~possible.unsqueeze(-1), -torch.inf)


def find_spans(
    logits: Tensor,
    starts: Tensor,
    ends: Tensor,
    row: Tensor,
    max_tokens: int,
    no_answer: bool,
    temperature: float = 1.0,
    count: int = 2,
) -> Spans:
    r"""The best answers to each row, and how sure they are.

    With :math:`p` a window's probability of a span, of all tokens that begin where it begins times all that end where
    it ends: ``softmax`` is that of the answer, ``margin`` what it is above that of the next one, ``energy``
    :math:`T \log \sum_i e^{s_i / T} + T \log \sum_j e^{e_j / T}` of the answer's window (E-LANG, Eq. 3, with pairs of a
    start and an end as classes), and ``no_answer_gap`` by how much the best span is worth more than "no answer" in the
    window where that is worth least; where "no answer" may be the answer, its size.

    Args:
        logits: ``(W, T, 2)`` of start and end, finite.
        starts: ``(W, T)`` first character of each token in the context, -1 for other tokens.
        ends: ``(W, T)`` character behind each token.
        row: ``(W,)`` the row of each window, rising from 0 without gaps.
        max_tokens: longest span.
        no_answer: whether "no answer" may be one.
        temperature: divides logits in the scores, and changes no answer.
        count: candidates to give of each row, at least 2.
    """
    logits = logits.detach()
    log_p = torch.log_softmax(masked(logits, starts).double() / temperature, dim=1)
    energy = (torch.logsumexp(masked(logits, starts).double() / temperature, dim=1) * temperature).sum(dim=1)
    values, first, last = _best_of_windows(logits, starts, ends, max_tokens, count)
    window = torch.arange(len(logits), device=logits.device).unsqueeze(1)
    chance = _at_place(log_p[..., 0], starts, first) * _at_place(log_p[..., 1], ends, last)
    nothing = logits[:, NO_ANSWER].double().sum(dim=1)
    no_chance = log_p[:, NO_ANSWER].sum(dim=1).exp()
    # One copy from the device for all that is needed of it: what follows is a handful of numbers for each row.
    columns = torch.stack([values.double(), starts[window, first].double(), ends[window, last].double(), chance])
    table = columns.cpu().numpy()
    single = torch.stack([nothing, no_chance, energy, row.double()]).cpu().numpy()
    return _ranked(table, single, no_answer, count)


def _best_of_windows(
    logits: Tensor, starts: Tensor, ends: Tensor, max_tokens: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, first and last tokens ``(W, K)`` of the best spans of each window; minus infinity where there are fewer.

    Several tokens may be parts of one character, such as bytes, and several spans at one place. So many are given that
    there are ``count`` at different places.

    Args:
        logits: ``(W, T, 2)``.
        starts: ``(W, T)``, see :func:`find_spans`.
        ends: ``(W, T)``, see :func:`find_spans`.
        max_tokens: longest span.
        count: places of each.
    """
    length = logits.shape[1]
    begin, end = (logits[..., side].masked_fill(starts == OUTSIDE, -torch.inf) for side in (0, 1))
    alike = torch.stack([_most_alike(places) for places in (starts, ends)]).prod()
    count = (count - 1) * int(alike) + 1
    lengths = min(max_tokens, length)
    padded = torch.nn.functional.pad(end, (0, lengths - 1), value=-torch.inf)
    sums = begin.unsqueeze(2) + padded.unfold(1, lengths, 1)  # (W, T, D): span of D + 1 tokens from a token on
    best, place = sums.flatten(1).topk(min(count, length * lengths), dim=1)
    first = place // lengths
    return best, first, (first + place % lengths).clamp(max=length - 1)


def _at_place(log_p: Tensor, places: Tensor, tokens: Tensor) -> Tensor:
    """Probability ``(W, K)`` of the places of some tokens: of all tokens of the window that share them.

    Args:
        log_p: ``(W, T)`` of each token.
        places: ``(W, T)`` character of each token, -1 for those outside the context.
        tokens: ``(W, K)``.
    """
    alike = places.gather(1, tokens).unsqueeze(2) == places.unsqueeze(1)  # (W, K, T)
    return log_p.unsqueeze(1).masked_fill(~alike, -torch.inf).logsumexp(dim=2).exp()


def _most_alike(places: Tensor) -> Tensor:
    """How many neighbouring tokens of the context have the same place at most, a scalar.

    Args:
        places: ``(W, T)`` character of each token, -1 for those outside the context.
    """
    position = torch.arange(places.shape[1], device=places.device)
    new = torch.ones_like(places, dtype=torch.bool)
    new[:, 1:] = places[:, 1:] != places[:, :-1]
    run = position + 1 - torch.where(new, position, 0).cummax(dim=1).values
    return run.masked_fill(places == OUTSIDE, 1).max()


def _ranked(table: np.ndarray, single: np.ndarray, no_answer: bool, count: int) -> Spans:
    """Candidates of all windows put in order row by row, spans at one place once.

    Args:
        table: value, start, end and probability of the candidates of each window, ``(4, W, K)``.
        single: value and probability of "no answer", energy, and the row of each window, ``(4, W)``.
        no_answer: see :func:`find_spans`.
        count: see :func:`find_spans`.
    """
    nothing, no_chance, energy, row = single
    rows = int(row[-1]) + 1
    scores = {name: np.zeros(rows) for name in SPAN_SCORES}
    found: list[list[Candidate]] = []
    edges = np.searchsorted(row, np.arange(rows + 1))
    for index, (begin, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        least = begin + int(nothing[begin:end].argmin())
        some = [
            Candidate(window, int(start), int(behind), value, chance)
            for window in range(begin, end)
            for value, start, behind, chance in table[:, window].T.tolist()
            if value > -np.inf
        ]
        best_value = max((each.value for each in some), default=-np.inf)
        if no_answer or not some:
            some.append(Candidate(least, *NOWHERE, float(nothing[least]), float(no_chance[least])))
        some.sort(key=lambda each: -each.value)
        distinct = list({each.span: each for each in reversed(some)}.values())
        distinct.sort(key=lambda each: -each.value)
        answer, others = distinct[0], distinct[1:]
        gap = best_value - nothing[least] if best_value > -np.inf else -np.abs(nothing[least])
        scores["softmax"][index] = answer.probability
        scores["margin"][index] = answer.probability - (others[0].probability if others else 0.0)
        scores["energy"][index] = energy[answer.window]
        scores["no_answer_gap"][index] = abs(gap) if no_answer else gap
        found.append(distinct[:count])
    return Spans(found, scores)
