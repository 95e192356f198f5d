"""Steps of the demos: skipped where the same command has made the result, asked again where anything has changed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scripts.results_steps import ROOT

SCRIPT = f"""
set -euo pipefail
source {ROOT}/scripts/step.sh
make() {{ echo "made $1 $2" && mkdir -p "$1/tier" && touch "$1/tier/card.json" && [ "$2" != 9 ]; }}
step swift/tier/card.json make swift "$1"
step head/tier/card.json make head "$2"
"""


def made(folder: Path, *numbers: int) -> tuple[int, list[str]]:
    """Exit code of a demo of two steps, and what was made."""
    words = ["bash", "-c", SCRIPT, "demo", *map(str, numbers)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, [line for line in done.stdout.splitlines() if line.startswith("made ")]


def test_a_step_is_skipped_only_where_its_command_and_those_before_are_the_same(tmp_path: Path) -> None:
    both = ["made swift 1", "made head 2"]
    assert made(tmp_path, 1, 2) == (0, both)
    assert made(tmp_path, 1, 2) == (0, [])
    assert made(tmp_path, 1, 3) == (0, ["made head 3"])
    assert made(tmp_path, 4, 3) == (0, ["made swift 4", "made head 3"])
    (tmp_path / "swift/tier/card.json").unlink()
    assert made(tmp_path, 4, 3) == (0, ["made swift 4", "made head 3"])


def test_a_folder_that_does_not_say_what_made_it_is_asked(tmp_path: Path) -> None:
    """As those of earlier versions."""
    made(tmp_path, 1, 2)
    (tmp_path / "head/tier.command").unlink()
    assert made(tmp_path, 1, 2) == (0, ["made head 2"])
    assert made(tmp_path, 1, 2) == (0, [])


def test_a_command_that_refuses_a_folder_ends_the_demo(tmp_path: Path) -> None:
    made(tmp_path, 1, 2)
    for _ in range(2):
        code, some = made(tmp_path, 9, 2)
        assert code and some == ["made swift 9"]
