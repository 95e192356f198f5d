"""Token ids of a role's rows, computed once per tokenizer and kept on disk."""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.rows import Rows

VERSION = 2
CHUNK = 4096  # rows per call of the tokenizer: enough for its threads, little to hold as Python lists


@dataclass(frozen=True, eq=False)
class Tokens:
    """Unpadded encodings of N rows, memory-mapped.

    Attributes:
        offsets: ``(N + 1,)`` int64; row i has the tokens from ``offsets[i]`` to ``offsets[i + 1]``.
        ids: ``(T,)`` int32, all rows one after the other.
        types: ``(T,)`` int8 token types, or ``None`` where the tokenizer has none.
        pad_id, pad_type, pad_left: what fills a batch, and on which side.
        truncated: number of rows that were longer than ``max_length``.
        max_length: tokens kept per row, or ``None``.
    """

    offsets: np.ndarray
    ids: np.ndarray
    types: np.ndarray | None
    pad_id: int
    pad_type: int
    pad_left: bool
    truncated: int
    max_length: int | None

    @property
    def lengths(self) -> np.ndarray:
        """``(N,)`` tokens per row."""
        return np.diff(self.offsets)


def default_cache_dir() -> Path:
    """``$DIAL_CACHE``, else ``~/.cache/dial``."""
    return Path(os.environ.get("DIAL_CACHE", "~/.cache/dial")).expanduser()


def encode(rows: Rows, tokenizer: Any, max_length: int | None, key: str, cache_dir: Path) -> Tokens:
    """Read the rows' tokens from the cache, computing them first where they are not there.

    Several processes and nodes may do this at once: each writes a folder of its own and moves it into place; whoever
    comes second uses the first one's.

    Args:
        rows: what to encode.
        tokenizer: any transformers tokenizer.
        max_length: tokens kept per row; ``None`` keeps all.
        key: identifies the tokenizer and ``max_length``.
        cache_dir: folder of the cache.

    Raises:
        OSError: if the cache cannot be written; nothing half-written stays.
    """
    folder = Path(cache_dir) / "encodings" / f"v{VERSION}-{rows.fingerprint}-{key}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write(scratch, rows, tokenizer, max_length)
            _move(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return _load(folder, tokenizer)


def _move(scratch: Path, folder: Path) -> None:
    try:
        scratch.rename(folder)
    except OSError:
        if not folder.exists():  # otherwise somebody was quicker, with the same content
            raise


def _write(folder: Path, rows: Rows, tokenizer: Any, max_length: int | None) -> None:
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    lengths: list[int] = []
    truncated = 0
    for start in range(0, len(rows), CHUNK):
        text = rows.text[start : start + CHUNK]
        text_b = None if rows.text_b is None else rows.text_b[start : start + CHUNK]
        encoded, cut = _tokenise(tokenizer, text, text_b, max_length)
        truncated += cut
        lengths.extend(len(row) for row in encoded["input_ids"])
        ids.append(np.concatenate([np.asarray(row, np.int32) for row in encoded["input_ids"]]))
        if "token_type_ids" in encoded:
            types.append(np.concatenate([np.asarray(row, np.int8) for row in encoded["token_type_ids"]]))
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    np.save(folder / "ids.npy", np.concatenate(ids))
    if types:
        np.save(folder / "types.npy", np.concatenate(types))
    (folder / "meta.json").write_text(json.dumps({"truncated": truncated, "max_length": max_length}))


def _tokenise(
    tokenizer: Any, text: list[str], text_b: list[str] | None, max_length: int | None
) -> tuple[dict[str, list[list[int]]], int]:
    """Encode texts; rows that are too long are encoded again with truncation, which is how they are counted."""
    options = {"padding": False, "return_attention_mask": False, "verbose": False}
    whole = tokenizer(text, text_b, truncation=False, **options)
    names = [name for name in ("input_ids", "token_type_ids") if name in whole]
    encoded = {name: list(whole[name]) for name in names}
    longer = [i for i, row in enumerate(encoded["input_ids"]) if max_length is not None and len(row) > max_length]
    if longer:
        second = None if text_b is None else [text_b[i] for i in longer]
        shorter = tokenizer([text[i] for i in longer], second, truncation=True, max_length=max_length, **options)
        for name in names:
            for i, row in zip(longer, shorter[name], strict=True):
                encoded[name][i] = row
    for i, row in enumerate(encoded["input_ids"]):
        if len(row) == 0:  # an empty text where the tokenizer adds no special tokens; models need at least one token
            filler = _padding(tokenizer)["pad_id"] if tokenizer.unk_token_id is None else tokenizer.unk_token_id
            for name in names:
                encoded[name][i] = [filler if name == "input_ids" else 0]
    return encoded, len(longer)


def _padding(tokenizer: Any) -> dict[str, Any]:
    choices = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)  # masked anyway, but it must be a valid id
    return {
        "pad_id": next(choice for choice in choices if choice is not None),
        "pad_type": getattr(tokenizer, "pad_token_type_id", 0),
        "pad_left": tokenizer.padding_side == "left",
    }


def _load(folder: Path, tokenizer: Any) -> Tokens:
    meta = json.loads((folder / "meta.json").read_text())
    types = folder / "types.npy"
    return Tokens(
        offsets=np.load(folder / "offsets.npy"),
        ids=np.load(folder / "ids.npy", mmap_mode="r"),
        types=np.load(types, mmap_mode="r") if types.exists() else None,
        **_padding(tokenizer),  # not from the disk: it depends on the model that the tokenizer was matched with
        **meta,
    )
