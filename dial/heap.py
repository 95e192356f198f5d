"""What glibc's allocator does with memory that was freed."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Parameters of `mallopt`, as <malloc.h> numbers them.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
LARGEST = 2**31 - 1  # what `mallopt` takes
# What glibc arrives at by itself where large blocks come and go; once something was set, it adapts no more.
USUAL = {MMAP_MAX: 65_536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}
# Whoever has set one of these has decided about it.
OF_USERS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def of_glibc(name: str) -> Any:
    """A function of glibc, or nothing where another C library is at work."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


@contextmanager
def kept_memory() -> Iterator[bool]:
    """Let freed memory serve the tensors that come next, for as long as this lasts.

    By default a tensor of more than 32 MB is memory that the system maps for it alone, and takes back at its end, and
    so is the end of the heap beyond 64 MB. The next one of that size is paid again: each of its pages is cleared and
    mapped when it is first written. Layers of a model that answers batch after batch ask for the same sizes over and
    over (``benchmarks/bench_heap.py`` has what that takes). A process then holds on to the most that it needed, and
    somewhat more where sizes change, which is why training at a base size does without.

    Yields:
        Whether anything was set: not where the environment says how memory is kept, nor with another C library.
    """
    mallopt = None if any(name in os.environ for name in OF_USERS) else of_glibc("mallopt")
    if mallopt is None:
        yield False
        return
    mallopt(MMAP_MAX, 0)
    mallopt(TRIM_THRESHOLD, LARGEST)
    try:
        yield True
    finally:
        for parameter, value in USUAL.items():
            mallopt(parameter, value)
        return_memory()


def return_memory() -> bool:
    """Give freed memory back to the system, also from gaps between blocks that stay.

    Returns:
        Whether it could be: not with another C library than glibc.
    """
    trim = of_glibc("malloc_trim")
    if trim is not None:
        trim(0)
    return trim is not None
