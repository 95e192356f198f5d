"""What `results/cascades.md` says of cascades of two tiers: quality and cost, speed-up, energy against softmax.

Numbers are medians over the seeds. A speed-up in milliseconds is put together as TangoBERT does (section 5.5): the time
of the Super over that of the Swift for all rows plus that of the Super for the rows that are deferred.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.markdown import code, grid
from scripts.results_cell import Cell, crossfit_of, sweep_of
from scripts.results_plan import SEEDS, plan, swifts_of

TARGETS, SCORES = (0.99, 0.98), ("energy", "softmax", "random")
KINDS = {"expected": "expected", "confident": "confident", "crossfit": "crossfit", "in_sample": "in-sample"}
IN_TIME = ("expected", "confident", "crossfit")
RULES = ("threshold", "per_stage", "oracle")  # of kinds and scores to show
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


def points(
    summary: Mapping[str, Any],
    times: Mapping[str, float],
    swift: str,
    targets: Sequence[float] = TARGETS,
    scores: Sequence[str] = SCORES,
    kinds: Collection[str] = tuple(KINDS),
) -> Iterator[dict[str, Any]]:
    """One flat row per score, target and kind of the summary of a cascade, or of a model with exits.

    Args:
        summary: content of `summary.json`.
        times: milliseconds per row by tier; empty where they were not measured.
        swift: name of the first tier among the times.
        targets: shares of the Super's quality to show.
        scores: to show; `oracle` is one.
        kinds: of points to show.
    """
    (split,) = summary["splits"].values()
    first, last = split["stages"][0], split["stages"][-1]
    metric = summary["metrics"][0]
    tiers = {"swift_quality": first["quality"][metric], "super_quality": last["quality"][metric]}
    tiers |= {"swift_macs": first["macs"], "super_macs": split["reference_macs"]}
    for point in split["points"]:
        shown = point["score"] in scores and point["rule"] in RULES and point["kind"] in kinds
        if not shown or point["target"] not in targets:
            continue
        alone = bool(point.get("only_super")) or not any(list(point["shares"].values())[:-1])
        low, high = point["speedup_interval"] or (None, None)
        row = {key: point[key] for key in ("score", "target", "kind", "kept", "held", "swift_ratio")}
        row |= {"metric": metric, "only_super": alone, "speedup_low": low, "speedup_high": high, **tiers}
        # Who sees that only the Super qualifies runs it alone, without a Swift before it.
        row |= {"speedup": 1.0, "kept": 1.0} if alone else {"speedup": point["speedup"]}
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


def times_of(results: Path) -> dict[str, Any]:
    """Milliseconds of the tiers, by task, as `benchmarks/tier_time.py` left them."""
    files = {task: results / task / "times.json" for task in SEEDS}
    return {task: json.loads(path.read_text()) for task, path in files.items() if path.is_file()}


def collect(runs: Path, times: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points, and comparisons of energy with softmax, of all cascades that were swept.

    Args:
        runs: folder with the sweeps.
        times: from :func:`times_of`.
    """
    rows, pairs = [], []
    for task, seeds in SEEDS.items():
        milliseconds = {name: t["median_ms"] for name, t in times.get(task, {}).get("tiers", {}).items()}
        for seed in seeds:
            for swift in swifts_of(task):
                folder, name = Cell(task, seed, runs=str(runs)).folder, f"cascade-{swift.name}"
                path, crossfit = (Path(of(folder, name), "summary.json") for of in (sweep_of, crossfit_of))
                if not path.is_file():
                    print(f"not done yet: {path.relative_to(runs)}")
                    continue
                summary, place = json.loads(path.read_text()), {"task": task, "swift": swift.name, "seed": seed}
                rows += [place | row for row in points(summary, milliseconds, swift.name)]
                if crossfit.is_file():
                    others = points(json.loads(crossfit.read_text()), milliseconds, swift.name)
                    rows += [place | row | {"kind": "crossfit"} for row in others if row["kind"] == "confident"]
                pairs += [place | pair] if (pair := pair_of(summary)) else []
    return pd.DataFrame(rows), pd.DataFrame(pairs)


def tables(
    frame: pd.DataFrame, pairs: pd.DataFrame | None, times: Mapping[str, Any], data: str, models: str
) -> dict[str, str]:
    """What the page shows, by the name of its place; without what there are no numbers for.

    Args:
        frame: points, from :func:`collect` or as they were kept.
        pairs: comparisons of scores; None where none were kept.
        times: from :func:`times_of`.
        data: as for `make results`.
        models: as for `make results`.
    """
    return {
        "tiers": "\n".join([tier_table(frame, times), "", timing(times)]),
        **{f"speedup-{100 * target:g}": speedup_table(frame, target) for target in TARGETS},
        **({} if pairs is None else {"statements": "\n".join(statements(frame, pairs))}),
        "cascade-commands": code(commands(frame, data, models)),
    }


def tier_table(frame: pd.DataFrame, times: Mapping[str, Any]) -> str:
    """Quality, cost and time of each tier."""
    rows = []
    for task, cascades in frame.groupby("task", sort=False):
        swifts = cascades.groupby("swift", sort=False)
        for name, part, role in [("super", cascades, "super"), *((swift, part, "swift") for swift, part in swifts)]:
            each = part.drop_duplicates("seed")
            quality = 100 * each[f"{role}_quality"]
            spread = f" ({quality.min():.1f} to {quality.max():.1f})" if len(each) > 1 else ""
            flops = 2e-6 * each[f"{role}_macs"].median()
            ms = times.get(str(task), {}).get("tiers", {}).get(name)
            time = f"{ms['median_ms']:.2f} ({ms['low_ms']:.2f} to {ms['high_ms']:.2f})" if ms else "–"
            rows.append([task, name, each.metric.iloc[0], f"{quality.median():.1f}{spread}", f"{flops:,.1f}", time])
    return grid(["task", "tier", "metric", "quality, %", "MFLOPs per row", "ms per row"], rows)


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


def speedup_table(frame: pd.DataFrame, target: float) -> str:
    """Speed-ups at one target for every cascade and score."""
    rows = []
    for number, task, swift in numbered(frame):
        part = frame[(frame.task == task) & (frame.swift == swift) & (frame.target == target)]
        seeds = ", ".join(map(str, sorted(part.seed.unique())))
        for score in SCORES:
            by_kind = {kind: part[(part.score == score) & (part.kind == kind)] for kind in KINDS}
            cells = [point_text(by_kind[kind]) for kind in KINDS]
            cells += [point_text(by_kind[kind], "ms_speedup") for kind in IN_TIME]
            rows.append([str(number), task, swift, score, *cells, seeds])
    return grid(["row", "task", "Swift", "score", *KINDS.values(), *(f"ms, {kind}" for kind in IN_TIME), "seeds"], rows)


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
        prefix, cascade = Cell(task).prefix, f"cascade-{swift}"
        names = ("super", swift, cascade, *(f"{cascade}/{what}" for what in ("table", "sweep", "crossfit")))
        lines += [f"# row {number}: {task}, {swift}", *(known[f"{prefix}/{name}"] for name in names)]
    return lines
