"""The README's tables of results, put between its markers so that no number there is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dial.files import atomic_write

CASCADE_COLUMNS = ("expected", "confident", "crossfit", "in_sample")


def fill(readme: Path, tables: Mapping[str, Sequence[str]]) -> None:
    """Put tables between `<!-- NAME -->` and `<!-- end NAME -->` in a file.

    Args:
        readme: file with the markers, which stay.
        tables: lines by name.

    Raises:
        ValueError: a marker is missing; the file is left as it was.
    """
    text = readme.read_text(encoding="utf-8")
    for name, lines in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"`readme` must hold {begin.strip()} and {end} once each, but {readme.name} does not.")
        head, rest = text.split(begin)
        text = head + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1]
    with atomic_write(readme) as temporary:
        temporary.write_text(text, encoding="utf-8")


def speedup_cell(rows: pd.DataFrame) -> str:
    """Median speed-up; in brackets the share of the quality kept on test rows in %, and in how many seeds it held."""
    if rows.empty:
        return "–"
    if rows.only_super.mean() > 0.5:
        return "Super alone"
    return f"{rows.speedup.median():.2f}× ({100 * rows.kept.median():.1f}, {int(rows.held.sum())}/{len(rows)})"


def cascade_lines(frame: pd.DataFrame, times: Mapping[str, Any], target: float = 0.99) -> list[str]:
    """Speed-ups of every cascade and score at one target.

    Args:
        frame: one row per task, swift, seed, score, target and kind.
        times: milliseconds per row by task and tier.
        target: share of the Super's quality.
    """
    head = ["task, Swift", "Swift / Super, %", "ms per row", "score", *CASCADE_COLUMNS, "crossfit, in ms"]
    lines = [f"| {' | '.join(head).replace('_', '-')} |", "|" + "---|" * len(head)]
    for (task, swift), part in frame.groupby(["task", "swift"], sort=False):
        seeds = part.drop_duplicates("seed")
        qualities = [f"{100 * seeds[f'{role}_quality'].median():.1f}" for role in ("swift", "super")]
        tiers = times.get(str(task), {}).get("tiers", {})
        ms = [f"{tiers[name]['median_ms']:.1f}" for name in (swift, "super") if name in tiers]
        plural = "s" if len(seeds) > 1 else ""
        what = [f"{task}, {swift} ({len(seeds)} seed{plural})"]
        what += [f"{' / '.join(qualities)} ({part.metric.iloc[0]})", " / ".join(ms) or "–"]
        for score in dict.fromkeys(part.score):
            rows = part[(part.target == target) & (part.score == score)]
            kinds = {kind: rows[rows.kind == kind] for kind in CASCADE_COLUMNS}
            cells = [*what, score, *map(speedup_cell, kinds.values()), ms_cell(kinds["crossfit"])]
            lines.append(f"| {' | '.join(cells)} |")
            what = ["", "", ""]
    return lines


def ms_cell(rows: pd.DataFrame) -> str:
    """Median speed-up in measured time."""
    known = "ms_speedup" in rows and rows.ms_speedup.notna().any()
    return f"{rows.ms_speedup.median():.2f}×" if known else "–"
