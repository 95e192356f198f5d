"""Commands that are killed: what they write, and how they run, in a fork or as a program of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts import kills_checks as checks

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 400.0  # seconds that a command may take


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code; minus the number of the signal that ended it.
        output: both streams.
        seconds: from its start.
        killed: whether a signal was sent while it seemed to run; not where SIGKILL came after success.
    """

    code: int
    output: str
    seconds: float
    killed: bool


@dataclass(frozen=True)
class Command:
    """What is killed.

    Attributes:
        arguments: of `dial`; or those of a program, where ``program``.
        folder: what it writes, a folder or a file; each run begins without it.
        words: what SIGTERM may make it say; any of these, once.
        program: a program of its own, not a fork.
    """

    arguments: tuple[str, ...]
    folder: Path
    words: tuple[str, ...]
    program: bool = False

    @property
    def predicts(self) -> bool:
        """Whether it leaves rows and a manifest."""
        return self.arguments[0] == "predict"

    @property
    def whole(self) -> Path:
        """Where the undisturbed results lie."""
        return self.folder.with_name(f"whole-{self.folder.name}")

    def clear(self) -> None:
        """Remove what it wrote, scratch files included."""
        for path in [*self.written(), *self.folder.parent.glob(".*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def move(self, name: str) -> None:
        """Keep what it wrote under another name in front."""
        for path in self.written():
            path.rename(path.with_name(name + path.name))

    def written(self) -> list[Path]:
        """Its output, and what lies beside a file."""
        return [path for path in self.folder.parent.iterdir() if path.name.startswith(self.folder.name)]

    def half_way(self) -> list[str]:
        """What is wrong after a kill."""
        torn = checks.torn_files(self.folder)
        return torn + (checks.half_way(self.folder, self.whole) if self.predicts else [])

    def finished(self) -> list[str]:
        """What is wrong at the end."""
        compare = checks.predictions_differ if self.predicts else checks.differences
        return [*compare(self.folder, self.whole), *checks.crumbs(self.folder)]


class Running:
    """A command at work, in a fork or as a program in a session of its own.

    Args:
        command: to start.
        output: file that takes both streams.
    """

    def __init__(self, command: Command, output: Path) -> None:
        self.output, self.began = output, time.monotonic()
        self.code: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.end, held = os.pipe()  # at its end when every process of the command is
        sys.stdout.flush()
        with output.open("wb") as file:
            if command.program:
                words = ("bash", *command.arguments)
                self.process = subprocess.Popen(
                    words, stdout=file, stderr=file, cwd=ROOT, pass_fds=(held,), start_new_session=True
                )
                self.pid = self.process.pid
            else:
                self.pid = os.fork()
                if self.pid == 0:
                    work(command.arguments, file.fileno())
        os.close(held)

    def poll(self) -> bool:
        """Whether it has ended."""
        if self.code is None and self.process is not None:
            self.code = self.process.poll()
        elif self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def wait(self, seconds: float) -> bool:
        """Whether it ends within some seconds."""
        until = time.monotonic() + seconds
        while not self.poll() and time.monotonic() < until:
            time.sleep(min(0.002, max(0.0, until - time.monotonic())))
        return self.poll()

    def send(self, name: str) -> None:
        """Send a signal, to a program's whole session."""
        (os.killpg if self.process is not None else os.kill)(self.pid, getattr(signal, name))

    def ended(self, killed: bool) -> Ended:
        """What came of it, after the end of all its processes."""
        os.read(self.end, 1)
        os.close(self.end)
        assert self.code is not None
        return Ended(self.code, self.output.read_text(errors="replace"), time.monotonic() - self.began, killed)


def work(arguments: Sequence[str], output: int) -> None:
    """Run a `dial` command in this process and leave it."""
    from dial import main

    os.dup2(output, 1)
    os.dup2(output, 2)
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


def run(command: Command, place: Path, name: str | None = None, delay: float = 0.0) -> Ended:
    """Run a command; kill it after a delay where a signal is given.

    Raises:
        RuntimeError: it does not end.
    """
    running = Running(command, place / "output.txt")
    killed = name is not None and not running.wait(delay)
    if killed:
        running.send(str(name))
    if not running.wait(PATIENCE):
        running.send("SIGKILL")
        raise RuntimeError(f"did not end within {PATIENCE:.0f} s, after {name}")
    # Nobody survives SIGKILL, so success means that the command ended between the last look and the signal.
    return running.ended(killed and not (name == "SIGKILL" and running.code == 0))
