"""Signals that end a long command, and lines that say how far it is."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from dial.records import Output


class Interrupts:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, but not while something is written.

    Outside of the main thread signals stay what they are.
    """

    def __init__(self) -> None:
        self._held = self._pending = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What arrives within this context is raised at its end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._pending:
                self._pending = False
                raise KeyboardInterrupt

    def _arrived(self, number: int, frame: Any) -> None:
        if self._held:
            self._pending = True
        else:
            raise KeyboardInterrupt


class Progress:
    """A line on stderr now and then: rows, speed, share of each stage, saving so far.

    Args:
        every: seconds; 0 for none.
        output: what it tells of.
    """

    def __init__(self, every: float, output: Output) -> None:
        self.every, self.output = every, output
        self.started = self.last = time.monotonic()
        self.rows = self.first = output.totals.rows

    def __call__(self) -> None:
        """One more row."""
        self.rows += 1
        now = time.monotonic()
        if self.every and now - self.last >= self.every:
            self.last = now
            speed = (self.rows - self.first) / (now - self.started)
            totals = self.output.totals
            shares = ", ".join(f"{name} {count / max(totals.rows, 1):.0%}" for name, count in totals.stages.items())
            saving = f", {totals.reference_macs / totals.macs:.2f}x fewer MACs" if totals.macs else ""
            cut = f", {totals.truncated:,} truncated" if totals.truncated else ""
            shares = shares or "none written yet"
            print(f"{self.rows:,} rows, {speed:,.0f} rows/s, {shares}{saving}{cut}", file=sys.stderr)
