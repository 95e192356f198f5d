"""Which exports a folder keeps: made for every weights, version and instruction set, they would fill a disk in time."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

KEPT = 16
RECENT = 24 * 3600.0
"""Seconds; what was used since then may be in use by a process that opens its files again."""


def mark_used(folder: Path) -> None:
    """Note in an export's own time that it was used now; a folder that cannot be written keeps its time."""
    with suppress(OSError):
        os.utime(folder)


def prune(place: Path, kept: int = KEPT, recent: float = RECENT) -> None:
    """Remove the exports of a folder that were used longest ago, and what processes left that were killed.

    Args:
        place: folder of exports, each a folder; hidden ones are halves of one.
        kept: whole exports that stay.
        recent: seconds for which one stays in any case.
    """
    before, used = time.time() - recent, {}
    with suppress(OSError):
        for folder in place.iterdir():
            with suppress(OSError):  # another process removes it, too
                if folder.is_dir():
                    used[folder] = folder.stat().st_mtime
    halves = [folder for folder in used if folder.name.startswith(".")]
    whole = sorted((folder for folder in used if folder not in halves), key=lambda folder: -used[folder])
    for folder in (*whole[kept:], *halves):
        if used[folder] < before:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                (place / f".{folder.name}.lock").unlink()
