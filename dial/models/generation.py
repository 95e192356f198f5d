"""Text from the states of an encoder: greedy or beam search in which each row leaves the batch when it is finished.

``generate`` of transformers prepares the search (start token, logits processors, limits, cache) and would give the same
text. It computes finished rows until the last one of the batch is finished, and hands the cross-attention's part of the
cache round at each step of a beam search, although the beams of a row share it. The two searches here do neither; they
are its ``custom_generate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.modeling_outputs import BaseModelOutput

from dial.stages.scores import STEP_SCORES

DROP = 0.125
"""Share of finished rows from which they leave the batch: to copy the cache costs about as much as a step of them."""
UNSURE = 0.1
"""Quantile of the steps' scores that stands for an answer's least sure steps."""
NEVER = -1.0e9
"""Log-probability of what must not be chosen: as transformers has it, so that sums round alike."""


@dataclass(frozen=True)
class Generation:
    """How texts are generated.

    Args:
        beams: width of the search; 1 is greedy.
        max_new_tokens: pieces at most, the end token included.
        length_penalty: exponent of the length that divides a beam's log-probability; default: the model's own.

    Raises:
        ValueError: a number is outside its range.
    """

    beams: int = 1
    max_new_tokens: int = 64
    length_penalty: float | None = None

    def __post_init__(self) -> None:
        for name in ("beams", "max_new_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` must be a whole number from 1 up, but got {value!r}.")


@dataclass
class Generated:
    """What a decoder answered.

    Attributes:
        tokens: ``(B, L)`` int64 pieces behind the start token, the end token included, padded with the pad token.
        lengths: ``(B,)`` int64 pieces of each answer.
        steps: ``(B,)`` int64 steps that each row was computed for: its length, or in a beam search what all its beams
            took; each step costs as many rows as there are beams.
        limited: ``(B,)`` bool, whether the limit ended the answer, and no end token but one that is forced there, as
            BART and Marian do.
        scores: ``(B,)`` float64 by the names of :data:`dial.stages.scores.ANSWER_SCORES`, where they were asked for.
    """

    tokens: Tensor
    lengths: Tensor
    steps: Tensor
    limited: Tensor
    scores: dict[str, Tensor] = field(default_factory=dict)


def generate(
    model: Any,
    states: Tensor,
    mask: Tensor | None,
    how: Generation | None = None,
    scores: bool = False,
    name: str = "model",
) -> Generated:
    """Answers of a batch, from states that its encoder gave.

    Args:
        model: any class of ``AutoModelForSeq2SeqLM``, in eval mode.
        states: last hidden states of the encoder, ``(B, T, D)``.
        mask: ``(B, T)``; None where nothing is padded.
        how: greedy, of at most 64 pieces, if not given.
        scores: whether to compute the scores of the answers; that takes a pass over the vocabulary at each step.
        name: how the user calls the model, for the error message.

    Returns:
        The pieces that ``model.generate`` of transformers gives with the same settings, row by row.

    Raises:
        ValueError: logits that are not finite.
    """
    how = how or Generation()
    settings: dict[str, Any] = {"num_beams": how.beams, "max_new_tokens": how.max_new_tokens, "do_sample": False}
    if how.length_penalty is not None:
        settings["length_penalty"] = how.length_penalty
    search = partial(_beam_search if how.beams > 1 else _greedy_search, scores=scores)
    with torch.no_grad():
        rows: _Rows = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),  # type: ignore[arg-type]
            attention_mask=mask,
            custom_generate=_named(search, name),
            **settings,
        )
    return rows.generated()


def _named(search: Any, name: str) -> Any:
    """A search as transformers calls it; what it looks up in the signature is all there."""

    def decode(model: Any, input_ids: Tensor, logits_processor: Any, generation_config: Any, **given: Any) -> _Rows:
        states, mask = given["encoder_outputs"][0], given.get("attention_mask")
        decoder = _Decoder(model, states, mask, given["past_key_values"], name)
        together = bool(given.get("synced_gpus")) or is_sharded(model)
        rows = _Rows(len(input_ids) // generation_config.num_beams, generation_config, input_ids.shape[1], together)
        search(decoder, rows, input_ids, logits_processor, generation_config)
        return rows

    return decode


def is_sharded(model: Any) -> bool:
    """Whether ranks hold parts of the model's weights, as under ``fully_shard`` or Lightning's model parallelism."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return False
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


def everybody(done: bool, device: torch.device) -> bool:
    """Whether all ranks are done; collective, on the device that the model is on."""
    least = torch.tensor(int(done), device=device)
    torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
    return bool(least)


