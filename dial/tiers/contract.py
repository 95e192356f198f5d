"""What a tier owes to a staged model: stages, scores, answers, and how it may be run, counted and described.

Nobody asks for a tier's class. One with several exits, with scores of its own, or that answers only after it was
decided (a decoder) says so in the properties below; the defaults are those of one exit whose outputs decide and answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dial.tiers.batching import Batching, Encoding
from dial.tiers.tokens import Tokeniser

if TYPE_CHECKING:
    from dial.models.encoder_decoder import WritingPath
    from dial.models.segments import Part

# (exit or stage, rows, outputs), and where they are asked for the scores that the tier gives itself, to a bool for each
# row: which are deferred; None: all are, False: none is.
GoOn = Callable[..., Any]
Scores = dict[str, Tensor]


class Written(NamedTuple):
    """What a tier wrote for ``R`` rows.

    Attributes:
        texts: R answers.
        generated: ``(R,)`` steps that the decoder took, which is what each row is charged; 0 where there is none.
        limited: ``(R,)`` bool, whether the answer was cut off by the limit of its length.
        scores: ``(R,)`` float64 by name, where they were asked for: those that only a finished answer tells.
        spans: ``(R, 2)`` first character of each answer in what was read and the one behind it, -1 where it is not
            from there; None of a decoder.
        probability: ``(R,)`` of each answer; None where that is not known.
    """

    texts: list[str]
    generated: Tensor
    limited: Tensor
    scores: Scores
    spans: np.ndarray | None = None
    probability: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Written:
        """What it wrote for some of them.

        Args:
            rows: ``(N,)`` their places.
        """
        places = torch.from_numpy(rows).to(self.generated.device)
        return Written(
            [self.texts[i] for i in rows],
            self.generated[places],
            self.limited[places],
            {name: values[places.to(values.device)] for name, values in self.scores.items()},
            None if self.spans is None else self.spans[rows],
            None if self.probability is None else self.probability[rows],
        )


class Reading(NamedTuple):
    """What a tier reads of ``B`` rows.

    Attributes:
        lengths: ``(B,)`` tokens of each row, all its windows together.
        padded: ``(B,)`` the same with the padding of its batch.
    """

    lengths: Tensor
    padded: Tensor


class TierContract(nn.Module):
    """A model as a part of a :class:`~dial.inference.staged.StagedModel`.

    Attributes:
        name: what the tier is called in tables and figures.
        exits: names of its exits, first to last.
        label_names: the data's names in the order of its integers; empty for regression.
        encoding_key: of the encodings that it reads.
        batching: what it needs of its batches.
        own_label_names: the model's own names in the data's order; None if it has none that mean anything.
        model_scores: names of the scores that it gives itself, where what decides is no function of the outputs.
        drops_rows: whether exited rows are in no later layer.
        regroups: whether several batches may be run at once, so that rows that go on meet in whole batches again.
        answers_later: whether :meth:`answer` computes more than what decided, for the rows that stay.
        source_form: how a text ``{0}`` or pair ``{0}``, ``{1}`` is read; None: as it is.
        writes: whether an answer is a text, which :meth:`write` gives for the rows that stay.
        generates: whether a decoder writes it, so that its cost depends on the answer's length too.
        window: tokens of a window, where a row that is longer is read in several, all full but the last, whose costs
            add up; None where a row is read at once.
        stride: tokens that two neighbouring windows share.
        parts: what computes :meth:`segments` where a backend does; None: torch does.
    """

    name: str
    exits: Sequence[str] = ("final",)
    label_names: Sequence[str]
    encoding_key: Any
    batching: Batching = Batching()
    own_label_names: Any = None
    model_scores: Any = ()
    drops_rows: bool = False
    regroups: Any = False
    answers_later: bool = False
    source_form: str | None = None
    writes: bool = False
    window: int | None = None
    stride: int = 0
    parts: Sequence[Part] | None = None

    @property
    def generates(self) -> bool:
        """See the attributes; most that write do."""
        return self.writes

    @property
    def stage_names(self) -> list[str]:
        """Name of the stage of each exit."""
        return [self.name] if len(self.exits) == 1 else [f"{self.name}.{exit_name}" for exit_name in self.exits]

    @property
    def computed_by(self) -> str:
        """What computes it beside its view, such as ``openvino bfloat16``; ``torch`` where nothing else does."""
        return "torch" if self.parts is None else str(getattr(self.parts[0], "name", "another backend"))

    def tokeniser(self) -> Any:
        """What gives rows their tokens, and puts tokens into a batch."""
        return Tokeniser(self)  # type: ignore[arg-type]

    def rows_in(self, encoding: Encoding) -> int:
        """Number of rows of an encoding, which several windows may share."""
        return len(encoding["input_ids"])

    def reading(self, encoding: Encoding) -> Reading:
        """How many tokens each row of an encoding with an ``attention_mask`` has, without its batch and with it."""
        mask = encoding["attention_mask"]
        lengths = mask.sum(dim=1)
        alone = self.batching.equal_length  # then nothing is padded, whatever the batch holds
        return Reading(lengths, lengths if alone else torch.full_like(lengths, mask.shape[1]))

    def decide(self, encoding: Encoding) -> tuple[Tensor, Scores]:
        """What decides, of all exits of all rows.

        Args:
            encoding: tensors ``(B, T)``.

        Returns:
            Outputs ``(B, E, C)`` in float32, and by name the scores ``(B, E)`` of :attr:`model_scores` in float64.
        """
        return self(encoding), {}

    def run(self, encoding: Encoding, go_on: GoOn, scores: bool = False) -> Any:
        """Compute exit after exit, ask ``go_on(exit, rows, outputs)`` after each, and drop the exited rows.

        Args:
            encoding: tensors ``(B, T)``.
            go_on: gets the exit's index, the rows ``(R,)`` of ``encoding`` that reached it and their outputs
                ``(R, C)``. It is asked after the last exit too.
            scores: give ``go_on`` a fourth argument, by name the scores ``(R,)`` of :attr:`model_scores`.

        Returns:
            What :meth:`answer` needs; None where what decides answers.
        """
        raise NotImplementedError

    def run_together(self, encodings: Sequence[Encoding], go_on: GoOn, scores: bool = False) -> None:
        """What :meth:`run` does for several batches at once; called only where :attr:`regroups` holds.

        Args:
            encodings: tensors ``(B, T)``; all but the last hold equally many rows.
            go_on: see :meth:`run`; rows are counted through all batches.
            scores: see :meth:`run`.
        """
        raise NotImplementedError

    def answer(self, encoding: Encoding, rows: Tensor, outputs: Tensor, state: Any = None) -> Tensor:
        """What answers, for rows that stay; called only where :attr:`answers_later` holds.

        Args:
            encoding: tensors ``(B, T)``, as they were run.
            rows: ``(R,)`` of ``encoding``.
            outputs: ``(R, C)`` that decided, each at its row's exit.
            state: what :meth:`run` gave; None where all rows were decided at once.

        Returns:
            ``(R, C)``.
        """
        return outputs

    def write(self, encoding: Encoding, rows: Tensor, state: Any = None, scores: bool = False) -> Written:
        """What a decoder writes for rows that stay; called only where :attr:`writes` holds.

        Args:
            encoding: tensors ``(B, T)``, as they were run.
            rows: ``(R,)`` of ``encoding``.
            state: what :meth:`run` gave; None where nothing was run.
            scores: whether to compute those of the answers.
        """
        raise NotImplementedError

    def share(self, mesh: Any, dtype: Any = None) -> None:
        """Leave each rank of a mesh its part of the weights; called only where :attr:`writes` holds.

        Args:
            mesh: see :func:`dial.models.sharding.share`.
            dtype: see there.
        """
        raise NotImplementedError

    def take_states(self, state: Any, rows: Tensor) -> Any:
        """What :meth:`run` gave, of rows ``(R,)`` alone; called only where :attr:`generates` holds."""
        raise NotImplementedError

    def width_of(self, state: Any) -> int:
        """Tokens of the widest row of what :meth:`run` gave; called only where :attr:`generates` holds."""
        raise NotImplementedError

    def join_states(self, states: Sequence[Any]) -> Any:
        """What :meth:`run` gave for several batches, as of one; called only where :attr:`generates` holds."""
        raise NotImplementedError

    def segments(self) -> list[nn.Module]:
        """The parts of which a backend may compute each at once, one for each exit; none where that cannot be.

        Each takes the encoding's tensors by name, and those behind the first also what the one before gave, as
        ``hidden`` ``(B, T, H)``.
        """
        return []

    def compute_with(self, parts: Sequence[Part] | None) -> None:
        """Have others compute :meth:`segments`; they take the encoding's tensors in one mapping.

        Args:
            parts: as many as there are segments; None: torch computes them.
        """
        self.parts = parts

    def path(self, exit_index: int) -> nn.Module:
        """A module that computes what is needed for an answer at the exit; takes the encoding's tensors by name.

        Where the tier :attr:`writes`, all but the writing: the encoder, and the head that decides if there is one.
        """
        raise NotImplementedError

    def writing_path(self, pieces: int) -> WritingPath:
        """So many steps of the decoder, for counting them; called only where :attr:`generates` holds."""
        raise NotImplementedError

    def reference_path(self) -> nn.Module | None:
        """What its speed-ups refer to, as :meth:`path`; None: its own last exit."""
        return None

    @property
    def kept_settings(self) -> dict[str, Any]:
        """What its card says of how it reads and answers, for those who load it without saying otherwise."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What identifies it in reports and cards, as plain values."""
        return {}
