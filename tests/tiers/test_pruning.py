"""Which exports a folder keeps."""

import os
import time
from pathlib import Path

import pytest

from dial.tiers.backends import attach as attaching
from dial.tiers.backends import pruning
from dial.tiers.backends.attach import ABOUT, FOLDER
from dial.tiers.backends.names import missing_package
from dial.tiers.loading import load_tier
from tests.tiers.tiny_tiers import DATA, MakeBert

HOUR = 3600.0


def make(place: Path, name: str, hours: float) -> Path:
    """An export that was used so many hours ago, with its lock."""
    folder = place / name
    folder.mkdir(parents=True)
    (folder / ABOUT).write_text("{}")
    (place / f".{name}.lock").touch()
    os.utime(folder, (time.time() - hours * HOUR,) * 2)
    return folder


def test_those_used_last_stay_and_all_of_the_last_day(tmp_path: Path) -> None:
    for index, hours in enumerate((1, 2, 30, 40, 50, 60)):
        make(tmp_path, f"export{index}", hours)
    make(tmp_path, ".export9-killed", 30)
    make(tmp_path, ".export9-at-work", 0.1)
    (tmp_path / "notes.txt").write_text("of somebody else")
    pruning.prune(tmp_path, kept=3)
    left = {path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")}
    assert left == {"export0", "export1", "export2", ".export9-at-work", "notes.txt"}
    assert not (tmp_path / ".export5.lock").exists() and (tmp_path / ".export0.lock").exists()
    pruning.prune(tmp_path, kept=1)
    assert {path.name for path in tmp_path.glob("export*")} == {"export0", "export1"}  # used within a day


def test_a_folder_that_is_not_there_is_left_alone(tmp_path: Path) -> None:
    pruning.prune(tmp_path / "nowhere")
    pruning.mark_used(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_new_export_takes_the_place_of_the_oldest(
    backend: str, make_tiny_bert: MakeBert, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking := missing_package(backend):
        pytest.skip(f"{lacking} is not installed")
    monkeypatch.setattr(attaching, "prune", lambda place: pruning.prune(place, kept=2))
    folder = make_tiny_bert(layers=1)
    old = [make(folder / FOLDER, f"old{index}", 100 + index) for index in range(3)]
    tier = load_tier({"path": str(folder), "backend": backend}, "t", DATA)
    assert tier.computed_by.startswith(backend)
    (new,) = (path for path in (folder / FOLDER).iterdir() if path.name.startswith(backend))
    assert [path.exists() for path in old] == [True, False, False]
    os.utime(new, (0, 0))
    load_tier({"path": str(folder), "backend": backend}, "t", DATA)
    assert time.time() - new.stat().st_mtime < HOUR  # used now
