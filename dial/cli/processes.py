"""Errors where one command runs as several processes: said once, and nobody is left waiting."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer

from dial.cli.interrupts import Stopped

PATIENCE = 5.0  # seconds: enough for rank 0 to find the same error


@contextmanager
def failing_together(trainer: Trainer) -> Iterator[None]:
    """Where one process fails inside, all end, and the one that knows why says it.

    Rank 0 kills the processes that it has started; left alone they would wait for it, or repeat its message. Another
    rank waits for that, since rank 0 may fail for the same reason; if it is still there, it is alone with its error.

    Where a signal stops rank 0 the others end with it.

    Raises:
        ConnectionError: instead of the error that a process gets whose peer has ended.
    """
    try:
        yield
    except Stopped:
        end_others(trainer)
        raise
    except Exception as error:
        if trainer.global_rank > 0:
            time.sleep(PATIENCE)
        end_others(trainer)
        if trainer.world_size > 1 and re.search("Connection (closed|reset) by peer", str(error)):
            raise ConnectionError("another process of this command failed; its message says why.") from error
        raise


def end_others(trainer: Trainer) -> None:
    """Kill the processes that this one has started, if it has."""
    launcher = trainer.strategy.launcher
    processes = getattr(launcher, "procs", [])
    if launcher is not None:
        launcher.kill(signal.SIGKILL)
    for process in processes:
        process.wait()
    processes.clear()  # Lightning watches them, and kills this process, too, when it finds one dead


def starts_run() -> bool:
    """Whether this process is the first of its command, which others may be started for; known before the trainer is.

    Ranks that a cluster starts are told by its variables, those that Lightning starts by its own.
    """
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return not getattr(rank_zero_only, "rank", 0) and node == "0"
