"""What needs no Lightning starts without it."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from dial.stages.parquet import save_table
from tests.stages.tables import random_table

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("lightning", "transformers", "datasets", "torchmetrics", "torch")


def modules_after(*arguments: str) -> tuple[int, str, set[str]]:
    """Exit code, output, and which heavy packages the command imported."""
    code = (
        "import sys; from dial.cli.main import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code or 0\n"
        f"print('IMPORTED', *[name for name in {HEAVY!r} if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    text, _, names = done.stdout.partition("IMPORTED")
    return done.returncode, text + done.stderr, set(names.split())


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["sweep", "--help"], ["compare", "--help"], ["recipe", "--help"], ["bogus"]],
    ids=" ".join,
)
def test_help_and_version_import_nothing_heavy(arguments) -> None:
    code, text, imported = modules_after(*arguments)
    assert not imported
    assert code == (2 if arguments == ["bogus"] else 0)
    if arguments == ["--version"]:
        assert text.strip() == f"dial {version('dial')}"


def test_sweep_and_compare_import_no_lightning(tmp_path) -> None:
    save_table(random_table(60, 2), tmp_path / "stages.parquet")
    code, text, imported = modules_after(
        "sweep", str(tmp_path / "stages.parquet"), "--calibration", "crossfit", "--bootstrap", "100",
        "--targets", "0.9", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert code == 0, text
    assert not imported - {"torch"}
    code, text, imported = modules_after("compare", str(tmp_path / "out"), "--out", str(tmp_path / "both"))
    assert code == 0, text
    assert not imported - {"torch"}


def test_an_unknown_command_names_the_known_ones() -> None:
    code, text, _ = modules_after("tset")
    assert code == 2 and re.search(
        r"fit, validate, test, predict, calibrate, lengths, augment, sweep, compare, recipe, but got 'tset'", text
    )
    assert len(text.strip().splitlines()) == 1
