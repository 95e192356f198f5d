"""E-LANG's energy heads (section 3.2.1): what a frozen encoder's last hidden states say before any decoder runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from dial.models.autocast import without_autocast
from dial.models.pooling import Reader
from dial.stages.scores import compute

HeadKind = Literal["classes", "vocabulary"]
HeadPooling = Literal["mean", "first"]
Reading = Literal["position", "bag"]
HEAD_SCORES = ("energy", "softmax", "entropy")
"""Scores of a head's logits, which a tier with a head gives itself (E-LANG, Table 2)."""
CHUNK = 2**21  # numbers of vocabulary logits that are in memory at once: what a processor's cache holds


@dataclass(frozen=True)
class HeadConfig:
    """What an energy head is, and what it belongs to.

    Args:
        kind: ``classes`` for one linear layer to the label words (Eq. 7), ``vocabulary`` for logits over the pieces at
            each position (Eq. 8).
        hidden_size: D, width of the encoder's states.
        outputs: C, label words or pieces.
        encoder: fingerprint of the frozen encoder, see :func:`~dial.models.encoder_decoder.encoder_fingerprint`.
        label_words: what the classes are called, in the order of the outputs; empty for a vocabulary.
        vocabulary: fingerprint of the pieces, see :func:`~dial.models.encoder_decoder.vocabulary_fingerprint`; empty
            for classes.
        pooling: what a head of classes reads: the mean over the unpadded positions, or the first one.
        bottleneck: width between states and pieces, which makes a vocabulary head small; None for a full one.
        reading: what a vocabulary head learnt: position m the target's piece m, or each position all of its pieces.

    Raises:
        ValueError: a value is outside its range.
    """

    kind: HeadKind
    hidden_size: int
    outputs: int
    encoder: str = ""
    label_words: tuple[str, ...] = ()
    vocabulary: str = ""
    pooling: HeadPooling = "mean"
    bottleneck: int | None = None
    reading: Reading = "position"

    def __post_init__(self) -> None:
        for name, allowed in (("kind", HeadKind), ("pooling", HeadPooling), ("reading", Reading)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"`{name}` must be one of {', '.join(get_args(allowed))}, but got {getattr(self, name)!r}."
                )
        object.__setattr__(self, "label_words", tuple(self.label_words))  # JSON has lists
        if self.outputs < 2 or self.hidden_size < 1:
            raise ValueError(
                f"an energy head must have a `hidden_size` from 1 and `outputs` from 2 up, but got {self.hidden_size} "
                f"and {self.outputs}; a number has no energy: give the labels as words."
            )
        if self.label_words and len(self.label_words) != self.outputs:
            raise ValueError(f"`outputs` must be the {len(self.label_words)} label words, but got {self.outputs}.")
        if self.bottleneck is not None and (self.bottleneck < 1 or self.kind == "classes"):
            raise ValueError(
                f"`bottleneck` must be a width from 1 up of a head to the vocabulary, or left out, but got "
                f"{self.bottleneck} for {self.kind}."
            )

    def to_json(self) -> dict[str, object]:
        """A value that ``json`` writes, the arguments by name."""
        return asdict(self)


