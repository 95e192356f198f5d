"""Files that are either whole or absent, and JSON in them."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.scratch import scratch


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; what was written there replaces ``path`` when the block ends.

    The replacement happens in one step and only after the data has reached the disk. If the block raises, or the disk
    is full, the temporary file is removed and an earlier ``path`` stays as it was. Missing folders are created. The
    temporary name keeps the suffix, because writers such as matplotlib choose their format by it. What killed processes
    left in the folder under such names is removed (see :func:`datamodules.scratch.scratch`).

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_write(target) as temporary:
        ...     _ = temporary.write_text("all of it")
        >>> target.read_text(), len(list(target.parent.iterdir()))
        ('all of it', 1)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch(path) as temporary:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically.

    NumPy scalars and arrays become numbers and lists. JSON has no infinities: they become the strings ``"inf"`` and
    ``"-inf"``, which ``float()`` reads back; NaN, a value that is undefined, becomes ``null``.
    """
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path, argument: str) -> dict[str, Any]:
    """Content of a JSON file that :func:`write_json` wrote.

    Args:
        path: the file.
        argument: how the user calls what led to it.

    Raises:
        ValueError: it is damaged, or holds no object; names ``argument``.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"`{argument}` must lead to readable files, but {path} is damaged: {error}. Remove it."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"`{argument}` must lead to an object, but {path} holds {type(content).__name__}. Remove it.")
    return content


@contextlib.contextmanager
def readable(path: str | Path, argument: str, remedy: str = "Run the command that wrote it again.") -> Iterator[None]:
    """Turn what happens within this context where content is not as DIAL writes it into one line.

    Errors of ours, which begin with an argument, stay as they are.

    Args:
        path: what is read.
        argument: how the user calls what led to it.
        remedy: what to do.

    Raises:
        ValueError: names the file.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ArithmeticError, ValueError, NotImplementedError) as error:
        if isinstance(error, ValueError) and str(error).startswith(("`", "Does not validate")):
            raise
        shown = f"lacks {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        shown = " ".join(shown.split())[:200].rstrip(".")
        raise ValueError(
            f"`{argument}` must lead to files as DIAL writes them, but {path} cannot be read: it is damaged "
            f"or of something else ({shown}). {remedy}"
        ) from error


def plain(value: Any) -> Any:
    """Return ``value`` in terms of JSON types (see :func:`write_json`).

    Example:
        >>> plain({"t": np.array([-np.inf, 0.5]), 3: np.int64(2), "gap": float("nan")})
        {'t': ['-inf', 0.5], '3': 2, 'gap': None}
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Path):
        return str(value)
    return value


def _sync(path: Path) -> None:
    """Have the operating system put a file, or the entries of a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
