"""Write `results/README.md` and `results/results.csv` from the summaries that `make results` left.

Numbers are medians over the seeds. A speed-up in milliseconds is put together as TangoBERT does (section 5.5): the time
of the Super over that of the Swift for all rows plus that of the Super for the rows that go on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dial.files import atomic_write
from scripts import exits_table, measured_table
from scripts.readme_tables import cascade_lines, fill
from scripts.results import SEEDS, plan, swifts_of
from scripts.results_exits import CLASSIFICATION, REGRESSION
from scripts.results_steps import ROOT, cell, crossfit_of, sweep_of

TARGETS, SCORES = (0.99, 0.98), ("energy", "softmax", "random")
KINDS = {
    "expected": "expected",
    "confident": "confident",
    "crossfit": "confident, crossfit",
    "in_sample": "in-sample",
}
WORTH = 1.05  # a smaller speed-up counts as nothing saved


def cascade_ms(shares: Sequence[float], milliseconds: Sequence[float]) -> float:
    """Mean milliseconds per row of a cascade.

    Args:
        shares: of the rows that each tier answers.
        milliseconds: per row of each tier, in the same order.

    >>> cascade_ms([0.75, 0.25], [2.0, 12.0])
    5.0
    """
    paid = [sum(milliseconds[: i + 1]) for i in range(len(milliseconds))]
    return sum(share * cost for share, cost in zip(shares, paid, strict=True))


def points(summary: Mapping[str, Any], times: Mapping[str, float] | None, swift: str) -> Iterator[dict[str, Any]]:
    """One flat row per score, target and kind of a cascade's summary.

    Args:
        summary: content of `summary.json`.
        times: milliseconds per row by tier, if they were measured.
        swift: name of the first tier among the times.
    """
    (split,) = summary["splits"].values()
    first, last = split["stages"][0], split["stages"][-1]
    metric = summary["metrics"][0]
    tiers = {"swift_quality": first["quality"][metric], "super_quality": last["quality"][metric]}
    tiers |= {"swift_macs": first["macs"], "super_macs": split["reference_macs"]}
    for point in split["points"]:
        wanted = point["score"] in SCORES and point["rule"] == "threshold" and point["kind"] in KINDS
        if not wanted or point["target"] not in TARGETS:
            continue
        alone = bool(point.get("only_super")) or point["swift_ratio"] == 0
        low, high = point["speedup_interval"] or (None, None)
        row = {key: point[key] for key in ("score", "target", "kind", "kept", "held", "swift_ratio")}
        row |= {"metric": metric, "only_super": alone, "speedup_low": low, "speedup_high": high, **tiers}
        # Who finds that only the Super qualifies runs it alone, without a Swift before it.
        row["speedup"] = 1.0 if alone else point["speedup"]
        row["kept"] = 1.0 if alone else row["kept"]
        if times:
            cost = cascade_ms(list(point["shares"].values()), [times[swift], times["super"]])
            row["ms_speedup"] = 1.0 if alone else times["super"] / cost
        yield row


def pair_of(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Energy minus softmax in normalised area, with its paired interval; None where it is undefined."""
    (split,) = summary["splits"].values()
    for pair in split["pairs"]:
        sign = {("energy", "softmax"): 1, ("softmax", "energy"): -1}.get((pair["first"], pair["second"]))
        if sign and pair.get("normalised_area_interval"):
            low, high = sorted(sign * bound for bound in pair["normalised_area_interval"])
            return {"difference": sign * pair["normalised_area"], "low": low, "high": high}
    return None


