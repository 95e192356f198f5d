"""The parts of a multi-exit model between its exits, for backends that compute a whole part at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dial.models.exits import Visit, replaced
from dial.models.pooling import Pooling, Reader

Part = Callable[[Mapping[str, Tensor]], Tensor]
Piece = tuple[dict[str, Tensor], Tensor]  # a batch, and rows of it


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
            # What is embedded only says of what shape and type hidden states are: no need to compute it, nor to carry
            # the table along where that is all there is in its place.
            name = next(name for name, module in model.encoder.named_modules() if module is table)
            parent = name.rpartition(".")[0]
            whole = parent.endswith("embeddings")  # with positions, types and a norm
            self.encoder = replaced(self.encoder, parent if whole else name, _Handed(self._handed))
        self._accepted = model._accepted
        self._dtype = next(each.dtype for each in model.encoder.parameters() if each.is_floating_point())

    def _passed(self, model: Any, layer: nn.Module) -> nn.Module:
        """A layer that gives what was handed to the segment, in the form in which such layers give their output."""
        plain = ("output",) in model.row_tensors.rows
        clone = copy.copy(layer)  # other code may ask a layer of what kind it is
        clone._modules, clone._parameters = {}, {}

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._handed[-1] if plain else (self._handed[-1], None)  # DeBERTa: attention comes second

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
    """In place of what embeds words: gives what was handed to the segment.

    Args:
        handed: holds it.
    """

    def __init__(self, handed: list[Tensor]) -> None:
        super().__init__()
        self.handed = handed

    def forward(self, *ids: Any, **named: Any) -> Tensor:
        """The hidden states, whatever the ids, positions and types."""
        return self.handed[-1]


def segments(model: Any) -> list[nn.Module]:
    """A segment for each exit, first to last."""
    starts = [0, *model.exits[:-1]]
    return [Segment(model, first, last) for first, last in zip(starts, model.exits, strict=True)]


def accepted_of(inputs: Mapping[str, Tensor | None], accepted: Container[str]) -> dict[str, Tensor]:
    """The tensors that there are, of those that a model takes."""
    return {name: value for name, value in inputs.items() if value is not None and name in accepted}


def visit_in_parts(parts: Sequence[Part], exits: Sequence[int], inputs: Mapping[str, Tensor], visit: Visit) -> None:
    """Compute part after part, and show ``visit`` the hidden states at each exit.

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
        visit(layer, given["hidden"])


class Groups:
    """Rows of several batches on their way through a model's parts, those that go on in whole batches again.

    Of a batch that some rows have left a library computes fewer rows at a time, and each new number of them is a new
    shape, for which it prepares its kernels anew: a sixth of all time with OpenVINO. Rows that go on are therefore put
    together across the batches in their order, so that all groups but one are whole. The one that is not holds the
    first rows, the shortest ones where batches are sorted by length.

    Args:
        batches: their tensors ``(B, T)``, padded on the right where their lengths differ; all but the last hold equally
            many rows.
        accepted: names of the tensors that the parts take.
    """

    def __init__(self, batches: Sequence[Mapping[str, Tensor | None]], accepted: Container[str]) -> None:
        self.groups = [accepted_of(batch, accepted) for batch in batches]
        self.size = len(self.groups[0]["input_ids"])

    def __len__(self) -> int:
        return sum(len(group["input_ids"]) for group in self.groups)

    def compute(self, part: Part, pooling: Pooling) -> Tensor:
        """Send all rows through a part; gives what an exit reads behind it, ``(R, H)``, see :class:`Reader`."""
        read = []
        for group in self.groups:
            group["hidden"] = part(group)
            read.append(Reader(group.get("attention_mask"), pooling)(group["hidden"]))
        return read[0] if len(read) == 1 else torch.cat(read)

    def take(self, keep: Tensor) -> None:
        """Go on with some of the rows.

        Args:
            keep: bool ``(R,)``.
        """
        pieces, start = [], 0
        for group in self.groups:
            end = start + len(group["input_ids"])
            pieces.append((group, keep[start:end].nonzero().flatten()))
            start = end
        first = sum(len(rows) for _, rows in pieces) % self.size
        self.groups, waiting, room = [], list[Piece](), first or self.size
        for group, rows in pieces:
            while len(rows):
                waiting.append((group, rows[:room]))
                rows, room = rows[room:], room - len(waiting[-1][1])
                if not room:
                    self.groups.append(_joined(waiting))
                    waiting, room = [], self.size


def _joined(pieces: Sequence[Piece]) -> dict[str, Tensor]:
    """One batch of rows of several, padded on the right with zeros to the widest of them."""
    widths = [group["input_ids"].shape[1] for group, _ in pieces]
    width, count = max(widths), sum(len(rows) for _, rows in pieces)
    names = dict.fromkeys(name for group, _ in pieces for name in group)
    if min(widths) < width:
        names["attention_mask"] = None
    joined: dict[str, Tensor] = {}
    for name in names:
        like = next((group[name] for group, _ in pieces if name in group), pieces[0][0]["input_ids"])
        whole, start = like.new_empty(count, width, *like.shape[2:]), 0
        for (group, rows), own in zip(pieces, widths, strict=True):
            part = whole[start : start + len(rows)]
            if name not in group:
                part[:, :own] = name == "attention_mask"  # nothing is padded there; token types are those of a text
            elif own == width:  # hidden states are large: written once
                torch.index_select(group[name], 0, rows, out=part)
            else:
                part[:, :own] = group[name][rows]
            part[:, own:] = 0
            start += len(rows)
        joined[name] = whole
    return joined
