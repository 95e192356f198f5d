"""How far a study is, for whoever waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Parts:
    """Says how many parts of some work are done, and about how long the others take.

    Args:
        count: parts in all.
        say: gets a line.
        every_seconds: between two lines at least.
    """

    def __init__(self, count: int, say: Callable[[str], None], every_seconds: float = 30.0) -> None:
        self.count, self.say, self.every_seconds = count, say, every_seconds
        self._done, self._began = 0, time.monotonic()
        self._last = self._began

    def done(self) -> None:
        """One more is done."""
        self._done, now = self._done + 1, time.monotonic()
        if now - self._last < self.every_seconds or self._done == self.count:
            return
        self._last = now
        minutes = (now - self._began) / self._done * (self.count - self._done) / 60
        self.say(f"study: {self._done} of {self.count} parts, about {minutes:.1f} minutes left")
