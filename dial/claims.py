"""Whom a folder or file belongs to: one configuration, one process at a time, and files that DIAL wrote or did not."""

from __future__ import annotations

import fcntl
import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SWEEP_FILES = (
    "summary.json",
    "stages.parquet",
    "curve.parquet",
    "curve.csv",
    "costs.json",
    "curve.png",
    "scores.png",
    "shares.png",
    "errors.csv",
    "errors.png",
)
"""Of a sweep; and exits.png for models with several exits."""

# What a tier is loaded from. Not its card: that says how it came about.
SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".model")
IGNORED = ("card.json", "lengths.json")  # what is told of a tier, and what `dial lengths` found for it


def same_place(folder: Path) -> Callable[[Any, Any], bool]:
    """How to compare values of two configurations of which some are paths: as the files that they mean.

    A path may be relative or absolute, begin with ``~``, end with a slash or lead through links. The same relative path
    means another file where the command starts in another folder, unless the first is no longer there (the whole
    project was moved).

    Args:
        folder: where relative paths of the first configuration start; those of the second start in the present one.

    Example:
        >>> same = same_place(Path.cwd())
        >>> same(".", str(Path.cwd())), same("sst2", "./sst2"), same(1, 2)
        (True, False, False)
    """

    def same(before: Any, after: Any) -> bool:
        places = place(before, folder), place(after, Path.cwd())
        return places[0] == places[1] if None not in places else bool(before == after)

    return same


def first_difference(
    before: Any, after: Any, key: str = "", same: Callable[[Any, Any], bool] = operator.eq
) -> str | None:
    """Say where two configurations differ first, or None.

    Args:
        before: plain values.
        after: the same.
        key: their place in something larger.
        same: compares what is neither a mapping nor a list.

    >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b was 1 and is 2'
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(n for n in after if n not in before)]:
            found = first_difference(before.get(name), after.get(name), f"{key}.{name}" if key else name, same)
            if found:
                return found
        return None
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        equal = all(first_difference(*pair, key, same) is None for pair in zip(before, after, strict=True))
    else:
        equal = same(before, after)
    return None if equal else f"{key} was {before!r} and is {after!r}"


def check_same(
    holds: str,
    before: Any,
    now: Any,
    remedy: str,
    same: Callable[[Any, Any], bool] = lambda before, after: before == after,
) -> None:
    """Refuse a place that belongs to another configuration.

    Args:
        holds: what the place is and what it holds.
        before: the configuration that it belongs to, plain values.
        now: the present one.
        remedy: what the user can do.
        same: as for :func:`first_difference`.

    Raises:
        ValueError: they differ; names the first difference.
    """
    difference = first_difference(before, now, same=same)
    if difference:
        shown = difference if len(difference) < 400 else difference[:397] + "..."
        raise ValueError(f"{holds}: {shown}; {remedy}.")


def place(text: Any, folder: Path) -> Path | None:
    """The file or folder that a text names, without links; None where it names none that is there.

    Args:
        text: anything that a configuration holds.
        folder: where relative paths start.
    """
    try:
        path = folder / Path(text).expanduser() if isinstance(text, str) and text else None
        return path.resolve() if path is not None and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, the home of an unknown user, a null character
        return None


def contents(place: Path) -> str:
    """Sixteen hexadecimal digits of a file's content, or of what a tier is loaded from in a folder."""
    names = [name for name in sorted(place.iterdir()) if name.is_file()] if place.is_dir() else []
    files = [name for name in names if name.suffix in SUFFIXES and name.name not in IGNORED]
    digest = hashlib.sha256()
    for file in files if place.is_dir() else [place]:
        with file.open("rb") as handle:
            name = file.name if place.is_dir() else ""
            digest.update(f"{name}\0{hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def fingerprint(path: Path) -> str:
    """Sixteen hexadecimal digits that a file's content determines."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def check_files(folder: Path, names: Sequence[str], ours: bool, argument: str) -> None:
    """Refuse a folder with somebody's files of the names that are to be written.

    Args:
        folder: where to write; need not exist.
        names: what is to be written there.
        ours: whether the folder is known to hold results of the same kind, so that such files are of DIAL.
        argument: how the user calls the folder.

    Raises:
        ValueError: naming the first of these files; or the folder is a file.
    """
    check_parent(folder.parent, argument)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`{argument}` must be a folder, but {folder} is a file; name another.")
    taken = next((name for name in names if (folder / name).exists()), None)
    if taken is not None and not ours:
        raise ValueError(
            f"`{argument}` must be a new folder or one that DIAL wrote, but {folder / taken} exists and is not of "
            "DIAL; name another folder, or move the file."
        )


def check_parent(folder: Path, argument: str) -> None:
    """Refuse a place below a file, where nothing can be written.

    Raises:
        ValueError: naming the file.
    """
    nearest = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if nearest.exists() and not nearest.is_dir():
        raise ValueError(f"`{argument}` must lie in a folder, but {nearest} is a file; name another.")


def check_sweep_files(folder: Path, argument: str) -> None:
    """Refuse a folder with somebody's files of a sweep's names.

    Raises:
        ValueError: see :func:`check_files`.
    """
    check_files(folder, (*SWEEP_FILES, "exits.png"), holds_sweep(folder), argument)


def holds_sweep(folder: Path) -> bool:
    """Whether a folder holds a sweep, or what a stopped one had written: the table comes first, the summary last.

    Raises:
        ValueError: the summary is damaged JSON, so that nobody knows whose it is.
    """
    from dial.parquet_checks import is_own

    if not (folder / "summary.json").exists():
        return is_own(folder / "stages.parquet")
    content = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return isinstance(content, dict) and "configuration" in content


@contextmanager
def alone(lock: Path, refusal: str, inherited: bool = False) -> Iterator[None]:
    """Hold a lock file within this context; it leaves nothing behind, unless the process is killed.

    Args:
        lock: the file; its folder is created, and removed again if it stays empty.
        refusal: what to say where another process holds it.
        inherited: whether commands that this process starts hold it as well, should they live on. Processes that are
            forked, such as loader workers, hold it then, too.

    Raises:
        ValueError: another process holds it.
    """
    made = not lock.parent.exists()
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(lock, refusal, inherited)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is held, so that nobody's lock but our own can be removed
        os.close(handle)
        if made:
            with suppress(OSError):
                lock.parent.rmdir()


def _acquire(lock: Path, refusal: str, inherited: bool) -> int:
    """Descriptor of the locked file.

    A lock of ``flock`` belongs to the open file, which children share; one of ``lockf`` to this process alone.
    """
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        os.set_inheritable(handle, inherited)
        try:
            (fcntl.flock if inherited else fcntl.lockf)(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(handle)
            raise ValueError(refusal) from None
        except OSError:
            pass  # a file system without locks
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        os.close(handle)  # the one who held it has just removed it
