"""The parts of a multi-exit model between its exits, for backends that compute a whole part at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dial.models.exits import Visit, replaced

Part = Callable[[Mapping[str, Tensor]], Tensor]


class Segment(nn.Module):
    """The layers from one exit to the next as a module of their own, which shares the model's weights.

    It is the stock encoder with the layers before it passed over and those behind it left out, so that masks,
    positions and what else the encoder hands its layers are made as they always are.

    Args:
        model: a :class:`~dial.models.MultiExitForSequenceClassification`.
        first: layers before the segment.
        last: layer that it ends with.
    """

    def __init__(self, model: Any, first: int, last: int) -> None:
        super().__init__()
        self._handed: list[Tensor] = []
        passed = [self._passed(model, layer) for layer in list(model.layers)[:first]]
        chosen = [*passed, *list(model.layers)[first:last]]
        self.encoder = replaced(model.encoder, model.layers_name, nn.ModuleList(chosen))
        table = model.get_input_embeddings()
        if first and getattr(table, "embedding_dim", None) == model.config.hidden_size:
            # What is embedded only says of what shape and type hidden states are: no need to carry the table along.
            name = next(name for name, module in model.encoder.named_modules() if module is table)
            self.encoder = replaced(self.encoder, name, _Handed(self._handed))
        self._accepted = model._accepted
        self._dtype = next(each.dtype for each in model.encoder.parameters() if each.is_floating_point())

    def _passed(self, model: Any, layer: nn.Module) -> nn.Module:
        """A layer that gives what was handed to the segment, in the form in which such layers give their output."""
        plain = ("output",) in model.row_tensors.rows
        clone = copy.copy(layer)  # other code may ask a layer of what kind it is
        clone._modules, clone._parameters = {}, {}

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._handed[-1] if plain else (self._handed[-1],)

        clone.forward = forward
        return clone

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Hidden states ``(B, T, H)`` behind the segment's last layer.

        Args:
            input_ids: ``(B, T)``.
            attention_mask: ``(B, T)``.
            token_type_ids: ``(B, T)``.
            hidden: what the segment before gave, ``(B, T, H)``; None for the first.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        self._handed[:] = [] if hidden is None else [hidden.to(self._dtype)]
        output = self.encoder(**{k: v for k, v in given.items() if v is not None and k in self._accepted})
        states: Tensor = output[0]
        return states


class _Handed(nn.Module):
    """In place of a table of words: gives what was handed to the segment.

    Args:
        handed: holds it.
    """

    def __init__(self, handed: list[Tensor]) -> None:
        super().__init__()
        self.handed = handed

    def forward(self, input_ids: Tensor) -> Tensor:
        """The hidden states, whatever the ids."""
        return self.handed[-1]


def segments(model: Any) -> list[nn.Module]:
    """A segment for each exit, first to last."""
    starts = [0, *model.exits[:-1]]
    return [Segment(model, first, last) for first, last in zip(starts, model.exits, strict=True)]


def visit_in_parts(parts: Sequence[Part], exits: Sequence[int], inputs: Mapping[str, Tensor], visit: Visit) -> None:
    """Compute part after part, show ``visit`` the hidden states at each exit, and drop the rows that leave.

    Args:
        parts: one for each exit; take the encoding's tensors, and the hidden states before them as ``hidden``.
        exits: layers, first to last.
        inputs: tensors ``(B, T)``.
        visit: see :class:`~dial.models.exits.Visits`; for layer 0 it is only shown of what type hidden states are.
    """
    given = dict(inputs)
    visit(0, torch.empty(0))
    for part, layer in zip(parts, exits, strict=True):
        given["hidden"] = part(given)
        keep = visit(layer, given["hidden"])
        if keep is False:
            return
        if keep is not None and not bool(keep.all()):
            rows = keep.nonzero().flatten()
            if not len(rows):
                return
            given = {name: value[rows] for name, value in given.items()}
