"""Scratch files and folders: those of processes at work stay, those of killed ones go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.scratch import MACHINE, remove_scratch, scratch

WRITER = """
import sys, time
from pathlib import Path
from datamodules.scratch import scratch
with scratch(Path(sys.argv[1]), folder=sys.argv[2] == "folder") as place:
    (place / "half.txt" if place.is_dir() else place).write_text("half")
    print(place, flush=True)
    time.sleep(60)
"""


def writer(target: Path, kind: str) -> tuple[subprocess.Popen[str], Path]:
    """A process at work on a file or folder, and its scratch."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target), kind], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_scratch_goes_when_its_process_was_killed_and_not_before(tmp_path: Path, kind: str) -> None:
    process, place = writer(tmp_path / "result.json", kind)
    try:
        assert place.parent == tmp_path and (place.is_dir() if kind == "folder" else place.read_text() == "half")
        remove_scratch(tmp_path)
        with scratch(tmp_path / "another"):
            pass
        assert list(tmp_path.iterdir()) == [place]
    finally:
        process.kill()
        with process:
            assert process.wait() == -signal.SIGKILL
    assert place.exists()
    with scratch(tmp_path / "another"):
        assert not place.exists()
    assert list(tmp_path.iterdir()) == []


def writers() -> dict[str, Callable[[Path], object]]:
    """What results are written by: none may put another file in the place of the one that is locked."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet
    import torch
    from matplotlib.figure import Figure
    from safetensors.torch import save

    table = pa.table({"x": [1]})
    return {
        "a.json": lambda path: path.write_text("1"),
        "a.parquet": lambda path: pyarrow.parquet.write_table(table, path),
        "a.csv": lambda path: pyarrow.csv.write_csv(table, path),
        "a.png": lambda path: Figure().savefig(path),
        "a.npz": lambda path: np.savez(path, x=np.arange(2)),
        "a.ckpt": lambda path: torch.save({"x": 1}, path),
        "a.safetensors": lambda path: path.write_bytes(save({"x": torch.ones(1)})),
    }


@pytest.mark.parametrize("name", writers())
def test_writers_keep_the_lock(tmp_path: Path, name: str) -> None:
    with scratch(tmp_path / name) as place:
        writers()[name](place)
        remove_scratch(tmp_path)
        assert place.stat().st_size > 0


def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as info, scratch(tmp_path / "nowhere" / "x.json"):
        pass
    assert str(info.value).endswith(f"{str(tmp_path / 'nowhere' / 'x.json')!r}")


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), scratch(tmp_path / "x", folder=True) as place:  # noqa: PT012
        (place / "half").touch()
        raise KeyError("x")
    assert list(tmp_path.iterdir()) == []


def test_what_another_machine_left_stays_for_a_day(tmp_path: Path) -> None:
    """Locks of some network file systems hold on one machine alone."""
    other = f"{(int(MACHINE, 16) + 1) % 16**4:04x}"
    left = tmp_path / f".x.{other}{'0a' * 4}.part"
    left.mkdir()
    remove_scratch(tmp_path)
    assert left.exists()
    os.utime(left, (1e9, 1e9))
    remove_scratch(tmp_path)
    assert not left.exists()


def test_without_locks_everything_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    left = tmp_path / f".x.{MACHINE}{'0a' * 4}.part.json"
    left.touch()
    with scratch(tmp_path / "y.json") as place:
        place.write_text("1")
        place.rename(tmp_path / "y.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, "y.json"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_file_system_that_numbers_files_anew_does_not_hold_a_writer_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with scratch(tmp_path / "x.json", folder=folder) as place:
        monkeypatch.undo()  # folders are removed by way of it
        assert place.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_takes_for_a_dead_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = Path.mkdir, list[Path]()

    def removed_at_once(self: Path, *args: Any, **named: Any) -> None:
        make(self, *args, **named)
        made.append(self)
        if len(made) == 1:  # another writer in the same folder looks at it before it is locked
            remove_scratch(tmp_path)

    monkeypatch.setattr(Path, "mkdir", removed_at_once)
    with scratch(tmp_path / "tokens", folder=True) as place:
        assert place.is_dir() and made == [place, place]
