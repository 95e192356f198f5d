"""Calibration rows of the user's own in a run folder: what `dial calibrate` leaves and `dial predict` reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dial.files import read_json, write_json
from dial.stages.parquet import load_table, save_table
from dial.stages.table import StageTable

FOLDER, ABOUT, TABLE, SCHEMA = "calibration", "calibration.json", "stages.parquet", 1


@dataclass(frozen=True)
class Calibration:
    """A folder of calibration rows.

    Attributes:
        folder: where it is.
        about: `file`, `content` (a hash), `rows`, `metric`, `tiers` (their fingerprints).
    """

    folder: Path
    about: dict[str, Any]

    @classmethod
    def read(cls, run: Path) -> Calibration | None:
        """The one that a run's points are chosen on; None where it has none of its own.

        Raises:
            ValueError: it cannot be read.
        """
        folder = run / FOLDER
        if not (folder / ABOUT).is_file():
            return None
        about = read_json(folder / ABOUT, "run")
        missing = [name for name in ("file", "content", "rows", "metric", "tiers") if name not in about]
        if missing or about.get("schema") != SCHEMA:
            raise ValueError(
                f"`run`: {folder / ABOUT} is not what `dial calibrate` leaves (no {', '.join(missing) or 'schema 1'}); "
                "remove the folder, and calibrate again."
            )
        return cls(folder, about)

    @classmethod
    def write(cls, run: Path, table: StageTable, about: dict[str, Any], replace: bool) -> Calibration:
        """Leave rows in a run folder; those that are there are kept under another name, where they may be replaced.

        Args:
            run: the run folder.
            table: the rows.
            about: see the class.
            replace: whether other rows may give way.

        Raises:
            ValueError: there are other rows.
        """
        check_free(run, str(about["content"]), replace)
        folder = run / FOLDER
        if folder.exists() and (earlier := cls.read(run)) is not None and earlier.about["content"] != about["content"]:
            folder.rename(free_name(run))
        save_table(table, folder / TABLE)
        write_json(folder / ABOUT, {"schema": SCHEMA, **about})  # last: readers look for it
        return cls(folder, about)

    @cached_property
    def table(self) -> StageTable:
        """The rows."""
        return load_table(self.folder / TABLE)

    @property
    def line(self) -> str:
        """What it is, for people."""
        return f"{self.about['rows']:,} rows of {self.about['file']}, by {self.about['metric']}"


def check_free(run: Path, content: str, replace: bool) -> None:
    """Refuse to replace other calibration rows that nobody said may go.

    Raises:
        ValueError: there are some.
    """
    folder = run / FOLDER
    earlier = Calibration.read(run)
    if earlier is None and folder.exists() and any(folder.iterdir()):
        raise ValueError(f"`RUN` holds {folder}, which `dial calibrate` did not write; move it away.")
    if earlier is not None and earlier.about["content"] != content and not replace:
        raise ValueError(
            f"`RUN` is calibrated on other rows already ({earlier.line}); give --replace, which keeps them as "
            f"{free_name(run).name}."
        )


def free_name(run: Path) -> Path:
    """Where an earlier calibration is kept."""
    number = 1
    while (run / f"{FOLDER}-{number}").exists():
        number += 1
    return run / f"{FOLDER}-{number}"
