"""The plan of results with dropped tokens: what it runs, and in which order."""

import re
from pathlib import Path

from scripts.dropping_plan import dropping_plan
from scripts.results_steps import Derived, due, goals


def test_every_input_of_a_step_is_made_by_an_earlier_one() -> None:
    made: set[str] = set()
    kept: set[str] = set()
    for step in dropping_plan("data", "models"):
        command = " ".join(step.command)
        used = set(re.findall(r"runs/dropping/[\w/-]*?/tier\b", command)) | set(
            re.findall(r"results/\S+parquet", command)
        )
        assert used <= made | kept, f"{step.name} needs {used - made - kept}"
        if "lengths: 0." in command:
            assert {f"{tier}/lengths.json" for tier in re.findall(r"path: (\S+), lengths: 0\.", command)} <= made
        if isinstance(step, Derived):
            assert set(step.sources) <= made | kept
        made |= {step.result, step.result.removesuffix("/card.json")}
        kept |= {step.result} if step.result.endswith(".parquet") else set()
    assert len(kept) == 8


def test_results_are_not_shared() -> None:
    steps = list(dropping_plan("data", "models"))
    assert len({step.result for step in steps}) == len(steps) == len({step.name for step in steps})


def test_everything_is_due_at_first(tmp_path: Path) -> None:
    steps = list(dropping_plan("data", "models"))
    assert [step.name for step in due(steps, goals(steps, ""), tmp_path)] == [step.name for step in steps]