class _Decoder:
    """The decoder of a batch whose rows become fewer, with its cache."""

    def __init__(self, model: Any, states: Tensor, mask: Tensor | None, cache: Any, name: str) -> None:
        self.model, self.states, self.mask, self.cache, self.name = model, states, mask, cache, name

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits ``(R, V)`` in float32 behind the last tokens ``(R,)``; refuses those of which none is the largest."""
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.states),  # type: ignore[arg-type]
            attention_mask=self.mask,
            decoder_input_ids=tokens[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = output.logits[:, -1]
        if not bool(logits.amax(dim=-1).isfinite().all()):
            raise ValueError(
                f"`{self.name}` must have a decoder whose logits are finite, but they are not. Check its weights and "
                "dtype."
            )
        return logits.float()

    def keep(self, rows: Tensor) -> None:
        """Go on with the rows ``(R,)`` alone."""
        self.states = self.states[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        self.cache.batch_select_indices(rows)

    def continue_from(self, beams: Tensor) -> None:
        """Go on from other beams ``(R,)`` of the same rows, which share what they see of the source."""
        self.cache.self_attention_cache.reorder_cache(beams)


class _Rows:
    """Answers of all rows of a batch, filled in as they are finished."""

    def __init__(self, count: int, config: Any, prompt: int = 1, together: bool = False) -> None:
        self.together = together
        ends = config.eos_token_id
        self.ends: list[int] = list(ends) if isinstance(ends, Sequence) else [] if ends is None else [int(ends)]
        pad = config.pad_token_id
        self.forced_at = None if config.forced_eos_token_id is None else config.max_length - prompt
        self.pad = int(pad) if pad is not None else (self.ends or [0])[0]
        self._answers: list[Any] = [None] * count

    def all_done(self, done: bool, device: torch.device) -> bool:
        """Whether the search is over: where ranks share a model's weights, only once it is over on all of them.

        A rank that is done goes on computing finished rows, as the others need its part of the weights at each step.
        """
        if not self.together:
            return done
        return everybody(done, device)

    def ended(self, tokens: Tensor) -> Tensor:
        """Whether each token is one that ends an answer."""
        found = torch.zeros_like(tokens, dtype=torch.bool)
        for end in self.ends:
            found |= tokens == end
        return found

    def put(self, rows: Tensor, tokens: Tensor, lengths: Tensor, steps: Tensor, step_scores: Tensor | None) -> None:
        """Answers of rows ``(R,)``: tokens ``(R, L)``, lengths and steps ``(R,)``, scores of steps ``(R, L, 4)``."""
        for i, (row, length, taken) in enumerate(zip(rows.tolist(), lengths.tolist(), steps.tolist(), strict=True)):
            self._answers[row] = (tokens[i, :length], taken, None if step_scores is None else step_scores[i, :length])

    def generated(self) -> Generated:
        """All answers."""
        pieces = [tokens for tokens, _, _ in self._answers]
        device = pieces[0].device
        last = torch.stack([tokens[-1] for tokens in pieces])
        lengths = torch.tensor([len(tokens) for tokens in pieces], device=device)
        step_scores = [each for _, _, each in self._answers]
        return Generated(
            tokens=torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=self.pad),
            lengths=lengths,
            steps=torch.tensor([steps for _, steps, _ in self._answers], device=device),
            limited=~self.ended(last) | (lengths == (self.forced_at or 0)),
            scores={} if step_scores[0] is None else _summed_up(step_scores),
        )


def _summed_up(step_scores: list[Tensor]) -> dict[str, Tensor]:
    """Scores of answers ``(B,)`` from those of their steps, for each ``(L, 4)``."""
    means = torch.stack([each.double().mean(dim=0) for each in step_scores])
    lows = torch.stack([each.double().quantile(UNSURE, dim=0) for each in step_scores])
    scores = {"answer_log_probability": means[:, 0]}
    for column, name in enumerate(STEP_SCORES, start=1):
        scores |= {f"decoder_{name}": means[:, column], f"decoder_{name}_low": lows[:, column]}
    return scores


def _score_step(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of a step ``(R, V)``; its energy, largest probability and negative entropy ``(R, 3)``.

    All in float64: in float32 the answers that are surest tie, at 0 and 1.
    """
    logits = logits.double()
    energy = logits.logsumexp(dim=-1, keepdim=True)
    log_p = logits - energy
    largest, negative_entropy = log_p.amax(dim=-1, keepdim=True).exp(), (log_p.exp() * log_p).nansum(-1, keepdim=True)
    return log_p, torch.cat([energy, largest, negative_entropy], dim=1)


