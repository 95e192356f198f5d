"""Outputs of predictions: a file of JSON lines, as it is or compressed, standard output, a folder of parquet parts."""

from __future__ import annotations

import gzip
import json
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.printing import printable
from dial.cli.records import MANIFEST, SKIPPED, Output, Record, Totals, whole_lines
from dial.files import atomic_write, readable
from dial.parquet_checks import whole_parquet

PART_ROWS = 50_000
MEMBER, BLOCK = 2**22, 2**16  # bytes of lines in a gzip member at most, and that are read at once
COUNTED = ("row", "stage", "macs", "reference_macs", "reference_estimated", "truncated", "limited")
"""What totals are made of."""


class JsonLines(Output):
    """One JSON object a line, in one file; the manifest lies beside it."""

    _file: IO[bytes] | None = None
    _failed = False

    @property
    def manifest(self) -> Path:
        """Beside the file."""
        return self.path.with_name(f"{self.path.name}.{MANIFEST}")

    @property
    def skipped(self) -> Path:
        """Beside the file."""
        return self.path.with_name(f"{self.path.name}.{SKIPPED}")

    def write(self, records: Sequence[Record]) -> None:
        """As lines; the system may or may not have them on disk yet."""
        if not records or self._failed:
            return
        self._failed = True  # until it is done: after half a line nothing may follow
        self._flush_skipped(records[-1]["row"])
        if self._file is None:
            self._file = self.path.open("ab")
        self._append(self._file, encoded(records))
        for record in records:
            self.totals.add(record)
        self._failed = False

    def _append(self, file: IO[bytes], content: bytes) -> None:
        file.write(content)

    def flush(self) -> None:
        """Lines are on disk."""
        if self._file is not None and not self._failed:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, too."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _claim(self) -> None:
        self.path.touch()
        super()._claim()

    def _recover(self) -> Totals:
        totals, size = Totals(), 0
        for record, end in self._written():
            with readable(self.path, self.argument, "Name another, or remove it."):
                totals.add({"macs": None, "reference_macs": None, **record})
            size = end
        os.truncate(self.path, size)
        return totals

    def _written(self) -> Iterator[tuple[Record, int]]:
        """Records that are in the file, each with the bytes to keep for it and those before."""
        return whole_lines(self.path, self.argument)


class CompressedJsonLines(JsonLines):
    """The same compressed by gzip: what two flushes write is a member of its own, so that whole members stay readable.

    Lines wait until there are enough, or until the next flush.
    """

    pause = 10.0
    _pending = b""

    def _append(self, file: IO[bytes], content: bytes) -> None:
        self._pending += content
        if len(self._pending) >= MEMBER:
            self._member(file)

    def _member(self, file: IO[bytes]) -> None:
        content, self._pending = self._pending, b""
        if content:
            self._failed = True  # until it is done
            file.write(gzip.compress(content, compresslevel=6, mtime=0))
            self._failed = False

    def flush(self) -> None:
        """Lines are on disk."""
        if self._file is not None and not self._failed:
            self._member(self._file)
        super().flush()

    def _written(self) -> Iterator[tuple[Record, int]]:
        for content, end in members(self.path):
            for line in content.splitlines():
                with readable(self.path, self.argument, "Name another, or remove it."):
                    record = dict(json.loads(line))
                yield record, end


