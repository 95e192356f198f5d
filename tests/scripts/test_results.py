"""The plan of `make results`: what it runs, in which order, and that it goes on where it stopped."""

import re
from pathlib import Path

import pytest

from scripts import results


def test_every_input_of_a_step_is_made_by_an_earlier_one() -> None:
    made: set[str] = set()
    for step in results.plan("data", "models"):
        used = set(re.findall(r"runs/results/[\w/-]*?/tier\b", " ".join(step.command)))
        assert used <= made, f"{step.name} needs {used - made}"
        if step.result.endswith("tier/card.json"):
            made.add(step.result.removesuffix("/card.json"))


def test_results_and_run_folders_are_not_shared() -> None:
    steps = list(results.plan("data", "models"))
    assert len({step.result for step in steps}) == len(steps) == len({step.name for step in steps})
    runs = [step.command[-1] for step in steps if step.command[0] == "dial"]
    assert len(set(runs)) == len(runs)
    assert all(step.result.startswith(f"{step.command[-1]}/") for step in steps if step.command[0] == "dial")


def test_plan_has_every_task_seed_and_first_tier() -> None:
    names = {step.name for step in results.plan("data", "models")}
    assert {"sst2/seed0/cascade-bilstm-distilled", "sst2/seed0/cascade-layers2", "sst2/times"} <= names
    for task in ("cola", "mrpc", "rte"):
        for seed in (0, 1, 2):
            assert {f"{task}/seed{seed}/cascade-{name}" for name in ("layers2", "layers2-distilled")} <= names
    assert not any(name.startswith("sst2/seed1") for name in names)


def test_done_steps_are_skipped_and_a_failure_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.write_text('1'); sys.exit(int(sys.argv[2]))"
    steps = [
        results.Step(f"cola/{name}", name, ("python", "-c", write, name, code))
        for name, code in (("done", "0"), ("new", "0"), ("fails", "3"), ("never", "0"))
    ]
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "plan", lambda data, models: steps)
    (tmp_path / "done").write_text("before")
    with pytest.raises(ValueError, match="cola/fails ended with code 3"):
        results.main([])
    assert (tmp_path / "done").read_text() == "before"
    assert (tmp_path / "new").read_text() == "1"
    assert not (tmp_path / "never").exists()
