"""The results of a sweep as plain text."""

from collections.abc import Mapping, Sequence
from typing import Any

from dial.report.exits import compression_text, simple_text
from dial.report.remarks import remarks_of
from dial.report.results import PointResult, ScorePair, SplitResult, SweepResults, TargetDifference
from dial.report.tables import amount, budget, percent, table, with_interval
from dial.stages.metrics.metrics import AGREEMENT
from dial.tradeoff.rules import RULES, searched

CHARGED = {
    "true": "Rows are charged at their own length; the padding of batches is not charged (length padded does it).",
    "padded": "Rows are charged at the length that their batch was padded to.",
}


def render(results: SweepResults) -> str:
    """Tables of tiers, operating points, lines to compare with, and scores, for every reported split."""
    parts = [_heading(results), table_text(results.table), compression_text(results)]
    for split, result in results.splits.items():
        parts += [f"{split}: {result.rows:,} rows", _tiers(results, result)]
        if result.points:
            texts = (_points, _rules, simple_text, _lines, _scores)
            parts += [text(results, result) for text in texts]
        if remarks := [f"  {remark}." for remark in remarks_of(results, result)]:
            parts.append("\n".join(["Remarks:", *remarks]))
    return "\n\n".join(part for part in parts if part) + "\n"


def table_text(settings: Mapping[str, Any]) -> str:
    """How rows are charged, how a foreign table was read, and how many repeated rows were left out.

    Args:
        settings: of the stage table.

    Example:
        >>> print(table_text({"length": 128, "repeats": {"test": 3}}))
        Every row is charged at 128 tokens.
        3 repeated rows were left out (3 of test).
    """
    # Milliseconds are of batches as they are executed.
    length = None if settings.get("unit") else settings.get("length")
    lines = [CHARGED.get(length, f"Every row is charged at {length} tokens.")] if length is not None else []
    lines += settings.get("remarks", [])
    if repeats := settings.get("repeats"):
        parts = ", ".join(f"{count:,} of {split}" for split, count in repeats.items())
        total = sum(repeats.values())
        lines.append(f"{total:,} repeated row{'s were' if total > 1 else ' was'} left out ({parts}).")
    return "\n".join(lines)


def quality_name(results: SweepResults) -> str:
    """What the primary metric is, in words."""
    if results.metric == AGREEMENT:
        return f"{AGREEMENT} with {results.stages[-1].name}, as rows have no labels,"
    return results.metric


def _heading(results: SweepResults) -> str:
    """How the numbers below were made: units, intervals, and on which rows points were chosen."""
    chosen = results.calibration
    task = f" of {results.task}" if results.task else ""
    lines = [
        f"Sweep{task}; quality is {quality_name(results)} in %, costs are {results.unit} per row, "
        "brackets are 95 % bootstrap intervals."
    ]
    if results.partial:
        lines.insert(0, "PARTIAL: a trial run on few rows; none of these numbers means anything.")
    if chosen["method"] == "split":
        lines.append(f"Operating points were chosen on the calibration split ({chosen['rows']:,} rows).")
    elif chosen["method"] == "crossfit":
        lines.append(
            f"Operating points were chosen by {chosen['folds']}-fold cross-fitting on the reported rows (crossfit), "
            "without a calibration split."
        )
    if chosen["method"] != "none":
        lines += [
            f"`confident` holds on fresh rows with probability {results.settings.confidence:g}, "
            "`expected` about half the time.",
            "Speed-up is the mean cost of the reference alone over the mean cost; "
            "kept is quality relative to the Super's.",
        ]
    return "\n".join(lines)


def _tiers(results: SweepResults, result: SplitResult) -> str:
    """Table of the stages alone, and of the reference without routing."""
    header = ["stage", *results.metrics, "95 %", "parameters", f"{results.unit} to here", "speed-up"]
    rows = []
    for entry, stage in zip(results.stages, result.stages, strict=True):
        interval = stage.quality_interval
        between = "" if interval is None else f"[{percent(interval[0])}, {percent(interval[1])}]"
        values = [percent(stage.quality[name]) for name in results.metrics]
        cost = [amount(entry.parameters), amount(stage.macs), f"{stage.speedup:.2f}"]
        rows.append([stage.name, *values, between, *cost])
    if len(rows) > 1:
        cost = [amount(result.reference_macs), "1.00"]
        if results.table.get("reference_without_exits"):  # another model, whose quality nobody has measured here
            rows.append(["reference (unpruned, no exits)", *["–"] * len(results.metrics), "", "–", *cost])
        else:
            rows.append(["reference alone", *rows[-1][1 : len(results.metrics) + 1], "", rows[-1][-3], *cost])
    return table(header, rows)


def _row(results: SweepResults, point: PointResult) -> list[str]:
    """Target, reading, speed-up, what was kept, whether it held, and the share of each stage."""
    target = "" if point.kind in ("crossing", "fixed") or point.target is None else f"{100 * point.target:g}"
    target = budget(point.target, results.unit) if point.kind == "budget" else target
    held = {True: "yes", False: "no", None: "–"}[point.held]
    kept = with_interval(point.kept, point.kept_interval, 100, 1)
    shares = [percent(point.shares[name], 0) for name in results.stage_names]
    return [target, point.reading, with_interval(point.speedup, point.speedup_interval), kept, held, *shares]


