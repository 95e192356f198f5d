"""Signals that end a long command, and lines that say how far it is."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from dial.cli.records import Output

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = "interrupted; the same command goes on from there"


class Stopped(BaseException):
    """SIGINT or SIGTERM has arrived; no KeyboardInterrupt, of which Lightning makes an exit code of its own."""


class Interrupts:
    """Turns SIGINT and SIGTERM into an exception, but not while something is written.

    Outside of the main thread signals stay what they are. Processes that are forked meanwhile get a KeyboardInterrupt,
    as without this.

    Args:
        kind: the exception; its only argument is the signal's number.

    Attributes:
        arrived: the first signal that came, whether it was raised yet or not.
    """

    def __init__(self, kind: type[BaseException] = KeyboardInterrupt) -> None:
        self.kind = kind
        self.arrived: int | None = None
        self._held = self._pending = False
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.install()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals, again where somebody has taken them since."""
        for number in self._before:
            signal.signal(number, self._arrive)

    @property
    def pending(self) -> bool:
        """Whether a signal is held back."""
        return self._pending

    def hold(self) -> None:
        """Hold back what arrives until :meth:`release`."""
        self._held = True

    def release(self) -> None:
        """Raise what has arrived since :meth:`hold`."""
        self._held = False
        if self._pending:
            self._pending = False
            raise self.kind(self.arrived)

    def insist(self) -> None:
        """Raise once more what was raised and lost: Python ignores exceptions in finalisers, for example."""
        if self.arrived is not None and not self._pending:
            raise self.kind(self.arrived)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What arrives within this context is raised at its end."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def code(self, error: BaseException) -> int | None:
        """The exit code where an error ends a command because of a signal; None where it has another reason.

        The error need not be the exception of this class: Python makes a RuntimeError of it in the middle of a class
        body, and what is half imported then fails in ways of its own.
        """
        if self.arrived is not None:
            return 128 + self.arrived
        return exit_code(error) if isinstance(error, KeyboardInterrupt) else None

    def _arrive(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            raise KeyboardInterrupt
        self.arrived = self.arrived or number
        if self._held:
            self._pending = True
        else:
            raise self.kind(number)


def exit_code(error: BaseException) -> int:
    """What a shell would give for a command that a signal ended: 130 for SIGINT, 143 for SIGTERM.

    >>> exit_code(KeyboardInterrupt()), exit_code(KeyboardInterrupt(signal.SIGTERM))
    (130, 143)
    """
    told = error.args[0] if error.args else None
    return 128 + (told if isinstance(told, int) else signal.SIGINT)


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
            saving = f", {times_macs(totals.reference_macs / totals.macs)}" if totals.macs else ""
            cut = f", {totals.truncated:,} truncated" if totals.truncated else ""
            shares = shares or "none written yet"
            print(f"{self.rows:,} rows, {speed:,.0f} rows/s, {shares}{saving}{cut}", file=sys.stderr)


def times_macs(speedup: float) -> str:
    """How many times fewer MACs, or more where routing costs more than it saves.

    Args:
        speedup: MACs without routing through those with it, above 0.

    >>> times_macs(2.0), times_macs(0.8)
    ('2.00x fewer MACs', '1.25x more MACs')
    """
    return f"{speedup:.2f}x fewer MACs" if speedup >= 1 else f"{1 / speedup:.2f}x more MACs"
