"""What killed commands left half-written beside their results goes with the next run of the same command."""

from pathlib import Path

import pytest

from datamodules.scratch import MACHINE
from dial.cli.record_files import JsonLines, Parts


@pytest.mark.parametrize(("name", "kind"), [("rows.jsonl", JsonLines), ("rows", Parts)])
@pytest.mark.parametrize("half", ["manifest", "part-00003"])
def test_what_was_left_half_written_goes(tmp_path, name, kind, half) -> None:
    """As by a kill while the first manifest was written, or the last one, or a part."""
    output = kind(tmp_path / name, {})
    output.close()
    scratch = output.manifest.with_name(f".{half}.{MACHINE}{'0a' * 4}.part.json")
    scratch.touch()
    kind(tmp_path / name, {}).close()
    assert output.manifest.exists() and not scratch.exists()


def hidden(folder: Path) -> list[str]:
    """Scratch, but not the locks, which the next holder takes over."""
    return sorted(path.name for path in folder.rglob(".*") if path.suffix != ".lock")


@pytest.mark.parametrize("file", ["config-test.yaml", "summary.json"])
def test_after_a_killed_test(dial, test_arguments, tmp_path, file) -> None:
    run = [*test_arguments, f"--run={tmp_path}/run"]
    assert dial(*run, fault=f"killed:{file}").code == -9
    (left,) = hidden(tmp_path)
    assert left.startswith(f".{Path(file).stem}.")
    dial(*run).ok()
    assert hidden(tmp_path) == [] and (tmp_path / "run/sweep/summary.json").is_file()


@pytest.fixture(scope="module")
def tested(dial, test_arguments, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("tested")
    dial(*test_arguments, f"--run={run}").ok()
    return run


@pytest.mark.parametrize("file", ["compare.json", "compare.png", "compare.csv"])
def test_after_a_killed_comparison(dial, tested, tmp_path, file) -> None:
    compare = ["compare", tested, "--out", tmp_path / "compared"]
    assert dial(*compare, fault=f"killed:{file}").code == -9
    assert len(hidden(tmp_path)) == 1
    dial(*compare).ok()
    assert hidden(tmp_path) == [] and (tmp_path / "compared/compare.csv").is_file()


@pytest.mark.parametrize("file", ["curve.parquet", "summary.json"])
def test_after_a_killed_sweep(dial, tested, tmp_path, file) -> None:
    sweep = ["sweep", tested / "sweep/stages.parquet", "--bootstrap", "100", "--out", tmp_path / "swept"]
    assert dial(*sweep, fault=f"killed:{file}").code == -9
    assert len(hidden(tmp_path)) == 1
    dial(*sweep).ok()
    assert hidden(tmp_path) == [] and (tmp_path / "swept/summary.json").is_file()
