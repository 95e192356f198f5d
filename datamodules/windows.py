"""Questions and their contexts as windows of tokens that a reader of spans takes, with the place of each token.

A context longer than the room behind its question is read in several windows that overlap (document strides of Devlin
et al. 2019). All of them are one row: every window but the last is full, so the tokens of a row tell how many it has.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.row_tokens import Padding, Unit, UnreadableRowError, has_plain_backend

OUTSIDE = -1
"""Place of a token that is not of the context."""
NO_ANSWER = 0
"""Token that stands for "there is no answer": the first of a window."""
STRIDE = 128
"""Tokens that two neighbouring windows share, where nobody says."""


class QuestionTokens(NamedTuple):
    """One question with its context, all windows one after the other.

    Attributes:
        ids: ``(T,)`` of all windows.
        types: ``(T,)`` token types where the tokenizer has them.
        truncated: nothing is cut: what does not fit into one window is in the next.
        sizes: ``(W,)`` tokens of each window.
        starts: ``(T,)`` first character of each token in the context, :data:`OUTSIDE` for those of the question.
        ends: ``(T,)`` character behind each token.
        context: the text.
    """

    ids: Any
    types: Any
    truncated: bool
    sizes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    context: str


class WindowTokeniser:
    """Gives pairs of a question and a context their windows.

    Args:
        tokenizer: a fast tokenizer of transformers.
        max_length: tokens of a window, those of the question and special ones among them.
        stride: tokens that two neighbouring windows share.
        reader: what errors call those who read them; empty: they do not say.
    """

    def __init__(self, tokenizer: Any, max_length: int, stride: int = STRIDE, reader: str = "") -> None:
        self.tokenizer, self.max_length, self.stride, self.reader = tokenizer, max_length, stride, reader
        self.typed = "token_type_ids" in tokenizer.model_input_names
        self.padding = Padding.of(tokenizer)
        self.special = int(tokenizer.num_special_tokens_to_add(pair=True))

    @property
    def room(self) -> int:
        """Tokens that a question may have: behind it a window must move on by one token at least."""
        return self.max_length - self.special - self.stride - 1

    def __call__(self, units: Sequence[Unit]) -> list[QuestionTokens]:
        """Windows of each pair.

        Raises:
            UnreadableRowError: the first pair that cannot be read, see :meth:`problems`.
        """
        if not units:
            return []
        for index, problem in enumerate(self.problems(units)):
            if problem:
                raise UnreadableRowError(index, problem)
        backend = self.tokenizer.backend_tokenizer
        settings = {"stride": self.stride, "strategy": "only_second", "direction": "right"}
        backend.enable_truncation(self.max_length, **settings)
        try:
            encoded = backend.encode_batch([tuple(unit) for unit in units])
        finally:
            backend.no_truncation()
        return [self._row(row, unit[1]) for row, unit in zip(encoded, units, strict=True)]

    def problems(self, units: Sequence[Unit]) -> list[str]:
        """Why each pair cannot be read; an empty text where it can.

        Args:
            units: what is to be read; pairs can.
        """
        found = [form_problem(unit) for unit in units]
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()  # saved tokenizers may bring either
        questions = [unit[0] if not problem else "" for unit, problem in zip(units, found, strict=True)]
        lengths = [len(row.ids) for row in backend.encode_batch_fast(questions, add_special_tokens=False)]
        for index, (length, unit) in enumerate(zip(lengths, units, strict=True)):
            if found[index]:
                continue
            if not length or not self._has_tokens(unit[1]):
                what = "context" if length else "question"
                found[index] = f"has a {what} of which the tokenizer keeps nothing; fill it in, or leave it out"
            elif length > self.room:
                whose = f" in {self.reader}" if self.reader else ""
                found[index] = (
                    f"has a question of {length} tokens, but windows of {self.max_length} tokens that share "
                    f"{self.stride} leave room for {self.room}{whose}; raise `max_length`, lower `stride`, or leave it "
                    "out"
                )
        return found

    def _has_tokens(self, context: str) -> bool:
        """Whether a context has a token: of marks that are not seen, such as spaces without width, it may have none."""
        if any(map(str.isalnum, context)):
            return True
        encoded = self.tokenizer.backend_tokenizer.encode(context, add_special_tokens=False)
        return any(start < end for start, end in encoded.offsets)

    def _row(self, encoded: Any, context: str) -> QuestionTokens:
        """A question with all windows of its context, joined as rows are kept."""
        windows = [encoded, *encoded.overflowing]
        places = [_places(window, context) for window in windows]
        return QuestionTokens(
            ids=np.concatenate([np.array(window.ids, np.int32) for window in windows]),
            types=np.concatenate([np.array(w.type_ids, np.int8) for w in windows]) if self.typed else None,
            truncated=False,
            sizes=np.array([len(window.ids) for window in windows], np.int64),
            starts=np.concatenate([starts for starts, _ in places]),
            ends=np.concatenate([ends for _, ends in places]),
            context=context,
        )

    def collate(self, rows: Sequence[QuestionTokens], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """See :func:`window_batch`; without a mask where nothing is padded."""
        batch = window_batch(rows, self.padding, masked=False)
        return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def form_problem(unit: Unit) -> str:
    """Why something is no pair of a question and a context that can be read; an empty text where it is one."""
    if isinstance(unit, str) or len(unit) != 2:
        return "is a single text, but spans are read from a question and its context; name both columns"
    question, context = unit
    for name, text in (("question", question), ("context", context)):
        if not text.strip():
            return f"has an empty {name}; fill it in, or leave it out"
    return ""


def _places(window: Any, context: str) -> tuple[np.ndarray, np.ndarray]:
    """First character, and that behind, of each token of a window; :data:`OUTSIDE` where it is not of the context.

    Accents that are characters of their own belong to the token before them, though some tokenizers keep nothing of
    them: an answer is not cut off between a letter and its accent.
    """
    offsets = np.array(window.offsets, np.int32).reshape(-1, 2)
    outside = np.array([sequence != 1 for sequence in window.sequence_ids])
    outside |= offsets[:, 0] == offsets[:, 1]  # spaces alone, of some tokenizers
    if not context.isascii():
        for index in np.flatnonzero(~outside):
            while (behind := int(offsets[index, 1])) < len(context) and unicodedata.combining(context[behind]):
                offsets[index, 1] = behind + 1
    offsets[outside] = OUTSIDE
    return offsets[:, 0].copy(), offsets[:, 1].copy()


def check_reader(tokenizer: Any, argument: str, path: str) -> None:
    """Refuse a tokenizer that does not tell where its tokens stand, or has no first token for "no answer".

    Raises:
        ValueError: naming ``argument``.
    """
    where = f"`{argument}`: the tokenizer in {path}"
    if not getattr(tokenizer, "is_fast", False) or not has_plain_backend(tokenizer):
        raise ValueError(f"{where} must be a fast one, as only these tell where a token stands in its text.")
    first = tokenizer.backend_tokenizer.encode("a", "b").ids[0]
    if tokenizer.padding_side != "right" or first not in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        raise ValueError(
            f"{where} must put a special token first and padding last, as the first token stands for no answer; take "
            "a model of BERT's, RoBERTa's, MPNet's or DistilBERT's kind."
        )


def window_batch(rows: Sequence[QuestionTokens], padding: Padding, masked: bool = True) -> dict[str, Tensor]:
    """All windows of some rows, padded to the longest.

    Args:
        rows: B of them.
        padding: what fills a batch.
        masked: give an ``attention_mask`` also where nothing is padded.

    Returns:
        ``input_ids``, ``attention_mask``, ``token_type_ids`` ``(W, T)`` as of other rows; ``starts`` and ``ends``
        ``(W, T)``, the place of each token in the context, :data:`OUTSIDE` for other tokens; ``row`` ``(W,)``, the row
        that a window is of, rising from 0; ``characters`` ``(W, L)``, the code points of the window's part of the
        context, and ``origin`` ``(W,)``, where that part begins.
    """
    pieces, places, origins, texts, owners = [], [], [], [], []
    for position, row in enumerate(rows):
        begin = 0
        for size in row.sizes.tolist():
            part = slice(begin, begin + size)
            begin += size
            pieces.append((row.ids[part], None if row.types is None else row.types[part]))
            starts, ends = row.starts[part], row.ends[part]
            places.append((starts, ends))
            origin = int(starts[starts != OUTSIDE].min(initial=len(row.context)))
            part_of_text = row.context[origin : int(ends.max(initial=0))]
            texts.append(np.frombuffer(part_of_text.encode("utf-32-le", "surrogatepass"), dtype=np.int32))
            origins.append(origin)
            owners.append(position)
    batch = padding.batch(pieces, masked)
    shape = batch["input_ids"].shape
    filled = np.full((2, *shape), OUTSIDE, np.int32)
    for index, (starts, ends) in enumerate(places):
        filled[0, index, : len(starts)], filled[1, index, : len(ends)] = starts, ends
    characters = np.zeros((len(texts), max(map(len, texts))), np.int32)
    for index, points in enumerate(texts):
        characters[index, : len(points)] = points
    arrays = {"starts": filled[0], "ends": filled[1], "characters": characters}
    arrays |= {"row": np.array(owners), "origin": np.array(origins)}
    return batch | {key: torch.from_numpy(value) for key, value in arrays.items()}


def take_windows(encoding: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The windows of some rows.

    Args:
        encoding: of :func:`window_batch`.
        rows: ``(R,)`` rising.
    """
    kept = torch.isin(encoding["row"], rows)
    taken = {key: value[kept] for key, value in encoding.items()}
    return taken | {"row": torch.searchsorted(rows.contiguous(), taken["row"])}


