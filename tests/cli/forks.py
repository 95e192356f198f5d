"""Runs `dial` commands, each in a fork of one process, so that Lightning is imported once.

Reads one job a line from standard input, `{"arguments": [...], "fault": null}`, and answers with one line
`{"code": 0, "output": "..."}`. A fault is `training_step:7` (SIGKILL at the seventh call of that method of
a module, or of a tier that writes),
`SIGTERM:training_step:7` (another signal), `SIGTERM:1.5` (after so many seconds), `SIGTERM:on_train_start:1.5s` (so
many seconds after that method), `enospc:summary.json` (the disk is full when a file of that name is written), or
`killed:summary.json` (SIGKILL at that moment).
"""

import errno
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

import torch

torch.set_num_threads(1)

import fvcore.nn  # noqa: E402,F401  (and below: what every command would import again)
import matplotlib.pyplot as plt  # noqa: E402,F401
import pyarrow.parquet  # noqa: E402,F401
import transformers.models.auto.modeling_auto  # noqa: E402
import transformers.models.bert.modeling_bert  # noqa: E402,F401

import dial.cli.trainer  # noqa: E402,F401
from dial import files  # noqa: E402
from dial.cli.main import main  # noqa: E402
from dial.report import report  # noqa: E402,F401
from dial.tiers.text_to_text import TextToTextTier  # noqa: E402
from lightning_modules import Classifier, MultiExit, Seq2Seq  # noqa: E402


def kill_at(place: str) -> None:
    """Make the process send itself a signal at the n-th call of a method of the module, or some seconds after one."""
    *kinds, name, count = ["SIGKILL", *place.split(":")] if place.count(":") < 2 else place.split(":")
    if name.startswith("SIG"):
        kill_in(float(count), getattr(signal, name))
        return
    number = getattr(signal, kinds[0])
    late = count.endswith("s")
    calls = iter(range(1, 10**9))

    def lethal(method):
        def wrapped(self, *args, **kwargs):
            if not (name != "write" and self.trainer.sanity_checking) and next(calls) == (1 if late else int(count)):
                kill_in(float(count[:-1]), number) if late else os.kill(os.getpid(), number)
            return method(self, *args, **kwargs)

        return wrapped

    for kind in (TextToTextTier,) if name == "write" else (Classifier, MultiExit, Seq2Seq):
        setattr(kind, name, lethal(getattr(kind, name)))


def kill_in(seconds: float, number: int) -> None:
    """Make the process send itself a signal after some seconds."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def fail_at_file(kind: str, name: str) -> None:
    """Let the data of a file of this name not reach the disk: it is full, or the process is killed."""
    sync = files._sync

    def full(path: Path) -> None:
        if path.name.startswith(f".{Path(name).stem}.") and path.suffix == Path(name).suffix:
            if kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        sync(path)

    files._sync = full


def run_child(arguments: list[str], fault: str | None, output: Path) -> None:
    """Run one command in this process and leave it."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if fault:
        kind, _, name = fault.partition(":")
        fail_at_file(kind, name) if kind in ("enospc", "killed") else kill_at(fault)
    try:
        code = main(arguments)
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    """Run jobs until standard input ends."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        for line in sys.stdin:
            job = json.loads(line)
            output.unlink(missing_ok=True)
            child = os.fork()
            if child == 0:
                run_child(job["arguments"], job["fault"], output)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            text = output.read_text(errors="replace") if output.exists() else ""
            print(json.dumps({"code": code, "output": text}), flush=True)


if __name__ == "__main__":
    serve()