class StandardOutput(Output):
    """JSON lines to standard output; rows without a prediction are said on standard error, and nothing is kept.

    Args:
        file: where lines go.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._begin(Path("standard output"), {}, "--out")
        self._file, self._count = file, 0

    @property
    def skipped(self) -> None:  # type: ignore[override]
        """Nowhere."""

    def begin(self, about: dict[str, Any]) -> None:
        """No run goes on."""
        self.begun = about

    def write(self, records: Sequence[Record]) -> None:
        """As lines."""
        if records:
            self._file.write(encoded(records))
        for record in records:
            self.totals.add(record)

    def skip(self, record: Record) -> None:
        """Say it."""
        super().skip(record)
        self._skipped.clear()
        self._count += 1
        print(f"left out: {record['place']} {printable(record['problem'])}", file=sys.stderr)

    def left_out(self) -> int:
        """Rows that got no prediction."""
        return self._count

    def flush(self) -> None:
        """Have the reader see what was written."""
        self._file.flush()

    def finish(self, about: dict[str, Any]) -> dict[str, Any]:
        """Flush; there is no manifest."""
        self.flush()
        return about


class Parts(Output):
    """Parquet files ``part-00000.parquet`` and so on in a folder, each whole or absent, with the manifest.

    Args:
        path: as for :class:`Output`.
        settings: as for :class:`Output`.
        argument: as for :class:`Output`.
        part_rows: rows of a part; a killed run repeats at most those of one.
    """

    pause = 120.0

    def __init__(
        self, path: Path, settings: dict[str, Any], argument: str = "--out", part_rows: int = PART_ROWS
    ) -> None:
        self.part_rows = part_rows
        self._waiting: list[Record] = []
        super().__init__(path, settings, argument)

    @property
    def manifest(self) -> Path:
        """In the folder; readers of a folder of parquet files leave out what begins with an underscore."""
        return self.path / f"_{MANIFEST}"

    @property
    def skipped(self) -> Path:
        """In the folder, with an underscore, too."""
        return self.path / f"_{SKIPPED}"

    @property
    def parts(self) -> list[Path]:
        """Parts that are there, in order."""
        return sorted(self.path.glob("part-*.parquet"))

    def write(self, records: Sequence[Record]) -> None:
        """They wait until there are enough for a part."""
        self._waiting += records
        while len(self._waiting) >= self.part_rows:
            self._part(self._waiting[: self.part_rows])

    def flush(self) -> None:
        """Write what waits as a part of its own."""
        if self._waiting:
            self._part(self._waiting)

    def _part(self, records: list[Record]) -> None:
        """Writes the first of the waiting records as the next part, whole or not at all."""
        self._flush_skipped(records[-1]["row"])
        kinds = {
            "row": pa.int64(),
            "limited": pa.bool_(),
            "reference_estimated": pa.bool_(),
            "truncated": pa.list_(pa.string()),
            "span": pa.list_(pa.int64()),
        }
        kinds |= dict.fromkeys(("id", "text", "label_name", "stage"), pa.string())
        if "label_name" in records[0]:
            kinds["prediction"] = pa.int64()
        schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in records[0]])
        table = pa.Table.from_pylist(records, schema)
        with atomic_write(self.path / f"part-{len(self.parts):05d}.parquet") as scratch:
            pq.write_table(table, scratch)
        for record in records:
            self.totals.add(record)
        self._waiting = self._waiting[len(records) :]

    def _occupied(self) -> bool:
        return self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))

    def _prepare(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def _files(self) -> dict[str, Any]:
        return {"parts": [{"file": path.name, "rows": pq.read_metadata(path).num_rows} for path in self.parts]}

    def _recover(self) -> Totals:
        """Totals of the parts that an earlier run left; what it left of half a part goes."""
        totals = Totals()
        for number, path in enumerate(self.parts):
            if path.name != f"part-{number:05d}.parquet":
                raise ValueError(f"`{self.argument}` {self.path} lacks part-{number:05d}.parquet; remove the folder.")
            with whole_parquet(path, self.argument), readable(path, self.argument, "Remove the folder."):
                columns = [name for name in pq.read_schema(path).names if name in COUNTED]
                for record in pq.read_table(path, columns=columns).to_pylist():
                    totals.add(record)
        return totals


def members(path: Path) -> Iterator[tuple[bytes, int]]:
    """Content of each whole member of a gzip file, and the bytes up to its end; a torn last one is left out."""
    with path.open("rb") as file:
        end, rest = 0, b""
        while rest := rest or file.read(BLOCK):
            decompress, parts = zlib.decompressobj(wbits=31), []
            while not decompress.eof:
                try:
                    parts.append(decompress.decompress(rest))
                except zlib.error:
                    return
                end += len(rest) - len(decompress.unused_data)
                rest = decompress.unused_data
                if not decompress.eof and not (rest := file.read(BLOCK)):
                    return
            yield b"".join(parts), end


def encoded(records: Sequence[Record]) -> bytes:
    """Records as lines of JSON."""
    return "".join(json.dumps(shown(record), ensure_ascii=False) + "\n" for record in records).encode()


def shown(record: Record) -> Record:
    """A record without what is not known (the score of a last stage that has none)."""
    return {key: value for key, value in record.items() if value is not None}
