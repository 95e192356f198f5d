"""One process at a time: a lock that goes with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def alone(lock: Path, refusal: str, inherited: bool = False) -> Iterator[None]:
    """Hold a lock file within this context; it leaves nothing behind, unless the process is killed.

    Args:
        lock: the file; its folder is created, and removed again if it stays empty.
        refusal: what to say where another process holds it.
        inherited: whether commands that this process starts hold it as well, should they live on. Processes that are
            forked, such as loader workers, hold it then, too.

    Raises:
        ValueError: another process holds it.
    """
    made = not lock.parent.exists()
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(lock, refusal, inherited)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is held, so that nobody's lock but our own can be removed
        os.close(handle)
        if made:
            with suppress(OSError):
                lock.parent.rmdir()


def _acquire(lock: Path, refusal: str, inherited: bool) -> int:
    """Descriptor of the locked file.

    A lock of ``flock`` belongs to the open file, which children share; one of ``lockf`` to this process alone.
    """
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        os.set_inheritable(handle, inherited)
        try:
            (fcntl.flock if inherited else fcntl.lockf)(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(handle)
            raise ValueError(refusal) from None
        except OSError:
            pass  # a file system without locks
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        os.close(handle)  # the one who held it has just removed it
