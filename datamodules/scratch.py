"""Places to write in until what is written is whole; those of killed processes go with the next writer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:4]
NAME = re.compile(r"\..+\.(?P<machine>[0-9a-f]{4})[0-9a-f]{8}\.part(\.[^.]+)?")
ELSEWHERE = 24 * 3600.0
"""Seconds for which the scratch of another machine stays: on some network file systems locks hold on one machine."""
ATTEMPTS = 16
"""At making scratch that others may take for a dead process's until it is locked."""


@contextlib.contextmanager
def scratch(path: Path, folder: bool = False) -> Iterator[Path]:
    """An empty file or folder beside ``path`` that is this process's own until the context ends.

    What is written there is renamed to ``path`` by the caller; what is still there at the end is removed. It is locked
    meanwhile, so that other processes know that somebody is at work on it. A process that is killed leaves it behind,
    without the lock: what is found so in the same folder is removed first.

    The name keeps the suffix, because writers such as matplotlib choose their format by it.

    Args:
        path: what is to be written; its folder must be there.
        folder: whether it is a folder.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "tokens"
        >>> with scratch(target, folder=True) as place:
        ...     _ = (place / "ids.txt").write_text("1 2")
        ...     _ = place.rename(target)
        >>> [path.name for path in target.parent.iterdir()]
        ['tokens']
    """
    remove_scratch(path.parent)
    stem, suffix = (path.name, "") if folder else (path.stem, path.suffix)
    place = path.with_name(f".{stem}.{MACHINE}{secrets.token_hex(4)}.part{suffix}")
    lock = None
    try:
        lock = _make(place, folder)
        yield place
    except OSError as error:
        if str(error.filename) == str(place):
            error.filename = str(path)  # the name that the user knows
            del error.filename2
        raise
    finally:
        _remove(place)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def made_once(folder: Path) -> Iterator[Path]:
    """Give a scratch folder that takes the place of ``folder`` when the block ends, unless somebody was quicker."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch(folder, folder=True) as place:
        yield place
        try:
            place.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process made it, with the same content
                raise


def remove_scratch(folder: Path) -> None:
    """Remove from a folder what killed processes were writing in it; what a living process holds stays.

    It stays as well where locks cannot be had, and for a day where another machine wrote it.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if entry.name.startswith(".")]:
            if match := NAME.fullmatch(name):
                with contextlib.suppress(OSError):
                    _remove_if_dead(folder / name, match["machine"])


def _remove_if_dead(place: Path, machine: str) -> None:
    """Remove it where its lock is free; where that cannot be told, since another machine made it, only if it is old."""
    if machine != MACHINE and place.stat().st_mtime > time.time() - ELSEWHERE:
        return
    handle = os.open(place, os.O_RDONLY if place.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(place)
    finally:
        os.close(handle)


def _make(place: Path, folder: bool) -> int:
    """Make a scratch file or folder; its descriptor, locked where the file system has locks."""
    for left in reversed(range(ATTEMPTS)):
        if folder:
            place.mkdir(exist_ok=True)
        try:
            handle = os.open(place, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if folder and place.parent.is_dir():  # before it was opened, it looked like a dead process's
                continue
            raise
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # or before it was locked
            # Some file systems in user space number what is open otherwise than what is named.
            if os.path.samestat(os.fstat(handle), place.stat()) or not left:
                return handle
        os.close(handle)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
