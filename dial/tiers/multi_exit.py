"""A tier with an exit after each of several layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dial.models import MultiExitConfig, MultiExitForSequenceClassification, MultiExitOutput
from dial.models.exit_proof import prove_exits
from dial.models.exits import UnsuitableEncoderError
from dial.models.lengths import Lengths
from dial.models.segments import Part, segments
from dial.models.token_dropping import NONE_DROPPED
from dial.tiers.batching import Encoding
from dial.tiers.contract import GoOn
from dial.tiers.tier import Tier


class MultiExitTier(Tier):
    """A :class:`~dial.models.MultiExitForSequenceClassification` as a part of a staged model.

    Its exits are called ``layer3`` and so on, its stages ``<tier>.layer3``. Exits compute in float32 outside of
    autocast, as the model itself sees to.

    Args:
        args: those of :class:`Tier`.
        settings: those of :class:`Tier`.
    """

    model: MultiExitForSequenceClassification
    drops_rows = True

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.tokenizer is not None:
            self.tokenizer.padding_side = "right"  # there no position shifts; exits know the last token by the mask
        self.exits = [f"layer{layer}" for layer in self.model.exits]

    @property
    def model_scores(self) -> tuple[str, ...]:
        """``learned`` for a model that learnt to exit (BERxiT), whose certainty is a score of its own."""
        return () if self.model.certainty is None else ("learned",)

    def forward(self, encoding: Encoding) -> Tensor:
        """Logits of all exits, ``(B, E, C)`` in float32 and in the data's order of labels; regression has ``C = 1``."""
        logits = self.outputs(encoding).logits
        assert logits is not None
        return logits

    def outputs(self, encoding: Encoding, hidden_states: bool = False) -> MultiExitOutput:
        """What :meth:`forward` gives, with the hidden states ``H_0 ... H_L``, each ``(B, T, H)``, if asked for.

        Args:
            encoding: tensors ``(B, T)``.
            hidden_states: whether to keep them.
        """
        inputs = {key: value for key, value in self.batching.arranged(encoding).items() if key in self._accepted}
        output: MultiExitOutput = self.model(**inputs, output_hidden_states=hidden_states, lengths=self.lengths)
        assert output.logits is not None
        return MultiExitOutput(
            logits=self._in_order(output.logits), hidden_states=output.hidden_states, certainty=output.certainty
        )

    def decide(self, encoding: Encoding) -> tuple[Tensor, dict[str, Tensor]]:
        """What :meth:`forward` gives, and the scores ``(B, E)`` of :attr:`model_scores` in float64."""
        output = self.outputs(encoding)
        assert output.logits is not None
        return output.logits, {name: _score(output.certainty) for name in self.model_scores}

    def run(self, encoding: Encoding, go_on: GoOn, scores: bool = False) -> Any:
        """Compute layer after layer; rows that leave at an exit are in no later layer.

        Args:
            encoding: tensors ``(B, T)``.
            go_on: see :class:`~dial.tiers.contract.TierContract`.
            scores: give ``go_on`` a fourth argument, the scores ``(R,)`` of :attr:`model_scores` by name.
        """
        encoding = self.batching.arranged(encoding)
        self.model.run(encoding, self._asking(go_on, scores), certainty=scores, lengths=self.lengths)

    @property
    def regroups(self) -> bool:
        """See :class:`~dial.tiers.contract.TierContract`."""
        return self.parts is not None and not self.batching.equal_length and self.batching.end_id is None

    def run_together(self, encodings: Sequence[Encoding], go_on: GoOn, scores: bool = False) -> None:
        """See :class:`~dial.tiers.contract.TierContract`."""
        arranged = [self.batching.arranged(encoding) for encoding in encodings]
        self.model.run_together(arranged, self._asking(go_on, scores), certainty=scores)

    def _asking(self, go_on: GoOn, scores: bool) -> GoOn:
        """What the model asks, with outputs in the data's order of labels."""
        in_order = self.order == sorted(self.order)

        def ask(exit_index: int, rows: Tensor, logits: Tensor, *certainty: Tensor) -> Any:
            if not in_order or logits.dtype is not torch.float32:
                logits = self._in_order(logits)
            if not scores:
                return go_on(exit_index, rows, logits)
            return go_on(exit_index, rows, logits, {"learned": _score(certainty[0])} if certainty else {})

        return ask

    def _in_order(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return logits if self.order == sorted(self.order) else logits[..., self.order]

    def segments(self) -> list[nn.Module]:
        """See :class:`~dial.tiers.contract.TierContract`."""
        return segments(self.model) if self.lengths is None else []

    def compute_with(self, parts: Sequence[Part] | None) -> None:
        """See :class:`~dial.tiers.contract.TierContract`."""
        self.parts = self.model.parts = parts

    def path(self, exit_index: int) -> nn.Module:
        """The layers and exits that a row has been through which leaves at the exit, as a plain module.

        Weights are shared with this tier.
        """
        if exit_index not in range(len(self.exits)):
            raise ValueError(f"`exit_index` must be below {len(self.exits)}, but got {exit_index}.")
        return LastExit(self.model.first_exits(exit_index + 1), self.lengths)

    def probe(self, inputs: dict[str, Tensor]) -> Tensor:
        """See :class:`Tier`."""
        logits: Tensor = self.model(**inputs, lengths=self.lengths).logits
        return logits

    def drop_tokens(self, lengths: Lengths | None, argument: str = "path", remedy: str = NONE_DROPPED) -> None:
        """See :class:`Tier`; exits then read the tokens that are left.

        Raises:
            ValueError: as for a tier with one exit, or exits read the last token.
        """
        if lengths is not None and self.model.config.pooling == "last":
            raise ValueError(
                f"`{argument}` must have exits that read the first token or the mean for tokens to be dropped, but "
                f"those of {self.view.path} read the last; {remedy}."
            )
        super().drop_tokens(lengths, argument, remedy)

    def describe(self) -> dict[str, Any]:
        """What a tier says of itself, and the sizes of the encoder unpruned."""
        with torch.device("meta"):
            reference = self._reference()
        own, whole = _sizes(self.model), _sizes(reference)
        unpruned = {"parameters": whole[0], "without_embeddings": whole[1]}
        return {"without_embeddings": own[1], "unpruned": unpruned} | super().describe()

    def reference_path(self) -> nn.Module | None:
        """The unpruned encoder with one exit, untrained: what speed-ups of a multi-exit model refer to."""
        with torch.random.fork_rng():
            model = self._reference()
        return LastExit(model.to(self.model.device).eval())

    def _reference(self) -> MultiExitForSequenceClassification:
        own = self.model.config
        depth = own.num_hidden_layers
        config = MultiExitConfig(
            encoder=own.encoder, exits=[depth], pooler=own.pooler, pooling=own.pooling, num_labels=own.num_labels
        )
        return MultiExitForSequenceClassification(config)


def check_exits_hold(model: Any, argument: str) -> None:
    """Prove what a multi-exit model's exits rest on, before it is cast; other models have nothing to prove.

    Args:
        model: with float32 weights.
        argument: how the user calls it.

    Raises:
        ValueError: the encoder cannot have exits, or not these; names ``argument``.
    """
    if isinstance(model, MultiExitForSequenceClassification):
        try:
            prove_exits(model)
        except UnsuitableEncoderError as error:
            raise ValueError(f"`{argument}`: {error}") from error


def _sizes(model: MultiExitForSequenceClassification) -> tuple[int, int]:
    """Parameters: all, and those outside the table of word embeddings."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - sum(parameter.numel() for parameter in model.get_input_embeddings().parameters())


def _score(certainty: Tensor | None) -> Tensor:
    """Certainty in (0, 1); in float64, where the surest rows still differ."""
    assert certainty is not None
    return torch.sigmoid(certainty.double())


class LastExit(nn.Module):
    """A multi-exit model as a plain module from an encoding's tensors to the logits of its last exit.

    A model with ``certainty`` gives the last exit's beside them, so that it is counted.

    Args:
        model: up to that exit.
        lengths: tokens that its layers keep, and maybe others behind them; None: all.
    """

    def __init__(self, model: MultiExitForSequenceClassification, lengths: Lengths | None = None) -> None:
        super().__init__()
        self.model = model
        self.lengths = None if lengths is None else Lengths(lengths.values[: model.exits[-1]])

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits ``(B, C)`` in the model's own order; and where there is one the certainty of all exits ``(B, E)``."""
        if self.lengths is not None:  # the rows of an example have no padding, which a trace could not see
            attention_mask = None
        output = self.model(input_ids, attention_mask, token_type_ids, lengths=self.lengths)
        logits: Tensor = output.logits[:, -1]
        return logits if output.certainty is None else (logits, output.certainty)
