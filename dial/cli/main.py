"""The `dial` command: train, test and sweep adaptive inference; see `dial --help`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence

from dial.cli.commands import completion, package_version, run_command, usage
from dial.cli.interrupts import INTERRUPTED, Interrupts
from dial.threads import wait_passively


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
    shown = {"-h": usage, "--help": usage, "--version": package_version, "--completion": completion}.get(command)
    if shown is not None:
        print(shown(), end="")
        return 0
    wait_passively()
    interrupts = Interrupts()
    try:
        with interrupts:
            return run_command(command, args[1:])
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
