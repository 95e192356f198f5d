"""Kills at random moments: a fit goes on bit by bit and never loses more than an interval of its checkpoints.

    DIAL_KILLS=200 python -m pytest -m slow tests/cli/test_kills.py -n 0 -s

makes so many; the default is a few. Half of them come at any moment of the command, half while it trains.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from dial.cli.interrupts import INTERRUPTED
from scripts.kills_checks import crumbs, differences, torn_files

KILLS = int(os.environ.get("DIAL_KILLS", "8"))
EVERY = 5


def read_steps(file: Path) -> list[tuple[str, int, float]]:
    """Lines of :class:`tests.cli.witness_callbacks.Steps`."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [(kind, int(step), float(at)) for kind, step, at in map(str.split, lines)]


def steps_lost(file: Path) -> list[int]:
    """For every start but the first: how far it lies behind the last step that was made before it."""
    lost, reached = [], 0
    for kind, step, _ in read_steps(file):
        if kind == "start":
            lost.append(reached - step)
        reached = step if kind == "step" else reached
    return lost[1:]


def check_finished(folder: Path, whole: Path) -> None:
    """The same weights, card and checkpoints as those of a fit that nobody disturbed; nothing left behind."""
    for part in ("tier", "checkpoints"):
        assert differences(folder / part, whole / part) == []
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert crumbs(folder) == []


@pytest.mark.slow
@pytest.mark.timeout(240 + 40 * KILLS)
def test_killed_at_random_moments(dial, fit_arguments, tmp_path) -> None:
    def arguments(folder: Path) -> list[str]:
        steps = f"{{class_path: tests.cli.witness_callbacks.Steps, init_args: {{out: {tmp_path}/steps}}}}"
        return [*fit_arguments, f"--resume.every_n_steps={EVERY}", f"--trainer.callbacks=[{steps}]", f"--run={folder}"]

    whole, seconds = tmp_path / "whole", {}
    for name in ("first", "whole"):  # the first of a process is slower
        (tmp_path / "steps").unlink(missing_ok=True)
        began = time.monotonic()
        dial(*arguments(tmp_path / name)).ok()
        seconds["command"] = time.monotonic() - began
    times = [at for _, _, at in read_steps(tmp_path / "steps")]
    seconds["training"] = times[-1] - times[0]
    (tmp_path / "steps").unlink()
    chance = random.Random(0)
    counts = {"SIGKILL": 0, "SIGTERM": 0}
    runs, in_training, lost = 0, 0, []
    while sum(counts.values()) < KILLS:
        folder = tmp_path / f"run{runs}"
        name, when = chance.choice(list(counts)), chance.choice(list(seconds))
        moment = f"{chance.uniform(0.02, 1.1) * seconds[when]:.3f}"
        before = len(read_steps(tmp_path / "steps"))
        done = dial(*arguments(folder), fault=f"{name}:{moment if when == 'command' else f'on_train_start:{moment}s'}")
        if done.code == 0:
            runs += 1
            lost += steps_lost(tmp_path / "steps")
            (tmp_path / "steps").unlink()
            check_finished(folder, whole)
            continue
        assert done.code == (-signal.SIGKILL if name == "SIGKILL" else 128 + signal.SIGTERM), done.output[-3000:]
        assert "Traceback" not in done.output
        assert torn_files(folder) == []
        if name == "SIGTERM":
            assert done.output.count("interrupted") == 1 and INTERRUPTED in done.output, done.output[-3000:]
        counts[name] += 1
        in_training += len(read_steps(tmp_path / "steps")) > before
    dial(*arguments(tmp_path / f"run{runs}")).ok()
    check_finished(tmp_path / f"run{runs}", whole)
    lost += steps_lost(tmp_path / "steps")
    # A checkpoint that is due just before a validation comes one step later.
    assert max(lost, default=0) <= EVERY + 1, lost
    shares = {steps: lost.count(steps) for steps in sorted(set(lost))}
    print(f"{counts} in {runs + 1} fits, {in_training} after a step; starts by steps lost: {shares}")
