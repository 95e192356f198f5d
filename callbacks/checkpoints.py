"""Files of checkpoints: whole or absent, with one older beside the newest, and told apart from damaged ones."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from dial.files import atomic_write

LAST = "last.ckpt"
OLDER = "previous.ckpt"
ABOUT = "meta.pt"  # in a checkpoint that is a folder with a file of each rank: all but weights and optimiser


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place, renames it when it is on the disk, and keeps the last one but one.

    Lightning's own writer goes through the folder for temporary files; where that is on another file system, a
    checkpoint is copied into its place and seen there half-written.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint to a local file; where it cannot be written, what was there before stays.

        Raises:
            OSError: it cannot be written.
        """
        path = Path(path)
        with atomic_write(path) as scratch, scratch.open("wb") as file:
            try:
                torch.save(checkpoint, file)
                file.flush()
            except RuntimeError as error:  # what torch makes of a failed write
                reason = error.__context__
                raise reason if isinstance(reason, OSError) else OSError(errno.EIO, str(error), str(path)) from error
            if path.name == LAST and path.is_file():
                keep(path, path.with_name(OLDER))


def keep(path: Path, name: Path) -> None:
    """Give a file a second name, which takes the place of another file; ``path`` is there all the time."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # a file system without links
        path.replace(name)


def remove(path: Path) -> None:
    """Remove a checkpoint, a file or a folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_whole(trainer: Trainer) -> None:
    """Have a trainer write its checkpoints by :class:`WholeCheckpoints`, unless it has a writer of its own."""
    with contextlib.suppress(NotImplementedError):  # a strategy that writes them itself
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None where there is none at all; says where it had to take an older one.

    Args:
        folder: of the run's checkpoints.

    Raises:
        ValueError: there are checkpoints, but all are damaged.
    """
    problems: dict[str, str] = {}
    for path in (folder / LAST, folder / OLDER):
        if not path.exists():
            continue
        problem = damage(path)
        if problem is None:
            for name, what in problems.items():
                rank_zero_info(f"{folder / name} is damaged ({what}); the run goes on from the one before, {path.name}")
            return path
        problems[path.name] = problem
    if problems:
        raise ValueError(
            f"`--run` must be a folder with whole checkpoints, but {' and '.join(problems)} in {folder} cannot be read "
            f"({next(iter(problems.values()))}); restore one, or remove that folder to train anew."
        )
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole.

    Check sums of files that :func:`torch.save` wrote are read. Of a folder, which ranks rename when all of them have
    written their files, only what says what is in them.
    """
    if path.is_dir():
        about = path / ABOUT
        if not about.is_file() or not (path / ".metadata").is_file():
            return f"a folder without {ABOUT} or .metadata"
        return damage(about)
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, zlib.error, struct.error) as error:
        return f"{path.stat().st_size:,} bytes: {error}"
    return None if broken is None else f"{broken} has another check sum"


def read_checkpoint(path: Path, argument: str) -> dict[str, Any]:
    """Content of a checkpoint, whose tensors stay on the disk until they are read; of a folder all but these.

    Raises:
        ValueError: it is damaged, or no checkpoint; names ``argument``.
    """
    reason = damage(path)
    if reason is None:
        try:
            file = path / ABOUT if path.is_dir() else path
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
            reason = "it holds objects that are no weights" if "weights_only" in str(error) else str(error)
        else:
            reason = None if isinstance(content, dict) else f"it holds a {type(content).__name__}"
    if reason is not None:
        short = " ".join(reason.split())[:160]
        raise ValueError(f"`{argument}` must be a whole checkpoint of `dial fit`, but {path} is none: {short}.")
    return content