def _greedy_search(
    decoder: _Decoder, rows: _Rows, start: Tensor, processors: Any, config: Any, scores: bool = False
) -> None:
    """The likeliest piece at each step, from the start ``(B, P)``."""
    prompt, limit = start.shape[1], config.max_length - start.shape[1]
    tokens, active = start, torch.arange(len(start), device=start.device)
    open_ = torch.ones_like(active, dtype=torch.bool)
    lengths = torch.full_like(active, limit)
    step_scores: list[Tensor] = []
    for length in range(1, limit + 1):
        logits = decoder(tokens[:, -1]) if length > 1 or prompt == 1 else _prefill(decoder, start)
        chosen = processors(tokens, logits).argmax(dim=-1)
        if scores:
            log_p, each = _score_step(logits)
            step_scores.append(torch.cat([log_p.gather(1, chosen[:, None]), each], dim=1))
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        ended = open_ & rows.ended(chosen)
        lengths[ended] = length
        open_ = open_ & ~ended
        finished = len(open_) - int(open_.sum())
        if length == limit or rows.all_done(finished == len(open_), start.device):
            break
        if DROP * len(open_) <= finished < len(open_):
            _leave(rows, active, ~open_, tokens[:, prompt:], lengths, step_scores)
            decoder.keep(stay := open_.nonzero()[:, 0])
            step_scores = [each[stay] for each in step_scores]
            tokens, active, open_, lengths = tokens[stay], active[stay], open_[stay], lengths[stay]
    _leave(rows, active, torch.ones_like(open_), tokens[:, prompt:], lengths, step_scores)


def _prefill(decoder: _Decoder, start: Tensor) -> Tensor:
    """Logits ``(R, V)`` behind a start of several tokens ``(R, P)``, as of models that are told the language."""
    for column in start.unbind(1):
        logits = decoder(column)
    return logits


def _leave(
    rows: _Rows, active: Tensor, which: Tensor, tokens: Tensor, lengths: Tensor, step_scores: list[Tensor]
) -> None:
    each = torch.stack(step_scores, dim=1)[which] if step_scores else None
    rows.put(active[which], tokens[which], lengths[which], lengths[which], each)


@dataclass
class _Beams:
    """Beams of ``R`` rows, ``K`` each, at one step of the search.

    Attributes:
        tokens: ``(R, K, L)`` with the start.
        scores: ``(R, K)`` log-probabilities, of finished answers divided by their length.
        step_scores: ``(R, K, L', 4)`` scores of steps; ``(R, K, L', 0)`` where they are not asked for.
        done: ``(R, K)`` whether the place holds a finished answer.
        lengths: ``(R, K)`` pieces of finished answers.
    """

    tokens: Tensor
    scores: Tensor
    step_scores: Tensor
    done: Tensor
    lengths: Tensor

    def take(self, places: Tensor) -> _Beams:
        """Other beams ``(R, K')`` of each row."""
        rows = torch.arange(len(places), device=places.device)[:, None]
        return _Beams(*(values[rows, places] for values in self.columns()))

    def of_rows(self, rows: Tensor) -> _Beams:
        """Beams of some rows ``(R',)``."""
        return _Beams(*(values[rows] for values in self.columns()))

    def longer(self, length: int) -> _Beams:
        """With room for as many tokens."""
        more = length - self.tokens.shape[2]
        tokens, step_scores = pad(self.tokens, (0, more)), pad(self.step_scores, (0, 0, 0, more))
        return _Beams(tokens, self.scores, step_scores, self.done, self.lengths)

    def beside(self, other: _Beams) -> _Beams:
        """These and others of the same rows."""
        return _Beams(*(torch.cat(both, dim=1) for both in zip(self.columns(), other.columns(), strict=True)))

    def columns(self) -> tuple[Tensor, ...]:
        """The attributes in their order."""
        return self.tokens, self.scores, self.step_scores, self.done, self.lengths


