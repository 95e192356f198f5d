"""Errors where one command runs as several processes: said once, and nobody is left waiting."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer

PATIENCE = 5.0  # seconds: enough for rank 0 to find the same error


@contextmanager
def failing_together(trainer: Trainer) -> Iterator[None]:
    """Where one process fails inside, all end, and the one that knows why says it.

    Rank 0 kills the processes that it has started; left alone they would wait for it, or repeat its message. Another
    rank waits for that, since rank 0 may fail for the same reason; if it is still there, it is alone with its error.

    Raises:
        ConnectionError: instead of the error that a process gets whose peer has ended.
    """
    try:
        yield
    except Exception as error:
        if trainer.global_rank > 0:
            time.sleep(PATIENCE)
        elif trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
        if trainer.world_size > 1 and re.search("Connection (closed|reset) by peer", str(error)):
            raise ConnectionError("another process of this command failed; its message says why.") from error
        raise
