"""What is asked of a parquet file before its rows are: that it is whole, whose it is, and that its metadata fit."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

KEY = b"dial"
"""Of the metadata in which DIAL says what is no column."""


@contextlib.contextmanager
def whole_parquet(path: str | Path, argument: str) -> Iterator[None]:
    """Turn what pyarrow raises about a file within this context into one line.

    Raises:
        ValueError: the file is no parquet file, or is damaged; names it.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        shown = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(
            f"`{argument}` must be a parquet file, but {str(path)!r} is none, or is damaged ({shown}). Write it with "
            "pyarrow or pandas."
        ) from error


def is_own(path: str | Path) -> bool:
    """Whether a file is a table that DIAL wrote."""
    try:
        return KEY in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def check_about(about: Any) -> None:
    """Refuse metadata of other types than DIAL writes, before anything is made of them.

    Raises:
        TypeError: naming the entry.
    """
    kinds = {
        "schema": int, "stages": list, "scores": list, "statistics": list, "metrics": list, "label_names": list,
        "settings": dict,
    }  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(about[name], kind):
            raise TypeError(f"{name} is {about[name]!r}")
    settings = about["settings"]
    for name in ("temperatures", "tiers", "ranges"):
        if not isinstance(settings.get(name, {}), dict):
            raise TypeError(f"settings.{name} is {settings[name]!r}")
    wrong = [tier for tier in settings.get("tiers", {}).values() if not isinstance(tier, dict)]
    if not about["stages"] or wrong:
        raise TypeError(f"settings.tiers has {wrong[0]!r}" if wrong else "it has no stages")
    for value in settings.get("temperatures", {}).values():
        float(value)
