"""Where the bytes of a file of rows come from: a file, one compressed by gzip, or standard input."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast
from zlib import error as ZlibError

GZIP = ".gz"
STANDARD_INPUT = Path("standard input")  # what errors call it


class Stream:
    """Bytes that can be read once, such as standard input. What the first looks at them read is kept for the next.

    Args:
        source: an open binary file.
    """

    def __init__(self, source: BinaryIO) -> None:
        self.source, self.kept, self.whole = source, bytearray(), True

    def open(self, last: bool = False) -> BinaryIO:
        """Read from the beginning.

        Args:
            last: nobody reads again, so nothing more is kept.

        Raises:
            ValueError: after the last.
        """
        if not self.whole:
            raise ValueError("standard input can be read once only; give a file.")
        self.whole = not last
        return io.BufferedReader(_Reading(self, last))


class _Reading(io.RawIOBase):
    def __init__(self, stream: Stream, last: bool) -> None:
        self._stream, self._last, self._place = stream, last, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        kept = self._stream.kept
        if self._place < len(kept):
            content = bytes(kept[self._place : self._place + len(buffer)])
            self._place += len(content)
        else:
            content = cast(io.BufferedReader, self._stream.source).read1(len(buffer))
            if self._last:
                kept.clear()
                self._place = 0
            else:
                kept += content
                self._place += len(content)
        buffer[: len(content)] = content
        return len(content)


def is_gzip(path: Path) -> bool:
    """Whether a file's name says that it is compressed by gzip."""
    return path.suffix.lower() == GZIP


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, one compressed by gzip as what is in it."""
    return cast(IO[bytes], gzip.open(path)) if is_gzip(path) else path.open("rb")


@contextmanager
def whole_gzip(path: Path, argument: str) -> Iterator[None]:
    """Turn what the gzip module raises about a file within this context into one line.

    Raises:
        ValueError: the file is no gzip file, is cut off, or is damaged.
    """
    try:
        yield
    except (EOFError, gzip.BadGzipFile, ZlibError) as error:
        raise ValueError(
            f"`{argument}`: {path} is damaged or not compressed by gzip, and cannot be read to its end: "
            f"{str(error).rstrip('.')}."
        ) from error
