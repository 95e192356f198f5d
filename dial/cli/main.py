"""The `dial` command: train, test and sweep adaptive inference; see `dial --help`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence

from dial.cli.interrupts import INTERRUPTED, Interrupts
from dial.threads import wait_passively

USAGE = """\
usage: dial COMMAND ...

Train with one trainer, then trade quality for cost:
  fit        train a tier (a run folder with checkpoints and a loadable tier/)
             (started again, a killed run goes on, and a finished one says so and is left alone)
  validate   metrics of a model on the validation rows
  test       run every tier once over calibration and test rows, then sweep: sweep/ in the run folder
  predict    RUN INPUT --out FILE: answer a file of texts with the cascade that `dial test` left in RUN
             (CSV, TSV, JSONL, parquet or plain text of any size; a killed command goes on)
             --model ... --data ...: write one tier's predictions for the rows of a data set

  calibrate  RUN FILE: choose the operating points of RUN on rows of your own, with or without labels; predict then
             takes them

From saved tables alone, without a model:
  sweep      curve, operating points and figures from a table of logits: dial sweep table.parquet
  compare    several runs on one plot and table: dial compare runs/a runs/b

Several of these commands in a row:
  recipe     run a procedure's steps that are not done yet: dial recipe configs/recipe/cost_eff.yaml ...

  dial COMMAND --help    arguments of one command
  dial --version         version of the package
"""
TRAINER_COMMANDS = ("fit", "validate", "test", "predict")


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    Bad input ends in one line on stderr and exit code 2, SIGINT and SIGTERM in one line and 130 or 143;
    ``DIAL_DEBUG=1`` shows the traceback of an error. Where nobody reads the output any more (``| head``), the command
    ends as others do: without a word, as if by SIGPIPE.
    """
    try:
        try:
            return answer(list(sys.argv[1:] if args is None else args))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if os.environ.get("DIAL_DEBUG"):
            raise
        with contextlib.suppress(OSError, ValueError):  # what is left in the buffer would be tried again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def answer(args: list[str]) -> int:
    """Run one command, or say what is wrong with it; return its exit code."""
    command = args[0] if args else "--help"
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if command == "--version":
        from importlib.metadata import version

        print(f"dial {version('dial')}")
        return 0
    wait_passively()
    interrupts = Interrupts()
    try:
        with interrupts:
            return run(command, args)
    except BrokenPipeError:
        raise
    except BaseException as error:
        if (code := interrupts.code(error)) is not None:
            print(INTERRUPTED if command == "fit" else "interrupted", file=sys.stderr)
            return code
        if not isinstance(error, ValueError | OSError):
            raise
        if os.environ.get("DIAL_DEBUG"):
            raise
        from datamodules.printing import printable

        print(f"dial {printable(command)}: error: {printable(' '.join(str(cause(error)).split()))}", file=sys.stderr)
        return 2


def cause(error: BaseException) -> BaseException:
    """The error that a class of ours raised while jsonargparse tried every type that an argument may have.

    jsonargparse reports such an error inside "does not validate against any subtype", with the whole configuration.
    """
    while str(error).startswith(("Does not validate", "Problem with given class_path")):
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return error


def run(command: str, args: list[str]) -> int:
    """Dispatch to a command. Each imports only what it needs: Lightning alone takes seconds."""
    if command in ("sweep", "compare"):
        from dial.cli import tables as commands

        return (commands.sweep_command if command == "sweep" else commands.compare_command)(args[1:])
    if command == "calibrate":
        from dial.cli.calibrate import calibrate_command

        return calibrate_command(args[1:])
    if command == "recipe":
        from dial.cli.recipe import recipe_command

        return recipe_command(args[1:])
    # With options only it is Lightning's command; bare, or asked for help, it is the routed one.
    if command == "predict" and (args[1:] in ([], ["-h"], ["--help"]) or not args[1].startswith("-")):
        from dial.cli.predict import predict_command

        return predict_command(args[1:])
    if command in TRAINER_COMMANDS:
        from dial.cli.trainer import run_trainer_command

        return run_trainer_command(args)
    known = ", ".join((*TRAINER_COMMANDS, "calibrate", "sweep", "compare", "recipe"))
    raise ValueError(f"COMMAND must be one of {known}, but got {command!r}; see `dial --help`.")