class EnergyHead(nn.Module, ABC):
    """Logits of a frozen encoder's states, and how sure they make it.

    It computes in the precision of its own weights (float32) whatever autocast is on around it, and never in that of a
    bf16 encoder: energies would tie.

    Args:
        config: what the head is.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def logits(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits in float32, ``(B, C)`` of classes or ``(B, T, C)`` of pieces.

        Args:
            states: the encoder's last hidden states ``(B, T, D)``.
            mask: ``(B, T)``, 1 where a position is not padded; None where none is.
        """

    @abstractmethod
    def scores(
        self, states: Tensor, mask: Tensor | None = None, names: tuple[str, ...] = HEAD_SCORES, temperature: float = 1.0
    ) -> dict[str, Tensor]:
        """Scores ``(B,)`` of the logits in float64, by name; higher means surer.

        Args:
            states: ``(B, T, D)``.
            mask: ``(B, T)``, or None.
            names: of :data:`dial.stages.scores.SCORES`.
            temperature: divides the logits.
        """

    def energy(self, states: Tensor, mask: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Negative free energy ``(B,)`` in float64, -F of Eq. 7 or Eq. 8; stay where it reaches the threshold (Eq. 9).

        Args:
            states: ``(B, T, D)``.
            mask: ``(B, T)``, or None.
            temperature: divides the logits.
        """
        return self.scores(states, mask, ("energy",), temperature)["energy"]

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :meth:`logits`."""
        return self.logits(states, mask)


class ClassHead(EnergyHead):
    """One linear layer with C label words over the pooled states (Eq. 7).

    Example:
        >>> head = ClassHead(HeadConfig("classes", hidden_size=4, outputs=3))
        >>> states, mask = torch.randn(2, 5, 4), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
        >>> head.logits(states, mask).shape, head.energy(states, mask).dtype
        (torch.Size([2, 3]), torch.float64)
    """

    KIND: ClassVar[HeadKind] = "classes"

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.output = nn.Linear(config.hidden_size, config.outputs)

    def pool(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the layer reads of states ``(B, T, D)``: ``(B, D)`` in float32, the same at every epoch."""
        return Reader(mask, self.config.pooling)(states.float())

    def of_pooled(self, pooled: Tensor) -> Tensor:
        """Logits ``(B, C)`` of pooled states ``(B, D)``."""
        with without_autocast(pooled.device.type):
            logits: Tensor = self.output(pooled.to(self.output.weight.dtype))
        return logits.float()

    def logits(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits ``(B, C)``; see :meth:`EnergyHead.logits`."""
        with without_autocast(states.device.type):
            return self.of_pooled(self.pool(states, mask))

    def scores(
        self, states: Tensor, mask: Tensor | None = None, names: tuple[str, ...] = HEAD_SCORES, temperature: float = 1.0
    ) -> dict[str, Tensor]:
        """See :meth:`EnergyHead.scores`."""
        return self.scores_of(self.logits(states, mask), names, temperature)

    def scores_of(
        self, logits: Tensor, names: tuple[str, ...] = HEAD_SCORES, temperature: float = 1.0
    ) -> dict[str, Tensor]:
        """Scores ``(B,)`` of logits ``(B, C)`` that are at hand; see :meth:`EnergyHead.scores`."""
        return {name: compute(name, logits, temperature) for name in names}


class VocabularyHead(EnergyHead):
    """Logits over the pieces at each position, their scores averaged over the unpadded ones (Eq. 8).

    The paper has M energies of "the m-th word in the sequence", and no decoder to say how many words there are: here M
    is the number of unpadded positions of the encoder.

    Example:
        >>> head = VocabularyHead(HeadConfig("vocabulary", hidden_size=4, outputs=9, bottleneck=2))
        >>> head.logits(torch.randn(2, 5, 4)).shape, head.energy(torch.randn(2, 5, 4)).shape
        (torch.Size([2, 5, 9]), torch.Size([2]))
    """

    KIND: ClassVar[HeadKind] = "vocabulary"

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        width = config.bottleneck or config.hidden_size
        self.narrow = nn.Linear(config.hidden_size, width, bias=False) if config.bottleneck else nn.Identity()
        self.output = nn.Linear(width, config.outputs)

    def of_positions(self, states: Tensor, mask: Tensor) -> Tensor:
        """Logits ``(P, C)`` of the P unpadded positions alone, row after row.

        Args:
            states: ``(B, T, D)``.
            mask: ``(B, T)``.
        """
        return self.logits(states[mask.bool()])

    def logits(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits ``(B, T, C)``, those of padding meaningless; see :meth:`EnergyHead.logits`."""
        with without_autocast(states.device.type):
            logits: Tensor = self.output(self.narrow(states.to(self.output.weight.dtype)))
        return logits.float()

    def scores(
        self, states: Tensor, mask: Tensor | None = None, names: tuple[str, ...] = HEAD_SCORES, temperature: float = 1.0
    ) -> dict[str, Tensor]:
        """See :meth:`EnergyHead.scores`; padded positions are not computed, and few logits are in memory at once."""
        there = torch.ones(states.shape[:2], device=states.device) if mask is None else mask
        row, position = there.nonzero(as_tuple=True)
        totals = {name: torch.zeros(len(states), dtype=torch.float64, device=states.device) for name in names}
        size = max(1, CHUNK // self.config.outputs)
        for start in range(0, len(row), size):
            rows = row[start : start + size]
            logits = self.logits(states[rows, position[start : start + size]]).detach()
            for name, score in piece_scores(logits, names, temperature).items():
                totals[name].index_add_(0, rows, score)
        count = torch.bincount(row, minlength=len(states)).clamp(min=1)
        return {name: total / count for name, total in totals.items()}


def piece_scores(logits: Tensor, names: tuple[str, ...], temperature: float = 1.0) -> dict[str, Tensor]:
    """What :func:`dial.stages.scores.compute` gives, up to rounding, for many pieces at once.

    Exponentials are taken once, in float32, and added up in float64: a vocabulary has no ties that only float64 breaks.

    Args:
        logits: float32 ``(P, V)``, overwritten.
        names: of :data:`HEAD_SCORES`.
        temperature: divides the logits.

    Returns:
        By name ``(P,)`` float64.
    """
    if temperature != 1:
        logits.div_(temperature)
    largest = logits.amax(dim=1, keepdim=True)
    exponentials = logits.sub_(largest).exp()
    total = exponentials.sum(dim=1, dtype=torch.float64)
    scores = {"energy": temperature * (largest[:, 0].double() + total.log()), "softmax": 1 / total}
    if "entropy" in names:
        scores["entropy"] = logits.mul_(exponentials).sum(dim=1, dtype=torch.float64) / total - total.log()
    return {name: scores[name] for name in names}


def build_head(config: HeadConfig) -> EnergyHead:
    """An untrained head.

    Args:
        config: what it is.
    """
    return ClassHead(config) if config.kind == ClassHead.KIND else VocabularyHead(config)
