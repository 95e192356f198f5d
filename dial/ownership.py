"""Whose files lie in a folder: those that DIAL wrote may be replaced, others never are."""

import json
from collections.abc import Sequence
from pathlib import Path

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
    """Whether a folder holds a sweep, or what a stopped one had written: the table comes first, the summary last."""
    from dial.parquet_checks import is_own

    if (folder / "summary.json").exists():
        return has_keys(folder / "summary.json", "configuration")
    return is_own(folder / "stages.parquet")


def has_keys(path: Path, *keys: str) -> bool:
    """Whether a file holds a JSON object with these keys.

    Raises:
        ValueError: it is damaged JSON, so that nobody knows whose it is.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return isinstance(content, dict) and all(key in content for key in keys)
