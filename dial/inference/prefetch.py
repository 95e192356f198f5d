"""An iterator that is run ahead in another thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
AHEAD = 4  # items that wait at most
PATIENCE = 5.0  # seconds that an unwanted thread, which may wait for its source, is given
POLL = 0.1  # seconds after which a thread that waits for room looks whether it is still wanted


class _Failure:
    """An error of the other thread."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()


@contextmanager
def prefetched(source: Iterator[Item], wanted: bool = True, ahead: int = AHEAD) -> Iterator[Iterator[Item]]:
    """Items of ``source`` in their order, computed in another thread within this context.

    Args:
        source: what to run; only that thread touches it, and its errors come out where its items would.
        wanted: False gives ``source`` itself.
        ahead: items computed before they are asked for, at most.
    """
    if not wanted:
        yield source
        return
    items: queue.Queue[Any] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                items.put(item, timeout=POLL)
                return
            except queue.Full:
                continue

    def work() -> None:
        """Reads ahead until there is no more or the reader stops; an error is handed over like an item."""
        try:
            for item in source:
                put(item)
                if stop.is_set():
                    return
            put(_END)
        except BaseException as error:
            put(_Failure(error))

    thread = threading.Thread(target=work, name="dial-prefetch", daemon=True)
    thread.start()
    try:
        yield _given(items)
    finally:
        stop.set()
        thread.join(PATIENCE)


def _given(items: queue.Queue[Any]) -> Iterator[Any]:
    while True:
        item = items.get()
        if item is _END:
            return
        if isinstance(item, _Failure):
            raise item.error
        yield item
