"""New rows out of the rows of a training role: in parallel, in order, and the same whatever the number of processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np

from datamodules.augmentation.methods import Method, Unit
from datamodules.rows import Rows

CHUNK = 128  # rows that a process works on at a time
Given = TypeVar("Given")
Made = TypeVar("Made")


class Source(NamedTuple):
    """A row to start from."""

    sample_id: int
    unit: Unit


class Generated(NamedTuple):
    """Texts made of one row."""

    sample_id: int
    units: list[Unit]


@dataclass
class Generation:
    """Applies a method to rows. What is random depends on the seed and a row's number alone.

    Args:
        method: makes new texts.
        seed: of all that is random.
    """

    method: Method
    seed: int

    def __call__(self, rows: list[Source]) -> list[Generated]:
        """New texts of each row."""
        return [Generated(i, self.method(unit, np.random.default_rng((self.seed, i)))) for i, unit in rows]


def sources(rows: Rows) -> Iterator[list[Source]]:
    """Rows in chunks."""
    return chunks(Source(int(i), unit) for i, unit in zip(rows.sample_id, rows.units(), strict=True))


def chunks(values: Iterable[Given], size: int = CHUNK) -> Iterator[list[Given]]:
    """Lists of ``size`` values, the last one of what remains.

    >>> list(chunks("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    remaining = iter(values)
    while chunk := list(islice(remaining, size)):
        yield chunk


def in_order(work: Callable[[Given], Made], values: Iterable[Given], processes: int) -> Iterator[Made]:
    """Results of a function for values, in their order, computed by several processes; few wait at a time.

    Args:
        work: can be pickled; each process gets it once.
        values: can be pickled.
        processes: 1 computes in this one.
    """
    if processes == 1:
        yield from map(work, values)
        return
    # A new interpreter each: a fork of one with threads (of BLAS, of torch) may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_keep, initargs=(work,)) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for value in values:
                waiting.append(pool.submit(_work, value))
                if len(waiting) > 4 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


_KEPT: list[Callable[[Any], Any]] = []


def _keep(work: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the first process ends the others
    _KEPT[:] = [work]


def _work(value: Any) -> Any:
    return _KEPT[0](value)
