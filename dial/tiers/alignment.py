"""Which token of a teacher is which of its student, where both cut texts alike but number and frame them differently.

MPNet has BERT's pieces under ids shifted by four, and frames a pair as ``<s> a </s></s> b </s>`` where BERT has
``[CLS] a [SEP] b [SEP]``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dial.tiers.model_inputs import PAIR
from dial.tiers.tier import Encoding, encoding_key
from dial.tiers.tokens import PROBES

ROLES = (("cls", "bos"), ("sep", "eos"), ("pad",), ("unk",), ("mask",))
FRAME = ("cls", "bos", "sep", "eos")  # what stands around texts; unknown and masked words are words of a text


class Alignment(nn.Module):
    """Finds for each token of the student the teacher's token of the same piece.

    Rows are taken apart into texts and the special tokens around them. Pieces match by their place within their text,
    special tokens by their place between texts, where the first of two separators counts. A text that one side cut
    shorter (pairs of one length hold a piece less where there is a separator more) matches as far as both go.

    Args:
        student: tokenizer of transformers.
        teacher: another one.
        argument: how the user calls the teacher.

    Raises:
        ValueError: the pieces of the two differ, in their vocabulary or on a text that is tried; names ``argument``.
    """

    teacher_ids: Tensor  # of each of the student's ids; -1 for what the teacher does not have
    own_frame: Tensor
    other_frame: Tensor

    def __init__(self, student: Any, teacher: Any, argument: str = "teacher") -> None:
        super().__init__()
        ids, lacking = _translated(student, teacher)
        if lacking:
            raise ValueError(_refusal(argument, f"it lacks {len(lacking)} of them, such as {lacking[0]!r}"))
        self.register_buffer("teacher_ids", ids, persistent=False)
        self.register_buffer("own_frame", _frame(student), persistent=False)
        self.register_buffer("other_frame", _frame(teacher), persistent=False)
        specials = {*student.all_special_tokens, *teacher.all_special_tokens}
        plain = [probe for probe in PROBES if not any(token in probe for token in specials)]
        for text in (*((probe,) for probe in plain), PAIR):
            own, other = (_encode(tokenizer, text) for tokenizer in (student, teacher))
            _, matched = self(own, other)
            pieces = [~torch.isin(side["input_ids"], frame) for side, frame in self._sides(own, other)]
            if not matched[pieces[0]].all() or pieces[0].sum() != pieces[1].sum():
                raise ValueError(_refusal(argument, f"it cuts {text[0]!r} otherwise"))

    def _sides(self, own: Encoding, other: Encoding) -> list[tuple[Encoding, Tensor]]:
        return [(own, self.own_frame), (other, self.other_frame)]

    def forward(self, own: Encoding, other: Encoding) -> tuple[Tensor, Tensor]:
        """Places in the teacher's rows of the student's tokens, and which of these have one, both ``(B, T)``.

        Args:
            own: the student's encoding of some rows, ``(B, T)``.
            other: the teacher's encoding of the same rows, ``(B, U)``.

        Returns:
            Places in ``range(U)``, 0 where there is none, and a bool mask.
        """
        width = max(own["input_ids"].shape[1], other["input_ids"].shape[1])
        (own_keys, own_real), (keys, real) = (_keys(side, frame, width) for side, frame in self._sides(own, other))
        size = 1 + int(max(own_keys.max(), keys.max()))
        table = torch.full((len(keys), size), -1, dtype=torch.long, device=keys.device)
        places = torch.arange(keys.shape[1], device=keys.device).expand_as(keys)
        rows = torch.arange(len(keys), device=keys.device)[:, None].expand_as(keys)
        table[rows[real], keys[real]] = places[real]
        found = table.gather(1, own_keys)
        matched = own_real & (found >= 0)
        found = found.clamp(min=0)
        matched &= self.teacher_ids[own["input_ids"]] == other["input_ids"].gather(1, found)
        return torch.where(matched, found, 0), matched


def align(student: Any, teacher: Any, argument: str) -> Alignment | None:
    """The alignment of two tokenizers; None where they are one, up to the length that is kept.

    Raises:
        ValueError: they cut texts otherwise; names ``argument``.
    """
    return None if encoding_key(student, 1) == encoding_key(teacher, 1) else Alignment(student, teacher, argument)


def longer_by(student: Any, teacher: Any) -> int:
    """How many more special tokens the teacher puts around a pair: to keep the student's text it needs their room."""
    own, other = (int(tokenizer.num_special_tokens_to_add(pair=True)) for tokenizer in (student, teacher))
    return max(0, other - own)


def at_places(states: Tensor, places: Tensor) -> Tensor:
    """A teacher's hidden states ``(B, U, H)`` at the student's tokens, ``(B, T, H)``; ``places`` is ``(B, T)``."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


def at_pairs(scores: Tensor, places: Tensor) -> Tensor:
    """A teacher's attention scores ``(B, A, U, U)`` at the student's pairs of tokens, ``(B, A, T, T)``."""
    batch, heads, _, width = scores.shape
    length = places.shape[1]
    rows = scores.gather(2, places[:, None, :, None].expand(batch, heads, length, width))
    return rows.gather(3, places[:, None, None, :].expand(batch, heads, length, length))


def _keys(encoding: Encoding, frame: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """A number for each token's place, ``(B, T)``, the same in both layouts, and which tokens count.

    Runs of special tokens and the texts behind them are counted; in a run the first counts. No place within a text
    reaches ``width``, the longer of both rows.
    """
    ids, mask = encoding["input_ids"], encoding["attention_mask"].bool()
    special = torch.isin(ids, frame) & mask
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    begins = special & ~torch.nn.functional.pad(special, (1, -1), value=False)
    last = torch.where(special, place, -1).cummax(dim=1).values
    within = torch.where(special, 0, place - last)
    return begins.long().cumsum(1) * width + within, mask & (begins | ~special)


def _translated(student: Any, teacher: Any) -> tuple[Tensor, list[str]]:
    """The teacher's id of each of the student's, ``(V,)``, and the student's pieces that the teacher lacks."""
    own, other = student.get_vocab(), teacher.get_vocab()
    ids = torch.full((max(own.values()) + 1,), -1, dtype=torch.long)
    special = {student.convert_tokens_to_ids(token) for token in student.all_special_tokens}
    lacking = sorted(piece for piece, number in own.items() if piece not in other and number not in special)
    for piece, number in own.items():
        ids[number] = other.get(piece, -1)
    for names in ROLES:
        number, meant = _of_role(student, names), _of_role(teacher, names)
        if number is not None:
            ids[number] = -1 if meant is None else meant
    return ids, lacking


def _of_role(tokenizer: Any, names: tuple[str, ...]) -> int | None:
    found = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
    return next((number for number in found if number is not None), None)


def _frame(tokenizer: Any) -> Tensor:
    found = {getattr(tokenizer, f"{name}_token_id", None) for name in FRAME}
    return torch.tensor(sorted(number for number in found if number is not None), dtype=torch.long)


def _encode(tokenizer: Any, text: tuple[str, ...]) -> Encoding:
    given = tokenizer(*([part] for part in text), padding=False, truncation=False, verbose=False)
    ids = torch.tensor(given["input_ids"], dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _refusal(argument: str, difference: str) -> str:
    return (
        f"`{argument}` must cut texts into the student's pieces where token teaches token, but {difference}; take a "
        "teacher or a student of the same vocabulary, or distil predictions alone with class_path: Distillation."
    )
