"""A tier that answers a question by a span of its context: BERT, RoBERTa, MPNet, DistilBERT, ... with such a head."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from datamodules.windows import STRIDE, WindowTokeniser
from dial.models.lengths import Lengths
from dial.models.spans import NOWHERE, SPAN_SCORES, Candidate, Spans, find_spans
from dial.models.token_dropping import dropping
from dial.tiers.batching import Encoding
from dial.tiers.contract import GoOn, Reading, Written
from dial.tiers.model_inputs import CARRIED
from dial.tiers.tier import Tier, TierPath

MAX_ANSWER_TOKENS = 30
WINDOWS_A_ROW = 1.5  # from which on a training step computes them in parts


class SpanTier(Tier):
    """An encoder with logits of where an answer starts and ends, as a part of a staged model.

    A row is a question with its context, in one window or several, whose costs add up. What decides are scores of its
    spans; what answers is the text of the best one. Logits of tokens leave the tier nowhere.

    Args:
        args: those of :class:`Tier`, with any class of ``AutoModelForQuestionAnswering``.
        settings: those of :class:`Tier`.

    Attributes:
        stride: tokens that two neighbouring windows share.
        max_answer_tokens: of the longest span.
        no_answer: whether "no answer", an empty text, may be one.
    """

    writes = answers_later = True
    generates = False
    stride: int
    max_answer_tokens: int
    no_answer: bool
    model_scores = SPAN_SCORES

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.window = self.max_length
        own = {"stride": min(STRIDE, self.max_length // 3), "max_answer_tokens": MAX_ANSWER_TOKENS, "no_answer": False}
        for name, default in own.items():
            given = getattr(self.view, name)
            setattr(self, name, self.card.get(name, default) if given is None else given)
        if self.view.stride is None and self.tokeniser().room < 1:  # trained with longer windows
            self.stride = own["stride"]

    @property
    def own_label_names(self) -> list[str] | None:
        """None: spans have no names."""
        return None

    @property
    def called(self) -> str:
        """What errors about its windows call it."""
        return f"{self.name} ({self.view.path})"

    @property
    def encoding_key(self) -> str:
        """See :class:`Tier`; windows that overlap otherwise are other encodings."""
        return f"{super().encoding_key}-stride{self.stride}"

    def _digest(self) -> str:
        """See :attr:`Tier.fingerprint`; how windows are cut and which spans may answer count, too."""
        settings = f"{super()._digest()} {self.stride} {self.max_answer_tokens} {self.no_answer}"
        return hashlib.sha256(settings.encode()).hexdigest()[:12]

    @property
    def kept_settings(self) -> dict[str, Any]:
        """See :class:`TierContract`."""
        return {"stride": self.stride, "max_answer_tokens": self.max_answer_tokens, "no_answer": self.no_answer}

    def describe(self) -> dict[str, Any]:
        """See :class:`Tier`; what the view leaves open is said."""
        about = super().describe()
        about["view"] |= {**self.kept_settings, "max_length": self.max_length}
        return about

    # ---- reading ----

    def tokeniser(self) -> WindowTokeniser:
        """See :class:`TierContract`."""
        return WindowTokeniser(self.tokenizer, self.max_length, self.stride, self.called)

    def reading(self, encoding: Encoding) -> Reading:
        """See :class:`TierContract`: tokens of all windows of a row."""
        row, ids = encoding["row"], encoding["input_ids"]
        mask = encoding.get("attention_mask")
        tokens = torch.full_like(row, ids.shape[1]) if mask is None else mask.sum(dim=1)
        rows = self.rows_in(encoding)
        lengths = torch.zeros(rows, dtype=torch.long, device=row.device).index_add_(0, row, tokens)
        padded = torch.bincount(row, minlength=rows) * ids.shape[1]
        return Reading(lengths, padded)

    def rows_in(self, encoding: Encoding) -> int:
        """See :class:`TierContract`."""
        return int(encoding["row"][-1]) + 1

    # ---- deciding and answering ----

    def token_logits(self, encoding: Encoding) -> Tensor:
        """Logits ``(W, T, 2)`` in float32 of where an answer starts and ends, at every token of every window.

        In training, windows of long contexts go through the model in parts of about as many as there are rows, which
        are computed again on the way back: so a step takes no more memory where the longest rows meet.
        """
        inputs = {key: encoding[key] for key in CARRIED if key in encoding and key in self._accepted}
        inputs = self.batching.arranged(inputs)
        windows, rows = len(encoding["row"]), self.rows_in(encoding)
        if not torch.is_grad_enabled() or windows <= WINDOWS_A_ROW * rows:
            return self._window_logits(inputs, self.lengths)
        size = math.ceil(windows / math.ceil(windows / rows))
        parts = [{key: value[i : i + size] for key, value in inputs.items()} for i in range(0, windows, size)]
        recomputed = partial(checkpoint, self._window_logits, use_reentrant=False)
        return torch.cat([recomputed(part, self.lengths) for part in parts])

    def _window_logits(self, inputs: Encoding, lengths: Lengths | None) -> Tensor:
        with dropping(self._dropping, lengths, self.model, inputs, restore=True):
            outputs = self._full_precision_head(self.model, inputs)
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1).float()

    def spans(self, encoding: Encoding, count: int = 2, logits: Tensor | None = None) -> Spans:
        """The best answers to each row and their scores, see :func:`~dial.models.spans.find_spans`.

        Args:
            encoding: windows of B rows.
            count: answers to give of each row.
            logits: of its tokens, where these are known.

        Raises:
            ValueError: a logit is not finite.
        """
        logits = self.token_logits(encoding) if logits is None else logits
        if not torch.isfinite(logits).all():
            raise ValueError(
                f"`{self.name}` must give finite logits, but it does not; check its weights, or load it in float32."
            )
        places = encoding["starts"], encoding["ends"], encoding["row"]
        return find_spans(logits, *places, self.max_answer_tokens, self.no_answer, self.view.temperature, max(2, count))

    def forward(self, encoding: Encoding) -> Tensor:
        """A column of zeros ``(B, 1, 1)``: what decides is no function of logits; see :meth:`decide`."""
        return torch.zeros(self.rows_in(encoding), 1, 1, device=encoding["row"].device)

    def decide(self, encoding: Encoding) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`TierContract`."""
        scores = self._scores(self.spans(encoding), encoding)
        return self(encoding), {name: score.unsqueeze(1) for name, score in scores.items()}

    def run(self, encoding: Encoding, go_on: GoOn, scores: bool = False) -> Spans:
        """See :class:`TierContract`; what it gives are the spans, whose text :meth:`write` reads."""
        found = self.spans(encoding)
        outputs = self(encoding)[:, 0]
        rows = torch.arange(len(outputs), device=outputs.device)
        go_on(0, rows, outputs, self._scores(found, encoding)) if scores else go_on(0, rows, outputs)
        return found

    def _scores(self, found: Spans, encoding: Encoding) -> dict[str, Tensor]:
        device = encoding["row"].device
        if device.type == "mps":  # which knows no float64
            device = torch.device("cpu")
        return {name: torch.from_numpy(values).to(device) for name, values in found.scores.items()}

    def write(self, encoding: Encoding, rows: Tensor, state: Spans | None = None, scores: bool = False) -> Written:
        """See :class:`TierContract`: the text of the best span, with its place and its probability."""
        found = state or self.spans(encoding)
        best = [found.candidates[row][0] for row in rows.tolist()]
        texts, spans = self._texts(best, encoding)
        chances = np.array([each.probability for each in best])
        nothing = torch.zeros(len(best), dtype=torch.long)
        return Written(texts, nothing, nothing.bool(), {}, np.array(spans, np.int64).reshape(-1, 2), chances)

    def n_best(self, encoding: Encoding, count: int) -> list[list[dict[str, Any]]]:
        """Several answers to each row, best first: ``text``, ``span`` of characters, and ``probability``.

        Args:
            encoding: windows of B rows.
            count: answers of a row at most.
        """
        answers = []
        for candidates in self.spans(encoding, count).candidates:
            kept = candidates[:count]
            texts, spans = self._texts(kept, encoding)
            chances = [each.probability for each in kept]
            answers.append(
                [
                    {"text": text, "span": list(span), "probability": chance}
                    for text, span, chance in zip(texts, spans, chances, strict=True)
                ]
            )
        return answers

    def _texts(self, found: Sequence[Candidate], encoding: Encoding) -> tuple[list[str], list[tuple[int, int]]]:
        """Texts of candidates, without spaces around them, and the spans that these are."""
        windows = torch.tensor([each.window for each in found], device=encoding["row"].device)
        characters = encoding["characters"][windows].cpu().numpy()
        origins = encoding["origin"][windows].tolist()
        texts, spans = [], []
        for each, line, origin in zip(found, characters, origins, strict=True):
            if each.span == NOWHERE:
                texts.append("")
                spans.append(NOWHERE)
                continue
            whole = line[each.start - origin : each.end - origin].tobytes().decode("utf-32-le", "surrogatepass")
            begin = each.start + len(whole) - len(whole.lstrip())
            texts.append(whole.strip())
            spans.append((begin, begin + len(texts[-1])))
        return texts, spans

    # ---- costs and proofs ----

    def path(self, exit_index: int) -> nn.Module:
        """See :class:`TierContract`."""
        if exit_index != 0:
            raise ValueError(f"`exit_index` must be 0, but got {exit_index}.")
        return TierPath(self, restore=True, output="start_logits")

    def reference_path(self) -> nn.Module | None:
        """The model with all tokens, where it drops some."""
        return None if self.lengths is None else TierPath(self, whole=True, restore=True, output="start_logits")

    def segments(self) -> list[nn.Module]:
        """None: backends compute what answers by classes or numbers."""
        return []

    def probe(self, inputs: dict[str, Tensor]) -> Tensor:
        """What tells whether a row depends on its batch, ``(B, 2)``: its logits, summed up over the tokens it has."""
        with dropping(self._dropping, self.lengths, self.model, inputs, restore=True):
            outputs = self.model(**inputs)
        both = torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
        mask = inputs.get("attention_mask")
        if mask is not None:
            both = both.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf)
        return torch.logsumexp(both, dim=1)

    def fit_tokenizer(self, texts: Callable[[], Any]) -> None:
        """Nothing: the tokenizer is the pretrained one."""


def window_readers(tiers: Iterable[Any]) -> dict[str, str]:
    """What errors call the tiers that read long rows in windows, by their encoding key, which several may share."""
    readers = [tier for tier in tiers if tier.window is not None]
    keys = dict.fromkeys(tier.encoding_key for tier in readers)
    return {key: " and ".join(tier.called for tier in readers if tier.encoding_key == key) for key in keys}
