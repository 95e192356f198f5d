"""A tier that answers by a text: an encoder, which may have an energy head that decides, and a decoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dial.models.encoder_decoder import ReadingPath, WritingPath, encoder_of, encoder_states
from dial.models.energy_head import HEAD_SCORES, ClassHead, EnergyHead
from dial.models.generation import Generation, generate
from dial.models.pieces import build_piece_tokenizer
from dial.models.saved_head import save_head
from dial.models.sharding import share
from dial.tiers.batching import Encoding
from dial.tiers.contract import GoOn, Written
from dial.tiers.tier import Tier

CALLED = ("decide", "run", "write", "forced")  # what computes layers, beside `forward`
MAX_NEW_TOKENS = 64  # pieces of an answer, where neither the view nor the model says


@dataclass
class Read:
    """What an encoder made of a batch.

    Attributes:
        states: last hidden states ``(B, T, D)``.
        mask: ``(B, T)``; None where nothing is padded.
    """

    states: Tensor
    mask: Tensor | None

    def take(self, rows: Tensor) -> Read:
        """States and mask of some rows ``(R,)``, without columns that are padding in all of them."""
        states = self.states[rows]
        if self.mask is None:
            return Read(states, None)
        mask = self.mask[rows]
        used = mask.any(dim=0)
        return Read(states, mask) if bool(used.all()) else Read(states[:, used], mask[:, used])

    @classmethod
    def join(cls, parts: Sequence[Read]) -> Read:
        """States and masks of several batches one below the other, padded on the right to the widest."""
        if len(parts) == 1:
            return parts[0]
        widest = max(part.states.shape[1] for part in parts)
        if all(part.mask is None and part.states.shape[1] == widest for part in parts):
            return cls(torch.cat([part.states for part in parts]), None)
        states, masks = [], []
        for part in parts:
            mask = part.mask
            if mask is None:
                mask = torch.ones(part.states.shape[:2], dtype=torch.long, device=part.states.device)
            more = widest - mask.shape[1]
            states.append(pad(part.states, (0, 0, 0, more)))
            masks.append(pad(mask, (0, more)))
        return cls(torch.cat(states), torch.cat(masks))


class TextToTextTier(Tier):
    """An encoder-decoder as a part of a staged model: its encoder decides, its decoder writes for the rows that stay.

    Answers are label words, which are classes (an answer that is no label word is wrong), numbers, or free text.

    Args:
        args: those of :class:`Tier`; the tokenizer may be missing until :meth:`fit_tokenizer` builds it.
        head: energy head on the encoder's states; None for a tier that cannot decide, such as a Super.
        pieces: kind of tokenizer to build: ``pieces`` or ``characters``.
        settings: those of :class:`Tier`.

    Attributes:
        apart: whether :meth:`save` writes the head alone, for a folder that a tier names as its ``head``.
    """

    writes = answers_later = True
    apart = False

    def __init__(self, *args: Any, head: EnergyHead | None = None, pieces: str = "pieces", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.head, self.pieces = head, pieces
        self.exits = ["final"]
        own = self.model.generation_config
        limit = self.view.max_new_tokens or own.max_new_tokens or (own.max_length or MAX_NEW_TOKENS + 1) - 1
        self.limit_to(limit)

    def limit_to(self, pieces: int) -> None:
        """Write at most so many pieces."""
        self.generation = Generation(beams=self.view.beams or 1, max_new_tokens=pieces)
        # What is saved with the model; a limit of the other kind would have `generate` warn at each call.
        own = self.model.generation_config
        own.max_new_tokens, own.max_length = pieces, None

    @property
    def model_scores(self) -> tuple[str, ...]:
        """Those of the energy head."""
        return () if self.head is None else HEAD_SCORES

    @property
    def own_label_names(self) -> list[str] | None:
        """Those that it was trained to write."""
        return self.card.get("label_names") or None

    def _digest(self) -> str:
        """See :attr:`Tier.fingerprint`; the head and how texts are generated count, too."""
        digest = hashlib.sha256(f"{super()._digest()} {self.generation}".encode())
        for name, value in sorted(self.head.state_dict().items() if self.head is not None else ()):
            digest.update(name.encode() + value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]

    def save(self, folder: Path) -> None:
        """See :class:`Tier`; with the head, or the head alone."""
        if not self.apart:
            super().save(folder)
        if self.head is not None:
            save_head(self.head, folder)

    def segments(self) -> list[nn.Module]:
        """None: backends compute what answers by classes or numbers."""
        return []

    # ---- reading and deciding ----

    def read(self, encoding: Encoding) -> Read:
        """The encoder's states of a batch ``(B, T)``."""
        encoding = self.batching.arranged(encoding)
        mask = encoding.get("attention_mask")
        return Read(encoder_states(encoder_of(self.model), encoding["input_ids"], mask), mask)

    def decided(self, read: Read) -> tuple[Tensor, dict[str, Tensor]]:
        """What decides: logits ``(B, C)`` of a head of classes, else a column of zeros; and its scores ``(B,)``."""
        temperature = self.view.temperature
        if isinstance(self.head, ClassHead):
            logits = self.head.logits(read.states, read.mask)
            return logits, self.head.scores_of(logits, temperature=temperature)
        nothing = read.states.new_zeros(len(read.states), 1, dtype=torch.float32)
        return nothing, {} if self.head is None else self.head.scores(read.states, read.mask, temperature=temperature)

    def forward(self, encoding: Encoding) -> Tensor:
        """What decides, ``(B, 1, C)``; see :meth:`decided`."""
        return self.decided(self.read(encoding))[0].unsqueeze(1)

    def decide(self, encoding: Encoding) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`TierContract`."""
        outputs, scores = self.decided(self.read(encoding))
        return outputs.unsqueeze(1), {name: score.unsqueeze(1) for name, score in scores.items()}

    def run(self, encoding: Encoding, go_on: GoOn, scores: bool = False) -> Read:
        """See :class:`TierContract`; what it gives are the encoder's states, which :meth:`write` goes on from."""
        read = self.read(encoding)
        outputs, own = self.decided(read)
        rows = torch.arange(len(outputs), device=outputs.device)
        go_on(0, rows, outputs, own) if scores else go_on(0, rows, outputs)
        return read

    # ---- writing ----

    def write(self, encoding: Encoding, rows: Tensor, state: Read | None = None, scores: bool = False) -> Written:
        """See :class:`TierContract`."""
        read = (state or self.read(encoding)).take(rows)
        generated = generate(self.model, read.states, read.mask, self.generation, scores, self.name)
        texts = self.tokenizer.batch_decode(generated.tokens, skip_special_tokens=True)
        return Written(texts, generated.steps, generated.limited, generated.scores)

    def take_states(self, state: Read, rows: Tensor) -> Read:
        """See :class:`TierContract`."""
        return state.take(rows.to(state.states.device))

    def width_of(self, state: Read) -> int:
        """See :class:`TierContract`."""
        return state.states.shape[1]

    def join_states(self, states: Sequence[Read]) -> Read:
        """See :class:`TierContract`."""
        return Read.join(states)

    def forced(self, encoding: Encoding, labels: Tensor) -> Tensor:
        """Logits ``(B, T, V)`` in float32 behind the pieces of targets, each read whatever the model would write.

        Args:
            encoding: tensors ``(B, S)`` of the sources.
            labels: ``(B, T)`` pieces, -100 behind the end.
        """
        inputs = {k: v for k, v in self.batching.arranged(encoding).items() if k in self._accepted}
        before = self.model.prepare_decoder_input_ids_from_labels(labels=labels)
        logits: Tensor = self.model(**inputs, decoder_input_ids=before, use_cache=False).logits
        return logits.float()

    def share(self, mesh: Any, dtype: torch.dtype | None = None) -> None:
        """Leave each rank its part of the weights; a head, which is small and computes in float32, stays whole.

        Args:
            mesh: see :func:`~dial.models.sharding.share`.
            dtype: see there.
        """
        share(self, mesh, CALLED, dtype, apart=self.head.parameters() if self.head is not None else ())

    # ---- costs ----

    def path(self, exit_index: int) -> nn.Module:
        """See :class:`TierContract`."""
        return ReadingPath(self.model, self.head)

    def writing_path(self, pieces: int) -> WritingPath:
        """See :class:`TierContract`."""
        return WritingPath(self.model, pieces, self.generation.beams)

    # ---- the tokenizer ----

    def fit_tokenizer(self, texts: Callable[[], Iterable[Any]]) -> None:
        """Build the tokenizer from the training text; does nothing for a tier that has one.

        Args:
            texts: gives an iterable of strings, or of pairs of strings: sources and targets.
        """
        if self.tokenizer is None:
            kind: Any = self.pieces
            self.tokenizer = build_piece_tokenizer(texts(), kind, self.model.config.vocab_size, self.max_length)
            self._encoding_key = None

    def probe(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits ``(B, V)`` of the first piece that would be written, by which it is proved how rows may be batched."""
        start = torch.full_like(inputs["input_ids"][:, :1], int(self.model.config.decoder_start_token_id))
        logits: Tensor = self.model(**inputs, decoder_input_ids=start, use_cache=False).logits[:, -1]
        return logits
