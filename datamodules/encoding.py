"""Token ids of a role's rows, computed once per tokenizer and kept on disk."""

import json
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.row_tokens import Padding, RowTokeniser
from datamodules.rows import Rows
from datamodules.scratch import made_once

VERSION = 2
CHUNK = 4096  # rows per call of the tokenizer: enough for its threads, little to hold as Python lists


@dataclass(frozen=True, eq=False)
class Tokens:
    """Unpadded encodings of N rows, memory-mapped.

    Attributes:
        offsets: ``(N + 1,)`` int64; row i has the tokens from ``offsets[i]`` to ``offsets[i + 1]``.
        ids: ``(T,)`` int32, all rows one after the other.
        types: ``(T,)`` int8 token types, or ``None`` where the tokenizer has none.
        padding: what fills a batch, and on which side.
        truncated: number of rows that were longer than ``max_length``.
        max_length: tokens kept per row, or ``None``.
    """

    offsets: np.ndarray
    ids: np.ndarray
    types: np.ndarray | None
    padding: Padding
    truncated: int
    max_length: int | None

    @property
    def lengths(self) -> np.ndarray:
        """``(N,)`` tokens per row."""
        return np.diff(self.offsets)

    def row(self, index: int) -> np.ndarray:
        """``(L,)`` ids of one row."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


def default_cache_dir() -> Path:
    """Where what can be computed again is kept: ``$DIAL_CACHE``, else ``~/.cache/dial``."""
    return Path(os.environ.get("DIAL_CACHE", "~/.cache/dial")).expanduser()


def encode(
    rows: Rows, tokenizer: Any, max_length: int | None, key: str, cache_dir: Path, target: bool = False
) -> Tokens:
    """Read the rows' tokens from the cache, computing them first where they are not there.

    Several processes and nodes may do this at once: each writes a folder of its own and moves it into place; whoever
    comes second uses the first one's.

    Args:
        rows: what to encode.
        tokenizer: any transformers tokenizer.
        max_length: tokens kept per row; ``None`` keeps all.
        key: identifies the tokenizer and ``max_length``.
        cache_dir: folder of the cache.
        target: whether the rows are what a decoder writes.

    Raises:
        OSError: if the cache cannot be written; nothing half-written stays.
    """
    folder = (
        Path(cache_dir)
        / "encodings"
        / f"v{VERSION}-{rows.fingerprint}-{key}{f'-target-{max_length}' if target else ''}"
    )
    if not folder.exists():
        with made_once(folder) as place:
            _write(place, rows, RowTokeniser(tokenizer, max_length, target))
    return _load(folder, tokenizer)


def _write(folder: Path, rows: Rows, tokeniser: RowTokeniser) -> None:
    """Tokens of all rows into the folder, chunk by chunk, so that memory does not grow with the rows."""
    lengths: list[int] = []
    truncated = 0
    units = (unit if len(unit) > 1 else unit[0] for unit in rows.units())
    with ArrayFile(folder / "ids.npy", np.int32) as ids, ArrayFile(folder / "types.npy", np.int8) as types:
        while chunk := list(islice(units, CHUNK)):
            encoded = tokeniser(chunk)
            truncated += sum(row.truncated for row in encoded)
            lengths.extend(len(row.ids) for row in encoded)
            ids.append(np.concatenate([np.asarray(row.ids, np.int32) for row in encoded]))
            if tokeniser.typed:
                types.append(np.concatenate([np.asarray(row.types, np.int8) for row in encoded]))
    if not tokeniser.typed:
        types.path.unlink()
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    (folder / "meta.json").write_text(json.dumps({"truncated": truncated, "max_length": tokeniser.max_length}))


class ArrayFile:
    """A one-dimensional array that is written to a ``.npy`` file part by part, of which none stays in memory.

    Args:
        path: the file.
        dtype: of the values.
    """

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self.path, self.dtype, self.size = path, np.dtype(dtype), 0

    def __enter__(self) -> "ArrayFile":
        self._file = self.path.open("wb")
        self._head()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.seek(0)
        self._head()  # NumPy leaves room for the digits of any size
        self._file.close()

    def _head(self) -> None:
        about = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self._file, about)

    def append(self, values: np.ndarray) -> None:
        """Write more values."""
        self._file.write(values.astype(self.dtype, copy=False).tobytes())
        self.size += len(values)


def _load(folder: Path, tokenizer: Any) -> Tokens:
    """Tokens of a folder, memory-mapped."""
    meta = json.loads((folder / "meta.json").read_text())
    types = folder / "types.npy"
    return Tokens(
        offsets=np.load(folder / "offsets.npy"),
        ids=np.load(folder / "ids.npy", mmap_mode="r"),
        types=np.load(types, mmap_mode="r") if types.exists() else None,
        padding=Padding.of(tokenizer),  # not from the disk: it depends on the model that the tokenizer was matched with
        **meta,
    )