def collect(runs: Path, kept: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Points, comparisons of energy with softmax, and times by task, of all cascades that are done.

    Args:
        runs: folder with the sweeps.
        kept: folder with `<task>/times.json`.
    """
    rows, pairs, times = [], [], {}
    for task, seeds in SEEDS.items():
        if (measured := kept / task / "times.json").is_file():
            times[task] = json.loads(measured.read_text())
        milliseconds = {name: t["median_ms"] for name, t in times.get(task, {}).get("tiers", {}).items()}
        for seed in seeds:
            for swift in swifts_of(task):
                folder, name = cell(str(runs), task, seed), f"cascade-{swift.name}"
                path = Path(sweep_of(folder, name), "summary.json")
                if not path.is_file():
                    print(f"not done yet: {path.relative_to(runs)}")
                    continue
                summary, place = json.loads(path.read_text()), {"task": task, "swift": swift.name, "seed": seed}
                rows += [place | row for row in points(summary, milliseconds, swift.name)]
                crossfit = Path(crossfit_of(folder, name), "summary.json")
                if crossfit.is_file():
                    again = points(json.loads(crossfit.read_text()), milliseconds, swift.name)
                    rows += [place | row | {"kind": "crossfit"} for row in again if row["kind"] == "confident"]
                pairs += [place | pair] if (pair := pair_of(summary)) else []
    return pd.DataFrame(rows), pd.DataFrame(pairs), times


def tier_table(frame: pd.DataFrame, times: Mapping[str, Any]) -> list[str]:
    """Quality, cost and time of each tier."""
    lines = ["| task | tier | metric | quality, % | MFLOPs per row | ms per row |", "|---|---|---|---|---|---|"]
    for task, rows in frame.groupby("task", sort=False):
        swifts = rows.groupby("swift", sort=False)
        for name, part, role in [("super", rows, "super"), *((swift, part, "swift") for swift, part in swifts)]:
            each = part.drop_duplicates("seed")
            quality = 100 * each[f"{role}_quality"]
            spread = f" ({quality.min():.1f} to {quality.max():.1f})" if len(each) > 1 else ""
            flops = 2e-6 * each[f"{role}_macs"].median()
            ms = times.get(str(task), {}).get("tiers", {}).get(name)
            time = f"{ms['median_ms']:.2f} ({ms['low_ms']:.2f} to {ms['high_ms']:.2f})" if ms else "–"
            cells = [task, name, each.metric.iloc[0], f"{quality.median():.1f}{spread}", f"{flops:,.1f}", time]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def point_text(rows: pd.DataFrame, column: str = "speedup") -> str:
    """A cell: median speed-up, what was kept of the Super on test rows, and in how many seeds the target held."""
    if rows.empty or column not in rows or rows[column].isna().all():
        return "–"
    if rows.only_super.mean() > 0.5:
        return "Super alone"
    if column != "speedup":
        return f"{rows[column].median():.2f}×"
    return f"{rows.speedup.median():.2f}× ({100 * rows.kept.median():.1f} %, {int(rows.held.sum())}/{len(rows)})"


def numbered(frame: pd.DataFrame) -> list[tuple[int, str, str]]:
    """Number, task and Swift of each cascade."""
    pairs = dict.fromkeys(zip(frame.task, frame.swift, strict=True))
    return [(number, task, swift) for number, (task, swift) in enumerate(pairs, 1)]


def speedup_table(frame: pd.DataFrame, target: float) -> list[str]:
    """Speed-ups at one target for every cascade and score."""
    head = ["row", "task", "Swift", "score", *KINDS.values(), "ms, expected", "ms, confident", "seeds"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for number, task, swift in numbered(frame):
        part = frame[(frame.task == task) & (frame.swift == swift) & (frame.target == target)]
        for score in SCORES:
            rows = {kind: part[(part.score == score) & (part.kind == kind)] for kind in KINDS}
            cells = [point_text(rows[kind]) for kind in KINDS]
            cells += [point_text(rows[kind], "ms_speedup") for kind in ("expected", "confident")]
            seeds = ", ".join(map(str, sorted(part.seed.unique())))
            lines.append(f"| {' | '.join([str(number), task, swift, score, *cells, seeds])} |")
    return lines


def statements(frame: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """Where energy does or does not beat softmax, and where nothing is to be saved, in plain words."""
    lines = []
    for _, task, swift in numbered(frame):
        part = frame[(frame.task == task) & (frame.swift == swift)]
        these = pairs[(pairs.task == task) & (pairs.swift == swift)] if len(pairs) else pairs
        chosen = part[(part.kind == "confident") & (part.score != "random")]
        best = chosen.groupby(["target", "score"]).speedup.median().groupby("target").max()
        hopeless = [f"{100 * target:g} %" for target in TARGETS if best[target] < WORTH]
        saved = f"; nothing to be saved with confidence at {' and '.join(hopeless)} of the Super" if hopeless else ""
        lines.append(f"- {task}, {swift}: {verdict(these, part.seed.nunique())}{saved}.")
    return lines


def verdict(pairs: pd.DataFrame, seeds: int) -> str:
    """Energy against softmax by the paired intervals of one cascade's seeds."""
    if pairs.empty:
        return "energy cannot be compared with softmax, as the Super is not better than the Swift"
    better, worse = int((pairs.low > 0).sum()), int((pairs.high < 0).sum())
    median = f"(normalised area {pairs.difference.median():+.3f}, median)"
    if not better and not worse:
        return f"energy does not differ from softmax beyond noise in any of {seeds} seeds {median}"
    return f"energy routes better than softmax in {better} and worse in {worse} of {seeds} seeds {median}"


def commands(frame: pd.DataFrame, data: str, models: str) -> list[str]:
    """The commands of each row with its first seed."""
    known = {step.name: str(step) for step in plan(data, models)}
    lines = []
    for number, task, swift in numbered(frame):
        base = f"{task}/seed{SEEDS[task][0]}"
        cascade = f"cascade-{swift}"
        names = ("super", swift, cascade, *(f"{cascade}/{what}" for what in ("table", "sweep", "crossfit")))
        steps = [known[f"{base}/{name}"] for name in names]
        lines += [f"# row {number}: {task}, {swift}", *steps]
    return lines


def timing(times: Mapping[str, Any]) -> str:
    """How milliseconds were measured."""
    if not times:
        return "Time was not measured."
    how = next(iter(times.values()))
    after = f" ({how['note']})" if "note" in how else ""
    return (
        f"Time: batch 1, {how['threads']} threads, {how['dtype']}, {how['rows']} test rows without padding, tiers "
        f"interleaved; median and range of {how['repeats']} repeats{after}."
    )


NOTES = """\
Speed-up in FLOPs against the Super alone; in brackets the quality kept on test rows, and in how many seeds the target
held there. *Expected* and *confident* (0.9) points were chosen on calibration rows cut from the training split;
*crossfit* ones on four fifths of the test rows and reported on the other; *in-sample* ones, as in papers, on the test
rows themselves. ms: speed-up in measured time. *Super alone*: no cheaper point qualifies.
"""


def sections_of(page: Path) -> dict[str, str]:
    """Titles and texts of a page that :func:`write` wrote; none where there is no page."""
    if not page.is_file():
        return {}
    _, *parts = page.read_text(encoding="utf-8").split("\n## ")
    return {title: body.strip() for title, _, body in (part.partition("\n") for part in parts)}


def write(runs: Path, out: Path, data: str, models: str, readme: Path | None = None) -> None:
    """Write both files, and the tables of the README if one is given; what was not measured again stays as it is.

    Args:
        runs: folder with the sweeps.
        out: folder of the results, with what was measured.
        data: as for `make results`.
        models: as for `make results`.
        readme: file whose marked tables are written anew.

    Raises:
        ValueError: no cascade is done.
    """
    frame, pairs, times = collect(runs, out)
    if frame.empty:
        raise ValueError(f"`runs` must hold tested cascades, but {runs} has none; run `make results` first.")
    records = exits_table.collect(runs, (*CLASSIFICATION, *REGRESSION))
    measured = measured_table.collect(runs, out)
    earlier = sections_of(out / "README.md")
    sections = {
        "Results": "Written by `make results`. Quality is that on the official validation split; medians over seeds.",
        "Tiers": "\n".join([*tier_table(frame, times), "", timing(times)]),
        **{f"Speed-up at {100 * t:g} % of the Super": "\n".join(speedup_table(frame, t)) for t in TARGETS},
        "What the numbers say": "\n".join([NOTES, *statements(frame, pairs)]),
        **exits_table.sections(records, data, models),
        **measured_table.sections(measured, data, models, earlier),
        "Commands": "First seed of each row; for the others put `seed1` and `1` where it says `seed0` and `0`. The "
        "tables that `dial test` leaves are kept here, so the sweeps need no model.\n\n```\n"
        + "\n".join(commands(frame, data, models))
        + "\n```",
    }
    text = "\n".join(f"{'#' if title == 'Results' else '##'} {title}\n\n{body}\n" for title, body in sections.items())
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "results.csv") as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g")
    with atomic_write(out / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    if records:
        with atomic_write(out / "exits.csv") as temporary:
            exits_table.frame(records).to_csv(temporary, index=False, float_format="%.6g")
    list(measured_table.figures(measured, out))
    if readme is not None:
        tables = {"cascades": cascade_lines(frame, times), **measured_table.tables(measured)}
        if records:
            tables |= {"layers": exits_table.layer_lines(records), "exits": exits_table.exit_lines(records)}
        fill(readme, tables)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default=str(ROOT / "runs/results"))
    parser.add_argument("--out", default=str(ROOT / "results"))
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--models", default="../shared/models")
    parser.add_argument("--readme", default=str(ROOT / "README.md"), help="file whose marked tables are written anew")
    options = parser.parse_args()
    write(Path(options.runs), Path(options.out), options.data, options.models, Path(options.readme))
