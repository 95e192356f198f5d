"""A tier with an exit after each of several layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.inference.tier import Encoding, GoOn, Tier
from lightning_modules.models import MultiExitConfig, MultiExitForSequenceClassification, MultiExitOutput


class MultiExitTier(Tier):
    """A :class:`~lightning_modules.models.MultiExitForSequenceClassification` as a part of a staged model.

    Its exits are called ``layer3`` and so on, its stages ``<tier>.layer3``. Exits compute in float32 outside of
    autocast, as the model itself sees to.

    Args:
        args: those of :class:`Tier`.
        settings: those of :class:`Tier`.
    """

    model: MultiExitForSequenceClassification

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.exits = [f"layer{layer}" for layer in self.model.exits]

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
        inputs = {key: value for key, value in encoding.items() if key in self._accepted}
        output: MultiExitOutput = self.model(**inputs, output_hidden_states=hidden_states)
        assert output.logits is not None
        return MultiExitOutput(logits=self._in_order(output.logits), hidden_states=output.hidden_states)

    def run(self, encoding: Encoding, go_on: GoOn) -> None:
        """Compute layer after layer; rows that leave at an exit are in no later layer.

        Args:
            encoding: tensors ``(B, T)``.
            go_on: as for :meth:`Tier.run`.
        """
        self.model.run(encoding, lambda exit_index, rows, logits: go_on(exit_index, rows, self._in_order(logits)))

    def _in_order(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return logits if self.order == sorted(self.order) else logits[..., self.order]

    def path(self, exit_index: int) -> nn.Module:
        """The layers and exits that a row has been through which leaves at the exit, as a plain module.

        Weights are shared with this tier.
        """
        if exit_index not in range(len(self.exits)):
            raise ValueError(f"`exit_index` must be below {len(self.exits)}, but got {exit_index}.")
        return LastExit(self.model.first_exits(exit_index + 1))

    def reference_path(self) -> nn.Module:
        """The unpruned encoder with one exit, untrained: what speed-ups of a multi-exit model refer to."""
        own = self.model.config
        depth = own.num_hidden_layers
        config = MultiExitConfig(encoder=own.encoder, exits=[depth], pooler=own.pooler, num_labels=own.num_labels)
        with torch.random.fork_rng():
            model = MultiExitForSequenceClassification(config)
        return LastExit(model.to(self.model.device).eval())


class LastExit(nn.Module):
    """A multi-exit model as a plain module from an encoding's tensors to the logits of its last exit."""

    def __init__(self, model: MultiExitForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Logits ``(B, C)`` in the model's own order."""
        logits: Tensor = self.model(input_ids, attention_mask, token_type_ids).logits
        return logits[:, -1]
