"""The parts of a multi-exit model between its exits, for backends that compute a whole part at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dial.models.exits import Visit, replaced
from dial.models.pooling import Pooling, Reader

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
    """

    def __init__(self, batches: Sequence[Mapping[str, Tensor]]) -> None:
        self.groups = [dict(batch) for batch in batches]
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
        sources, start = [], 0
        for group in self.groups:
            rows = keep[start : start + len(group["input_ids"])].nonzero().flatten()
            start += len(group["input_ids"])
            sources += [(group, int(row)) for row in rows]
        first = len(sources) % self.size
        cuts = sorted({0, *range(first, len(sources) + 1, self.size)})
        self.groups = [_joined(sources[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]


def _joined(rows: Sequence[tuple[dict[str, Tensor], int]]) -> dict[str, Tensor]:
    """One batch of rows ``(group, place)``, padded on the right with zeros to the widest of their groups."""
    width = max(group["input_ids"].shape[1] for group, _ in rows)
    padded = any(group["input_ids"].shape[1] < width or "attention_mask" in group for group, _ in rows)
    example, made = rows[0][0], {}
    names = [*example, "attention_mask"] if padded and "attention_mask" not in example else list(example)
    for name in names:
        like = example.get(name, example["input_ids"])
        made[name] = like.new_zeros(len(rows), width, *like.shape[2:])
    done = 0
    while done < len(rows):
        group = rows[done][0]
        places = [place for each, place in rows[done:] if each is group]
        into = slice(done, done + len(places))
        for name in names:
            own = group[name][places] if name in group else 1
            made[name][into, : group["input_ids"].shape[1]] = own
        done += len(places)
    return made