def _header(results: SweepResults, *more: str) -> list[str]:
    return ["target %", "reading", *more, "speed-up", "kept %", "held", *(f"{name} %" for name in results.stage_names)]


def _points(results: SweepResults, result: SplitResult) -> str:
    """Targets × readings of the first score, then budgets and the crossing."""
    score = results.settings.scores[0]
    points = [
        point
        for target in results.settings.targets
        for kind in ("expected", "confident", *searched(), "in_sample")
        for point in result.select(score=score, kind=kind, target=target)
    ]
    points += [point for kind in ("budget", "crossing") for point in result.select(score=score, kind=kind)]
    inflation = [
        f"{100 * (point.target or 0):g} %: {point.selection_inflation:+.2f}"
        for point in result.select(score=score, kind="expected")
        if point.selection_inflation is not None
    ]
    lines = [
        f"Operating points of `{score}` (last columns: share of rows that each stage answers):",
        table(_header(results), [_row(results, point) for point in points], left=2),
    ]
    if inflation:
        what = "Selection inflation (in-sample minus cross-fitted speed-up, on the same rows)"
        lines.append(f"  {what}: {', '.join(inflation)}")
    if any(point.exploratory for point in points):
        lines.append("  * exploratory: fitted to the rows that it was measured on; nothing is promised of it.")
    return "\n".join(lines)


def _rules(results: SweepResults, result: SplitResult) -> str:
    """Targets × readings of each rule that no score is named for, and the thresholds that were asked for."""
    kinds, tables = ("expected", "confident", "in_sample", "budget", "fixed"), []
    for rule in (RULES[entry.rule] for entry in result.scores if not RULES[entry.rule].reads_score):
        points = [point for kind in kinds for point in result.select(rule=rule.name, kind=kind)]
        points.sort(key=lambda point: 0 if point.kind in ("budget", "fixed") else -(point.target or 0))
        rows = []
        for point in points:
            target, name, *cells = _row(results, point)
            rows.append([target, name, rule.spelt(point.thresholds), *cells])
        tables.append(f"Operating points of {rule.label}:\n" + table(_header(results, rule.name), rows, left=2))
    return "\n\n".join(tables)


def _lines(results: SweepResults, result: SplitResult) -> str:
    """What no router, a random one and a perfect one do at each target."""
    targets, swift = results.settings.targets, result.stages[0]
    reached = [f"{swift.speedup:.2f}" if (swift.kept or 0) >= target else "–" for target in targets]
    rows = [[f"{swift.name} alone (keeps {percent(swift.kept)} %)", *reached]]
    for label, score, kind in (
        ("random routing, expected", "random", "expected"),
        ("oracle (knows the labels)", "oracle", "in_sample"),
    ):
        if points := {point.target: point for point in result.select(score=score, kind=kind)}:
            rows.append([label, *(with_interval(points[t].speedup, points[t].speedup_interval) for t in targets)])
    header = ["speed-up at", *(f"{100 * target:g} %" for target in targets)]
    return "Lines to compare with:\n" + table(header, rows)


def _scores(results: SweepResults, result: SplitResult) -> str:
    """Score ablation (E-LANG, Table 2) with paired intervals of the differences to the first score."""
    settings, first = results.settings, results.settings.scores[0]
    targets = [t for t in settings.targets if t in (0.99, 0.98)] or list(settings.targets[-2:])
    pairs = {(pair.first, pair.second): pair for pair in result.pairs}
    header = ["score", "normalised area", f"area − {first}"]
    header += [f"{100 * t:g} %: speed-up / kept %" for t in targets]
    header += [f"{100 * t:g} %: speed-up − {first}" for t in targets]
    rows = []
    for entry in result.scores:
        pair = pairs.get((first, entry.score))
        points = [result.select(score=entry.score, kind="expected", target=t)[0] for t in targets]
        area = with_interval(entry.normalised_area, entry.normalised_area_interval)
        cells = [area if entry.score != "random" else "0", _difference(pair, "normalised_area")]
        cells += [f"{point.speedup:.2f} / {percent(point.kept)}" for point in points]
        compared = {each.target: each for each in pair.targets} if pair else {}
        rows.append([entry.score, *cells, *(_difference(compared.get(t), "speedup") for t in targets)])
    lines = ["Scores, `expected` points (differences are paired):", table(header, rows)]
    if same := next((entry for entry in result.scores if entry.same_as), None):
        others = ", ".join(key.split("/")[1] for key in same.same_as)
        lines.append(f"  Identical decisions: {same.score} = {others}.")
    return "\n".join(lines)


def _difference(pair: ScorePair | TargetDifference | None, name: str) -> str:
    """The second minus the first of a pair as a cell, negated from what the pair holds."""
    value = None if pair is None else getattr(pair, name)
    if value is None:
        return "–"
    interval = getattr(pair, f"{name}_interval")
    negated: Sequence[float] | None = interval and (-interval[1] + 0.0, -interval[0] + 0.0)
    return with_interval(-value + 0.0, negated, sign="+")
