"""Lines of progress for log files."""

import re
import sys
import time
from types import SimpleNamespace

import pytest

from callbacks import LogProgress
from callbacks.progress import total_steps


def trainer(**settings) -> SimpleNamespace:
    usual = {"max_steps": -1, "max_epochs": 3, "num_training_batches": 10, "accumulate_grad_batches": 1}
    return SimpleNamespace(**{**usual, "global_step": 0, "current_epoch": 0, "is_global_zero": True, **settings})


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, 30),
        ({"accumulate_grad_batches": 4}, 9),  # the short round at an epoch's end is a step too
        ({"max_steps": 7}, 7),
        ({"max_steps": 100}, 30),
        ({"max_steps": 100, "max_epochs": -1}, 100),
        ({"max_epochs": -1}, None),
        ({"num_training_batches": float("inf")}, None),
    ],
)
def test_steps_of_a_fit_end_with_the_first_limit(settings, steps) -> None:
    assert total_steps(trainer(**settings)) == steps


def test_a_line_every_so_many_seconds(monkeypatch, capsys) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    fit, progress = trainer(global_step=4), LogProgress(every_seconds=10)
    progress.on_train_start(fit, None)
    for step in range(5, 15):
        clock[0] += 4.0
        fit.global_step = step
        progress.on_train_batch_end(fit, None, {"loss": 0.25}, None, step)
    lines = capsys.readouterr().out.splitlines()
    assert [int(re.search(r"step (\d+)/30", line)[1]) for line in lines] == [7, 10, 13]
    assert "loss 0.250, 0.2 steps/s, 1.5 minutes left" in lines[0]  # 23 steps of 4 s: counted from the resumed step


def test_silence_on_other_processes_at_terminals_and_when_switched_off(monkeypatch, capsys) -> None:
    for every, zero, terminal in ((0, True, False), (1, False, False), (1, True, True)):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        progress, fit = LogProgress(every), trainer(is_global_zero=zero)
        progress.on_train_start(fit, None)
        progress._last -= 60
        fit.global_step = 1
        progress.on_train_batch_end(fit, None, {"loss": 1.0}, None, 0)
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match=r"`progress.every_seconds` must be at least 0, but got -1"):
        LogProgress(-1)


@pytest.mark.parametrize("what", ["validation", "test", "predict"])
@pytest.mark.parametrize(
    ("batches", "lines"),
    [
        ([4, 8], ["batch 3/12, at most 0.6 minutes left", "batch 6/12, at most 0.4 minutes left"]),
        (6, ["batch 3/6, at most 0.2 minutes left", "batch 6/6, at most 0.0 minutes left"]),
        ([float("inf")], ["batch 3", "batch 6"]),
    ],
)
def test_passes_without_training_have_lines_as_well(monkeypatch, capsys, what, batches, lines) -> None:
    clock, progress = [50.0], LogProgress(every_seconds=10)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    counts = {f"num_{name}_batches": None for name in ("val", "test", "predict")}
    run = trainer(**counts | {f"num_{what[:3] if what == 'validation' else what}_batches": batches})
    for _ in range(2):  # each pass by itself
        getattr(progress, f"on_{what}_start")(run, None)
        for batch in range(6):
            clock[0] += 4.0
            getattr(progress, f"on_{what}_batch_end")(run, None, None, None, batch, 0)
        assert capsys.readouterr().out.splitlines() == [f"{what}: {line}" for line in lines]
        clock[0] += 100.0