def answer_tokens(
    spans: Sequence[Sequence[int]] | np.ndarray, row: Tensor, starts: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor]:
    """First and last token ``(W,)`` of each window's answer; :data:`NO_ANSWER` where the window does not hold it whole.

    Characters of which the tokenizer keeps nothing, such as accents of their own or marks without width, do not count.

    Args:
        spans: ``(B, 2)`` first character of each row's answer and the one behind; negative where there is none.
        row: ``(W,)`` of each window; all of a row are there.
        starts: ``(W, T)``, see :func:`window_batch`.
        ends: ``(W, T)``.

    Example:
        >>> places = torch.tensor([[-1, 0, 4, 9], [-1, 4, 9, 13]]), torch.tensor([[-1, 3, 8, 12], [-1, 8, 12, 15]])
        >>> answer_tokens([[4, 12]], torch.tensor([0, 0]), *places)
        (tensor([2, 1]), tensor([3, 2]))
        >>> answer_tokens([[4, 15]], torch.tensor([0, 0]), *places)
        (tensor([0, 1]), tensor([0, 3]))
    """
    wanted = torch.as_tensor(np.asarray(spans), dtype=torch.long)
    inside = (starts != OUTSIDE) & (ends > wanted[row, :1]) & (starts < wanted[row, 1:])
    # Where the answer's own tokens begin and end, in whichever windows of the row these are.
    nowhere = starts.new_full((len(wanted),), 2**30)
    first = nowhere.scatter_reduce(0, row, starts.masked_fill(~inside, 2**30).amin(dim=1), "amin")[row, None]
    behind = -nowhere.scatter_reduce(0, row, (-ends).masked_fill(~inside, 2**30).amin(dim=1), "amin")[row, None]
    inside &= (starts.masked_fill(starts == OUTSIDE, 2**30).amin(dim=1, keepdim=True) <= first) & (
        ends.amax(dim=1, keepdim=True) >= behind
    )
    found = inside.any(dim=1)
    last = inside.shape[1] - 1 - inside.flip(1).int().argmax(dim=1)
    begin = inside.int().argmax(dim=1)
    return torch.where(found, begin, NO_ANSWER), torch.where(found, last, NO_ANSWER)
