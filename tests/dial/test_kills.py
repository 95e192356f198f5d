"""Kills at random moments: a fit goes on bit by bit and never loses more than an interval of its checkpoints.

    DIAL_KILLS=200 python -m pytest -m slow tests/dial/test_kills.py -n 0 -s

makes so many; the default is a few.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dial.interrupts import INTERRUPTED

KILLS = int(os.environ.get("DIAL_KILLS", "8"))
EVERY = 5


def steps_of(file: Path) -> tuple[int, list[tuple[int, int]]]:
    """The last step that was made, and for every start but the first the last step before it and where it began."""
    starts: list[tuple[int, int]] = []
    reached = 0
    for line in file.read_text().split("\n")[:-1] if file.exists() else []:
        if line.startswith("start "):
            starts.append((reached, int(line.removeprefix("start "))))
        else:
            reached = int(line)
    return reached, starts[1:]


def check_finished(folder: Path, whole: Path) -> None:
    """The same weights, card and best checkpoint as those of a fit that nobody disturbed; nothing left behind."""
    one, two = (load_file(run / "tier/model.safetensors") for run in (whole, folder))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert json.loads((folder / "tier/card.json").read_text()) == json.loads((whole / "tier/card.json").read_text())
    one, two = (torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"] for run in (whole, folder))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    left = [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".fit.lock"]
    assert left == []


@pytest.mark.slow
@pytest.mark.timeout(240 + 40 * KILLS)
def test_killed_at_random_moments(dial, fit_arguments, tmp_path) -> None:
    def arguments(folder: Path) -> list[str]:
        steps = f"{{class_path: tests.dial.witness_callbacks.Steps, init_args: {{out: {tmp_path}/steps}}}}"
        return [*fit_arguments, f"--resume.every_n_steps={EVERY}", f"--trainer.callbacks=[{steps}]", f"--run={folder}"]

    whole, seconds = tmp_path / "whole", []
    for _ in range(2):  # the first of a process is slower
        began = time.monotonic()
        dial(*arguments(tmp_path / f"whole{len(seconds)}")).ok()
        seconds.append(time.monotonic() - began)
    (tmp_path / "whole1").rename(whole)
    (tmp_path / "steps").unlink()
    chance = random.Random(0)
    counts = {"SIGKILL": 0, "SIGTERM": 0}
    runs, in_training, lost = 0, 0, []
    while sum(counts.values()) < KILLS:
        folder = tmp_path / f"run{runs}"
        name = chance.choice(list(counts))
        done = dial(*arguments(folder), fault=f"{name}:{chance.uniform(0.05, 1.1) * seconds[1]:.3f}")
        if done.code == 0:
            runs += 1
            lost += [reached - start for reached, start in steps_of(tmp_path / "steps")[1]]
            (tmp_path / "steps").unlink()
            check_finished(folder, whole)
            continue
        assert done.code == (-signal.SIGKILL if name == "SIGKILL" else 128 + signal.SIGTERM), done.output[-3000:]
        assert "Traceback" not in done.output
        if name == "SIGTERM":
            assert done.output.count("interrupted") == 1 and INTERRUPTED in done.output, done.output[-3000:]
        counts[name] += 1
        in_training += (folder / "checkpoints").is_dir()
    dial(*arguments(tmp_path / f"run{runs}")).ok()
    check_finished(tmp_path / f"run{runs}", whole)
    lost += [reached - start for reached, start in steps_of(tmp_path / "steps")[1]]
    # A checkpoint that is due just before a validation comes one step later.
    assert max(lost, default=0) <= EVERY + 1, lost
    print(f"{counts} in {runs + 1} fits, {in_training} with a checkpoint; steps lost at most {max(lost, default=0)}")
