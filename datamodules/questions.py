"""What data modules share whose rows are questions that a span of their context answers."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.encoding import CHUNK, ArrayFile, Tokens
from datamodules.loading import EncodedRows
from datamodules.row_tokens import Padding, UnreadableRowError
from datamodules.rows import Rows
from datamodules.scratch import made_once
from datamodules.text_to_text import TRAINED, TextToText
from datamodules.windows import QuestionTokens, WindowTokeniser, answer_tokens, window_batch

METRICS = ("token_f1", "squad_em")
VERSION = 2
COLUMNS: dict[str, type[np.generic]] = {
    "ids": np.int32,
    "types": np.int8,
    "sizes": np.int64,
    "starts": np.int32,
    "ends": np.int32,
}
"""What is stored of windows one after the other."""


@dataclass(frozen=True, eq=False)
class StoredWindows(Tokens):
    """Windows of N rows, memory-mapped.

    Attributes:
        first: ``(N + 1,)`` int64; row i has the windows from ``first[i]`` to ``first[i + 1]``.
        sizes: ``(W,)`` int64 tokens of each window.
        starts: ``(T,)`` int32, see :class:`~datamodules.windows.QuestionTokens`.
        ends: ``(T,)`` int32.
    """

    first: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def of(self, index: int, context: str) -> QuestionTokens:
        """One row, whose context is not stored."""
        span, windows = slice(*self.offsets[index : index + 2]), slice(*self.first[index : index + 2])
        types = None if self.types is None else self.types[span]
        places = self.starts[span], self.ends[span]
        return QuestionTokens(self.ids[span], types, False, self.sizes[windows], *places, context)


class QuestionRows(EncodedRows):
    """Questions with their windows, one encoding per tokenizer key; see :func:`~datamodules.windows.window_batch`.

    Attributes:
        answers: whether encodings have ``answer_starts`` and ``answer_ends`` ``(W,)``, the tokens to be learnt.
    """

    answers = False

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(index) | {"span": None if self.rows.spans is None else self.rows.spans[index]}

    def row(self, key: str, index: int) -> Any:
        """See :class:`EncodedRows`; all windows where these are read."""
        tokens = self.tokens[key]
        if not isinstance(tokens, StoredWindows):
            return super().row(key, index)
        assert self.rows.text_b is not None
        return tokens.of(index, self.rows.text_b[index])

    def encoding(self, key: str, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """See :class:`EncodedRows`; with the tokens of the answers where they are learnt."""
        if not isinstance(self.tokens[key], StoredWindows):
            return super().encoding(key, examples)
        batch = window_batch([example["encodings"][key] for example in examples], self.tokens[key].padding)
        if self.answers:
            spans = np.stack([example["span"] for example in examples])
            found = answer_tokens(spans, batch["row"], batch["starts"], batch["ends"])
            batch["answer_starts"], batch["answer_ends"] = found
        return batch


class QuestionAnswering(TextToText):
    """Questions and contexts, answered by a span of the context, or by nothing where ``no_answer`` says so.

    A row is a question. Encodings for tiers of spans hold all its windows (:func:`~datamodules.windows.window_batch`);
    encoder-decoders read ``question: ... context: ...``. ``label`` is the position of the row in its role, by which
    :meth:`references` gives what it may be answered; questions about one context are one group.

    Args:
        no_answer: whether questions may have no answer (SQuAD 2.0); an empty text is right then.
        metrics: the primary one first; default F1 and exact match, as SQuAD has them.
        kwargs: see :class:`~datamodules.text_to_text.TextToText`.
    """

    def __init__(self, no_answer: bool = False, metrics: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.no_answer = no_answer
        self.metrics = list(METRICS if metrics is None else metrics)

    @property
    def source_form(self) -> str | None:
        """What encoder-decoders read."""
        return "question: {0} context: {1}"

    @property
    def _strides(self) -> Mapping[str, int]:
        strides: Mapping[str, int] = getattr(self._module, "strides", None) or self._own_strides
        return strides

    _own_strides: Mapping[str, int] = {}

    def use_strides(self, strides: Mapping[str, int]) -> None:
        """Set by hand, where there is no trainer, which keys are read in windows, and what neighbours share of them."""
        self._own_strides = dict(strides)

    def tokens(self, role: str, key: str) -> Tokens:
        """Tokens of a role's rows for one tokenizer, in windows where its tiers answer by spans."""
        if key not in self._strides:
            return super().tokens(role, key)
        if (role, key) not in self._tokens:
            tokenizer, max_length = self.tokenizers[key]
            assert max_length is not None
            reader = getattr(self._module, "window_readers", {}).get(key, "")
            tokeniser = WindowTokeniser(tokenizer, max_length, self._strides[key], reader)
            self._tokens[role, key] = encode_windows(self.rows(role), tokeniser, key, self.cache_dir, role)
        return self._tokens[role, key]

    def encoded(self, role: str, key: str | None = None) -> EncodedRows:
        """Rows of a role with their encodings, and their answers where these are learnt."""
        plain = super().encoded(role, key)
        rows = QuestionRows(plain.rows, plain.tokens, plain.targets)
        rows.answers = role in TRAINED
        return rows


def encode_windows(rows: Rows, tokeniser: WindowTokeniser, key: str, cache_dir: Path, role: str) -> StoredWindows:
    """Read the rows' windows from the cache, computing them first where they are not there.

    Args:
        rows: questions and contexts.
        tokeniser: cuts the windows.
        key: identifies tokenizer, length and stride.
        cache_dir: folder of the cache.
        role: whose rows they are, for errors.

    Raises:
        ValueError: a question leaves no room for its context; names the row.
        OSError: if the cache cannot be written; nothing half-written stays.
    """
    folder = Path(cache_dir) / "encodings" / f"windows{VERSION}-{rows.fingerprint}-{key}"
    if not folder.exists():
        with made_once(folder) as place:
            _write(place, rows, tokeniser, role)
    columns = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    columns.setdefault("types", None)  # type: ignore[arg-type]
    return StoredWindows(**columns, padding=Padding.of(tokeniser.tokenizer), truncated=0, max_length=None)


def _write(folder: Path, rows: Rows, tokeniser: WindowTokeniser, role: str) -> None:
    """Write the windows of all rows chunk by chunk; no more than one is in memory."""
    tokens, windows, done, units = list[int](), list[int](), 0, rows.units()
    columns = {name: dtype for name, dtype in COLUMNS.items() if name != "types" or tokeniser.typed}
    with ExitStack() as stack:
        files = {name: stack.enter_context(ArrayFile(folder / f"{name}.npy", of)) for name, of in columns.items()}
        while chunk := list(islice(units, CHUNK)):
            try:
                found = tokeniser(chunk)
            except UnreadableRowError as error:
                row = rows.sample_id[done + error.place]
                raise ValueError(f"{role}: the row with sample_id {row} {error.problem}.") from error
            for name, file in files.items():
                file.append(np.concatenate([getattr(each, name) for each in found]))
            tokens += [len(each.ids) for each in found]
            windows += [len(each.sizes) for each in found]
            done += len(chunk)
    np.save(folder / "offsets.npy", _edges(tokens))
    np.save(folder / "first.npy", _edges(windows))
    (folder / "meta.json").write_text(json.dumps({"stride": tokeniser.stride, "max_length": tokeniser.max_length}))


def _edges(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
