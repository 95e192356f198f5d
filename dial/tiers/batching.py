"""How rows share a batch of a model without changing each other's answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Encoding = dict[str, Tensor]


@dataclass(frozen=True)
class Batching:
    """What a model needs of its batches; :mod:`~dial.tiers.batch_proof` finds it out.

    Attributes:
        equal_length: the model reads padding, so that only rows of one length are computed together.
        masked: the model wants an ``attention_mask`` also where nothing is padded.
        pad_id: the id by which the model itself knows padding, where the tokenizer fills batches with another one.
        shortest: tokens of the shortest row that the model computes (Funnel and CANINE pool tokens away).
        end_id: the id at whose last place an encoder-decoder answers; it takes only rows together that hold it equally
            often, as a text may, in which somebody wrote ``</s>``.
    """

    equal_length: bool = False
    masked: bool = False
    pad_id: int | None = None
    end_id: int | None = None
    shortest: int = 1

    def too_short(self, row: str, length: int, name: str) -> ValueError:
        """What is to be said of a row that is shorter than the shortest.

        Args:
            row: how the user calls it.
            length: its tokens.
            name: of the tier.
        """
        return ValueError(
            f"{row} has {length} tokens, but `{name}` computes no rows of fewer than {self.shortest}; leave it out."
        )

    def arranged(self, encoding: Encoding) -> Encoding:
        """An encoding as the model wants it: padded with its own id, and with a mask if need be."""
        mask = encoding.get("attention_mask")
        if mask is None:
            return {**encoding, "attention_mask": torch.ones_like(encoding["input_ids"])} if self.masked else encoding
        if self.pad_id is None:
            return encoding
        return {**encoding, "input_ids": encoding["input_ids"].masked_fill(mask == 0, self.pad_id)}

    def answer(self, compute: Callable[[Encoding], Tensor], encoding: Encoding) -> Tensor:
        """Outputs ``(B, ...)`` of all rows, those computed together that may be.

        Args:
            compute: gives the model's outputs of an encoding.
            encoding: tensors ``(B, T)``.
        """
        encoding = self.arranged(encoding)
        if not self.equal_length and self.end_id is None:
            return compute(encoding)
        groups = self._groups(encoding) if len(encoding["input_ids"]) > 1 else []
        if len(groups) < 2:
            return compute(self._part(encoding, None))
        outputs = torch.cat([compute(self._part(encoding, rows)) for rows in groups])
        return outputs[torch.argsort(torch.cat(groups))]

    def _groups(self, encoding: Encoding) -> list[Tensor]:
        """Rows ``(R,)`` that may be computed together."""
        ids, mask = encoding["input_ids"], encoding.get("attention_mask")
        kinds = torch.zeros_like(ids[:, 0])
        if self.equal_length and mask is not None:
            kinds = mask.sum(dim=1)
        if self.end_id is not None:
            ends = ids == self.end_id if mask is None else (ids == self.end_id) & (mask != 0)
            kinds = kinds * (ids.shape[1] + 1) + ends.sum(dim=1)
        _, of = torch.unique(kinds, return_inverse=True)
        return [torch.nonzero(of == group)[:, 0] for group in range(int(of.max()) + 1)]

    def _part(self, encoding: Encoding, rows: Tensor | None) -> Encoding:
        """Rows of one group; without their padding where the model would read it."""
        part = encoding if rows is None else {key: value[rows] for key, value in encoding.items()}
        if not self.equal_length or "attention_mask" not in part:
            return part
        used = part["attention_mask"][0] != 0
        part = {key: value[:, used] for key, value in part.items()}
        return part if self.masked else {key: value for key, value in part.items() if key != "attention_mask"}