def _beam_search(
    decoder: _Decoder, rows: _Rows, start: Tensor, processors: Any, config: Any, scores: bool = False
) -> None:
    """The likeliest answers of ``config.num_beams`` beams, from the start ``(B * K, P)``."""
    beams, prompt, limit = config.num_beams, start.shape[1], config.max_length - start.shape[1]
    count = len(start) // beams
    kept = max(2, 1 + len(rows.ends)) * beams  # as many may end, and there must be beams to go on with
    running = _start(start.view(count, beams, prompt), scores)
    finished = running.longer(prompt)
    finished.scores = torch.full_like(running.scores, NEVER)
    active = torch.arange(count, device=start.device)
    open_ = torch.ones(count, 1, dtype=torch.bool, device=start.device)
    steps = torch.full_like(active, limit)
    for length in range(1, limit + 1):
        tokens = running.tokens.flatten(0, 1)
        logits = decoder(tokens[:, -1]) if length > 1 or prompt == 1 else _prefill(decoder, start)
        candidates, parents = _candidates(running, logits, processors(tokens, logits.log_softmax(dim=-1)), kept)
        candidates.done = rows.ended(candidates.tokens[..., -1]) | (length == limit)
        candidates.lengths = torch.full_like(candidates.lengths, length)
        finished = _with_finished(finished.longer(prompt + length), candidates, open_, config)
        running, order = _going_on(candidates, beams)
        was_open, open_ = open_, open_ & _improvable(running, finished, length, limit, config)
        if config.early_stopping is True:
            open_ = open_ & ~finished.done.all(dim=1, keepdim=True)
        steps[(was_open & ~open_)[:, 0]] = length
        closed = len(open_) - int(open_.sum())
        if length == limit or rows.all_done(closed == len(open_), start.device):
            break
        offset = torch.arange(len(active), device=start.device)[:, None] * beams
        decoder.continue_from((parents.gather(1, order) + offset).flatten())
        if DROP * len(open_) <= closed < len(open_):
            stay = open_[:, 0].nonzero()[:, 0]
            _finish(rows, active, (~open_[:, 0]).nonzero()[:, 0], finished, prompt, steps)
            decoder.keep((offset + torch.arange(beams, device=start.device))[stay].flatten())
            running, finished, active, open_ = running.of_rows(stay), finished.of_rows(stay), active[stay], open_[stay]
            steps = steps[stay]
    _finish(rows, active, torch.arange(len(active), device=start.device), finished, prompt, steps)


def _start(tokens: Tensor, scores: bool) -> _Beams:
    """Beams before the first step: all alike, so that only the first counts."""
    count, beams, _ = tokens.shape
    first = torch.full((count, beams), NEVER, device=tokens.device)
    first[:, 0] = 0.0
    step_scores = first.new_zeros(count, beams, 0, 1 + len(STEP_SCORES) if scores else 0, dtype=torch.float64)
    return _Beams(
        tokens, first, step_scores, torch.zeros_like(first, dtype=torch.bool), torch.zeros_like(tokens[..., 0])
    )


def _candidates(running: _Beams, logits: Tensor, log_p: Tensor, kept: int) -> tuple[_Beams, Tensor]:
    """The likeliest continuations of all beams of each row ``(R, K')``, best first, and the beam of each."""
    count, beams = running.scores.shape
    total = (log_p.view(count, beams, -1) + running.scores[..., None]).flatten(1)
    best, index = total.topk(kept, dim=1)
    parents, chosen = index // log_p.shape[1], index % log_p.shape[1]
    candidates = running.take(parents)
    candidates.tokens = torch.cat([candidates.tokens, chosen[..., None]], dim=2)
    candidates.scores = best
    step = candidates.step_scores.new_zeros(*chosen.shape, 0)
    if candidates.step_scores.shape[-1]:
        own, each = _score_step(logits)
        at = torch.arange(count, device=parents.device)[:, None], parents
        step = torch.cat([own.view(count, beams, -1)[(*at, chosen)][..., None], each.view(count, beams, -1)[at]], dim=2)
    candidates.step_scores = torch.cat([candidates.step_scores, step[:, :, None]], dim=2)
    return candidates, parents


def _with_finished(finished: _Beams, candidates: _Beams, open_: Tensor, config: Any) -> _Beams:
    """The best finished answers of each row, after a step; only its best candidates count, and only of open rows."""
    beams = config.num_beams
    first = candidates.take(torch.arange(beams, device=open_.device).expand(len(open_), beams))
    length = int(first.lengths[0, 0])
    shut = ~first.done | ~open_
    first.scores = first.scores / length**config.length_penalty + shut * NEVER
    both = finished.beside(first)
    return both.take(both.scores.topk(beams, dim=1)[1])


def _going_on(candidates: _Beams, beams: int) -> tuple[_Beams, Tensor]:
    """The best candidates that have not ended, and their places."""
    scores, order = (candidates.scores + candidates.done * NEVER).topk(beams, dim=1)
    running = candidates.take(order)
    running.scores = scores
    return running, order


def _improvable(running: _Beams, finished: _Beams, length: int, limit: int, config: Any) -> Tensor:
    """Whether a beam that goes on may still become better than a finished answer, ``(R, 1)``."""
    longest = limit if config.early_stopping == "never" and config.length_penalty > 0 else length
    best = running.scores[:, :1] / longest**config.length_penalty
    worst = torch.where(finished.done, finished.scores.amin(dim=1, keepdim=True), NEVER)
    return (best > worst).any(dim=1, keepdim=True)


def _finish(rows: _Rows, active: Tensor, which: Tensor, finished: _Beams, prompt: int, steps: Tensor) -> None:
    """The best answers of some rows ``(R,)`` are theirs."""
    best = finished.of_rows(which)
    step_scores = best.step_scores[:, 0] if best.step_scores.shape[-1] else None
    rows.put(active[which], best.tokens[:, 0, prompt:], best.lengths[:, 0], steps[which], step_scores)
