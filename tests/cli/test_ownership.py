"""Files that DIAL did not write are refused before any work, by name, and stay as they are."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from callbacks import MeasuredStudy, TierExport
from dial.claims import SWEEP_FILES
from dial.cli.main import main
from dial.cli.record_files import CompressedJsonLines, JsonLines
from dial.stages.parquet import load_table, save_table
from tests.stages.tables import random_table

FAST = ["--bootstrap", "100", "--targets", "0.9"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "t.parquet"
    save_table(random_table(), path)
    return path


def refused(command: Callable[[], int], mine: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal, after which the folder is as it was."""
    before = {path.name: path.read_bytes() for path in mine.parent.iterdir() if path.is_file()}
    assert command() == 2
    assert {path.name: path.read_bytes() for path in mine.parent.iterdir() if path.is_file()} == before
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert str(mine) in line
    return line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, "mine") for name in (*SWEEP_FILES, "exits.png")),
        ("summary.json", "{}"),
        ("summary.json", "[1]"),
        ("summary.json", '{"partial": true}'),
    ],
)
def test_a_sweep_leaves_the_files_of_others(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text(content)
    line = refused(lambda: main(["sweep", str(table), "--out", str(out), *FAST]), out / name, capsys)
    assert "`--out` must be " in line


def test_what_a_stopped_sweep_left_is_its_own(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["sweep", str(table), "--out", str(out), *FAST]) == 0
    (out / "summary.json").unlink()
    (out / "notes.txt").write_text("mine")
    assert main(["sweep", str(table), "--out", str(out), *FAST]) == 0
    assert (out / "summary.json").is_file() and (out / "notes.txt").read_text() == "mine"


def test_a_file_is_no_folder(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    for command in (["sweep", str(table), *FAST], ["compare", str(table.parent / "whole")]):
        if command[0] == "compare":
            assert main(["sweep", str(table), "--out", str(table.parent / "whole"), *FAST]) == 0
        line = refused(lambda c=command: main([*c, "--out", str(tmp_path / "out")]), tmp_path / "out", capsys)
        assert "`--out` must be a folder, but" in line


@pytest.mark.parametrize("name", ["compare.json", "compare.csv", "compare.png", "compare_exits.png"])
def test_a_comparison_leaves_the_files_of_others(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = tmp_path / "run"
    assert main(["sweep", str(table), "--out", str(run), *FAST]) == 0
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("{}")
    line = refused(lambda: main(["compare", str(run), "--out", str(out)]), out / name, capsys)
    assert "`--out` must be a new folder or one that DIAL wrote" in line
    (out / name).unlink()
    for _ in range(2):
        assert main(["compare", str(run), "--out", str(out)]) == 0
        (out / "compare.png").unlink()  # as if stopped before it


@pytest.mark.parametrize("kind", [JsonLines, CompressedJsonLines])
@pytest.mark.parametrize("suffix", ["manifest.json", "skipped.jsonl"])
@pytest.mark.parametrize("content", ["mine", "{}", '{"schema": 1}', "[]", '{"row": 1}\n'])
def test_a_prediction_leaves_the_files_of_others(tmp_path: Path, kind: Any, suffix: str, content: str) -> None:
    path = tmp_path / f"out.jsonl.{suffix}"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"`--out` .*{path.name}"):
        kind(tmp_path / "out.jsonl", {"input": 1})
    assert path.read_text() == content and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["times.json", "study.md", "study.png", "study.json"])
@pytest.mark.parametrize("out", [None, "own"])
def test_a_study_leaves_the_files_of_others(tmp_path: Path, name: str, out: str | None) -> None:
    folder = tmp_path / (out or "study")
    folder.mkdir()
    (folder / name).write_text("{}")
    study = MeasuredStudy(rows=10, out=None if out is None else str(folder))
    trainer: Any = types.SimpleNamespace(default_root_dir=str(tmp_path))
    argument = "--run" if out is None else "study.out"
    with pytest.raises(ValueError, match=f"`{argument}` must be .*{name} exists and is not of DIAL"):
        study._check_folder(trainer)
    (folder / name).unlink()
    study._check_folder(trainer)
    (folder / "times.json").write_text(json.dumps({"unit": "ms", "tiers": {}}))  # of a study that was stopped
    study._check_folder(trainer)


def test_a_fit_leaves_a_folder_that_is_no_tier(tmp_path: Path) -> None:
    (tmp_path / "tier").mkdir()
    (tmp_path / "tier" / "config.json").write_text("{}")
    trainer: Any = types.SimpleNamespace(default_root_dir=str(tmp_path), fast_dev_run=False)
    module: Any = None
    with pytest.raises(ValueError, match=r"`--run` must be a folder whose tier/ is new or of .*, but .*tier holds"):
        TierExport().setup(trainer, module, "fit")
    TierExport().setup(trainer, module, "test")
    (tmp_path / "tier" / "card.json").write_text("{}")
    TierExport().setup(trainer, module, "fit")


def test_a_table_of_others_is_no_sweep(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "out"
    out.mkdir()
    pq.write_table(pq.read_table(table).replace_schema_metadata({}), out / "stages.parquet")
    refused(lambda: main(["sweep", str(table), "--out", str(out), *FAST]), out / "stages.parquet", capsys)
    assert len(load_table(table)) > 0
