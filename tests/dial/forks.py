"""Runs `dial` commands read from standard input, each in a fork, so that Lightning is imported once."""

import json
import os
import signal
import sys

import torch

torch.set_num_threads(1)

from callbacks.resume import Resume  # noqa: E402,F401
from dial import main  # noqa: E402
from dial.trainer import DialCLI  # noqa: E402,F401
from lightning_modules import Classifier  # noqa: E402


def kill_at(place: str) -> None:
    """Make the process kill itself at the n-th call of a method of the module."""
    name, count = place.split(":")
    method, calls = getattr(Classifier, name), iter(range(1, 10**9))

    def wrapped(self, *args, **kwargs):
        if not (self.trainer.sanity_checking) and next(calls) == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *args, **kwargs)

    setattr(Classifier, name, wrapped)


def run_all() -> list[int]:
    codes = []
    for arguments, kill in json.load(sys.stdin):
        child = os.fork()
        if child == 0:
            if kill:
                kill_at(kill)
            os.dup2(2, 1)  # the last line of standard output is the codes
            try:
                code = main(arguments)
            except SystemExit as error:
                code = int(error.code or 0)
            except BaseException:
                import traceback

                traceback.print_exc()
                code = 70
            sys.stdout.flush()
            os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return codes


if __name__ == "__main__":
    print(json.dumps(run_all()))
