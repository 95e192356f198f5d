"""Predictions on their way to disk: what is there after a crash is whole rows, and tells where to go on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.scratch import remove_scratch
from dial.claims import check_parent, check_same
from dial.files import atomic_write, plain, write_json

SCHEMA = 1
MANIFEST, SKIPPED = "manifest.json", "skipped.jsonl"
Record = dict[str, Any]


@dataclass
class Totals:
    """What all rows written so far add up to.

    Attributes:
        rows: predictions.
        next_row: index of the first input row that has no prediction.
        stages: predictions by the name of the stage that gave them.
        macs: of all rows.
        reference_macs: of all rows without routing.
        truncated: rows that a tier read cut to its maximum length.
        truncated_by: the same by the tier's name.
        limited: answers that a decoder's limit cut off.
        estimated: rows of whose ``reference_macs`` the reference's text is not known.
    """

    rows: int = 0
    next_row: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    macs: float = 0.0
    reference_macs: float = 0.0
    truncated: int = 0
    truncated_by: dict[str, int] = field(default_factory=dict)
    limited: int = 0
    estimated: int = 0

    def add(self, record: Record) -> None:
        """One more row, which comes after all others."""
        self.rows, self.next_row = self.rows + 1, record["row"] + 1
        self.stages[record["stage"]] = self.stages.get(record["stage"], 0) + 1
        self.macs += record["macs"] or 0.0
        self.reference_macs += record["reference_macs"] or 0.0
        self.limited += bool(record.get("limited"))
        self.estimated += bool(record.get("reference_estimated"))
        tiers = record.get("truncated") or ()  # outputs that an earlier version began lack it
        self.truncated += bool(tiers)
        for tier in tiers:
            self.truncated_by[tier] = self.truncated_by.get(tier, 0) + 1


class Output:
    """A place for predictions, claimed by a manifest that says what they were made of.

    Args:
        path: file or folder of the predictions.
        settings: what the predictions depend on, as plain values; a killed run goes on only with the same.
        argument: how the user calls ``path``.

    Attributes:
        totals: what is on the disk.
        lost_lines: lines behind the first of each row that gets no prediction.
        pause: seconds between two flushes.
        finished: the manifest of a run that is complete, else None.
        begun: what :meth:`begin` was given, by this run or the one that it goes on with; None: nothing yet.

    Raises:
        ValueError: something else is there, or another process writes there.
    """

    pause = 1.0
    finished: dict[str, Any] | None
    begun: dict[str, Any] | None = None

    def __init__(self, path: Path, settings: dict[str, Any], argument: str = "--out") -> None:
        self._begin(path, settings, argument)
        check_parent(path.parent, argument)
        known = self._read_manifest()
        if known is None and self.skipped.exists():
            raise ValueError(
                f"`{argument}` {path} needs the name {self.skipped}, which exists and is not of `dial predict`; "
                "name another, or move it."
            )
        if known is None or not path.exists():  # a manifest alone is left of an output that was removed
            if self._occupied():
                raise ValueError(
                    f"`{argument}` must not exist yet, but {path} does, and is no output of `dial predict`; "
                    "name another, or remove it."
                )
            self._prepare()
            write_json(self.manifest, {"schema": SCHEMA, "finished": False, "settings": self.settings})
        else:
            self._check_same(known)
            self.begun = known.get("begun")
            if known["finished"]:
                self.finished = known
                return
        self._prepare()
        self._claim()
        try:
            remove_scratch(self.manifest.parent)
            self.totals = self._recover()
            self._recover_skipped()
        except BaseException:
            self.close()
            raise

    def _begin(self, path: Path, settings: dict[str, Any], argument: str) -> None:
        self.path, self.argument = path, argument
        self.settings: dict[str, Any] = plain(settings)
        self.totals = Totals()
        self.lost_lines = 0
        self.finished = None
        self._skipped: list[Record] = []
        self._lock: int | None = None

    @property
    def manifest(self) -> Path:
        """Where the manifest lies."""
        raise NotImplementedError

    @property
    def skipped(self) -> Path:
        """Where rows without prediction are listed."""
        raise NotImplementedError

    def begin(self, about: dict[str, Any]) -> None:
        """Remember what was found out before the first row, for a run that goes on.

        Args:
            about: plain values.
        """
        self.begun = plain(about)
        write_json(self.manifest, {"schema": SCHEMA, "finished": False, "settings": self.settings, "begun": self.begun})

    def write(self, records: Sequence[Record]) -> None:
        """Take predictions in the order of their rows; they are on disk after :meth:`flush`."""
        raise NotImplementedError

    def skip(self, record: Record) -> None:
        """Take a row that gets no prediction; ``lines`` says how many it takes, where it is not one."""
        self.lost_lines += record.get("lines", 1) - 1
        self._skipped.append(record)

    def left_out(self) -> int:
        """Rows that got no prediction."""
        if not self.skipped.is_file():
            return 0
        with self.skipped.open("rb") as file:
            return sum(1 for _ in file)

    def flush(self) -> None:
        """Have what was taken on disk; rows skipped first, as where to go on follows from the predictions."""
        raise NotImplementedError

    def finish(self, about: dict[str, Any]) -> dict[str, Any]:
        """Flush, and write the manifest of a complete run.

        Args:
            about: figures to add.
        """
        self.flush()
        self._flush_skipped(None)
        manifest: dict[str, Any] = plain(
            {"schema": SCHEMA, "finished": True, "settings": self.settings, **about, **self._files()}
        )
        write_json(self.manifest, manifest)
        self.close()
        return manifest

    def close(self) -> None:
        """Let go of the place."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _occupied(self) -> bool:
        return self.path.exists()

    def _prepare(self) -> None:
        """What must be there to be claimed: for a folder the folder."""

    def _recover(self) -> Totals:
        """Drop what a crash left half-written; add up the rest."""
        raise NotImplementedError

    def _files(self) -> dict[str, Any]:
        return {}

    def _read_manifest(self) -> dict[str, Any] | None:
        """The manifest of an earlier run, None where there is none; a file of somebody else is refused."""
        if not self.manifest.is_file():
            return None
        try:
            known: dict[str, Any] = json.loads(self.manifest.read_text())
            if known["schema"] != SCHEMA or "settings" not in known:
                raise KeyError("schema")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"`{self.argument}` must be new or an output of `dial predict`, but {self.manifest} is no manifest; "
                "name another, or remove it."
            ) from error
        return known

    def _check_same(self, known: dict[str, Any]) -> None:
        holds = f"`{self.argument}` {self.path} holds predictions of another input or rule"
        check_same(holds, known["settings"], self.settings, "name another, or remove it")

    def _claim(self) -> None:
        """Keep other processes out until this one ends, however it ends."""
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ValueError(f"`{self.argument}` {self.path} is being written by another `dial predict`.") from None
        except OSError:
            pass  # a file system without locks

    def _recover_skipped(self) -> None:
        """Keep the rows skipped before the last prediction; those after it will be met again."""
        if self.skipped.is_file():
            found = [record for record, _ in whole_lines(self.skipped, self.argument)]
            kept = [record for record in found if record["row"] < self.totals.next_row]
            self.lost_lines = sum(record.get("lines", 1) - 1 for record in kept)
            with atomic_write(self.skipped) as scratch:
                scratch.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))

    def _flush_skipped(self, before: int | None) -> None:
        """Write the rows skipped before a row, or all of them."""
        due = [record for record in self._skipped if before is None or record["row"] < before]
        if due:
            with self.skipped.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in due))
                file.flush()
                os.fsync(file.fileno())
            # They ascend, so these come first. In place: another thread may append at this moment.
            del self._skipped[: len(due)]


def whole_lines(path: Path, argument: str) -> Iterator[tuple[Record, int]]:
    """The records of a file of JSON lines, each with the bytes up to its end; a last line that is torn is left out.

    Raises:
        ValueError: a line before the last is broken, or rows do not ascend: no crash does that.
    """
    size, row, torn = 0, -1, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if torn:
                raise ValueError(
                    f"`{argument}`: {path}, line {torn}, is no record of `dial predict`; name another, or remove it."
                )
            try:
                record = json.loads(line) if line.endswith(b"\n") else {}
            except ValueError:
                record = {}
            if not isinstance(record, dict) or not isinstance(record.get("row"), int) or record["row"] <= row:
                torn = number
                continue
            row, size = record["row"], size + len(line)
            yield record, size
