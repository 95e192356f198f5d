"""SIGINT and SIGTERM end a command, with a sentence and a code of their own, and a fit with its step saved."""

import os
import re
import signal
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dial.cli.main as dial_command
import dial.cli.predict  # noqa: F401  (to be patched)
from callbacks import Resume
from callbacks.checkpoints import LAST
from dial.cli.interrupts import INTERRUPTED, Interrupts, Stopped, exit_code
from dial.cli.stopping import Stoppable

NOTHING: Any = None


def trainer(world_size: int = 1, *callbacks: Any) -> Any:
    return SimpleNamespace(world_size=world_size, callbacks=list(callbacks))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_raised_with_its_number(number) -> None:
    before = signal.getsignal(number)
    with Interrupts(Stopped) as interrupts:
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), number)
        assert interrupts.arrived == number and exit_code(stopped.value) == 128 + number
    assert signal.getsignal(number) == before


def test_lightnings_handler_is_replaced_before_each_loop() -> None:
    noted: list[int] = []
    with Interrupts(Stopped) as interrupts:
        stoppable = Stoppable(interrupts)
        for hook in ("sanity_check", "train", "validation", "test", "predict"):
            signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
            getattr(stoppable, f"on_{hook}_start")(trainer(), NOTHING)
            with pytest.raises(Stopped):
                os.kill(os.getpid(), signal.SIGTERM)
    assert noted == []


def test_a_step_is_made_to_its_end_and_saved() -> None:
    with Interrupts(Stopped) as interrupts:
        stoppable, resume = Stoppable(interrupts), Resume(100)
        fit = trainer(1, resume, stoppable)
        stoppable.setup(fit, NOTHING, "fit")
        stoppable.on_train_batch_start(fit, NOTHING, None, 0)
        assert not resume.save_now()
        os.kill(os.getpid(), signal.SIGTERM)
        assert resume.save_now()
        with pytest.raises(Stopped):
            stoppable.on_train_batch_end(fit, NOTHING, None, None, 0)


def test_several_processes_do_not_wait_for_the_step() -> None:
    """They would have to agree on the step at which they save."""
    with Interrupts(Stopped) as interrupts:
        stoppable = Stoppable(interrupts)
        stoppable.on_train_batch_start(trainer(2), NOTHING, None, 0)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)


def test_what_somebody_swallowed_is_raised_with_the_next_batch() -> None:
    with Interrupts(Stopped) as interrupts:
        stoppable = Stoppable(interrupts)
        with suppress(Stopped):  # as a finaliser would
            os.kill(os.getpid(), signal.SIGINT)
        for hook in ("train", "validation", "test", "predict"):
            with pytest.raises(Stopped):
                getattr(stoppable, f"on_{hook}_batch_start")(trainer(), NOTHING, None, 0)


def test_forked_processes_get_what_they_always_got() -> None:
    with Interrupts(Stopped) as interrupts:
        interrupts._process -= 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.arrived is None


@pytest.mark.parametrize(
    ("command", "inner"),
    [("sweep", "dial.cli.main.run_command"), ("predict", "dial.cli.predict.PredictCommand.answer")],
)
def test_a_signal_in_the_middle_of_a_class_body_is_no_error(monkeypatch, capsys, command, inner) -> None:
    """As while a module is imported: up to Python 3.11 `__set_name__` makes a RuntimeError of what is raised in it."""

    class Field:
        def __set_name__(self, owner, name):
            os.kill(os.getpid(), signal.SIGTERM)

    def half_imported(*args: Any) -> int:
        type("Imported", (), {"field": Field()})
        return 0

    monkeypatch.setattr(inner, half_imported)
    arguments = ["run", "texts.csv", "--out=out.jsonl"] if command == "predict" else ["table.parquet"]
    assert dial_command.main([command, *arguments]) == 143
    said = capsys.readouterr().err
    assert said.startswith("interrupted") and said.count("\n") == 1


def test_an_error_without_a_signal_is_not_taken_for_one(monkeypatch) -> None:
    def broken(*args: Any) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr("dial.cli.main.run_command", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        dial_command.main(["sweep"])


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_fit_saves_its_step_and_says_so(dial, fit_arguments, tmp_path, name, code) -> None:
    arguments = [*fit_arguments, f"--run={tmp_path}/a", "--resume.every_n_steps=1000"]
    done = dial(*arguments, fault=f"{name}:training_step:40")
    assert done.code == code, done.output[-3000:]
    assert done.output.splitlines()[-2:] == ["step 40 is saved", INTERRUPTED]
    assert "Traceback" not in done.output
    assert torch.load(tmp_path / f"a/checkpoints/{LAST}", weights_only=True)["global_step"] == 40
    assert not (tmp_path / "a/tier").exists() and not (tmp_path / "a/.fit.lock").exists()
    if name == "SIGTERM":
        text = dial(*arguments).ok()
        assert "resuming from" in text and re.search(r"tier saved to", text)


def test_a_fit_that_has_saved_nothing(dial, fit_arguments, tmp_path) -> None:
    """The step before a validation is not saved: Lightning would leave the validation out."""
    done = dial(*fit_arguments, f"--run={tmp_path}/a", fault="SIGTERM:training_step:31")
    assert done.code == 143
    assert done.output.splitlines()[-2:] == ["step 0 is saved", INTERRUPTED]
    done = dial(*fit_arguments, f"--run={tmp_path}/b", fault="SIGTERM:0.01")
    assert done.code == 143 and "interrupted" in done.output.splitlines()[-1]


def test_a_test_says_that_it_starts_again(dial, test_arguments, tmp_path) -> None:
    done = dial(*test_arguments, f"--run={tmp_path}/a", fault="SIGTERM:2.0")
    assert done.code in (143, 0)
    if done.code:
        assert done.output.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in done.output
