"""The sweep's summary as plain text."""

from collections.abc import Sequence
from typing import Any

from dial.report.wrapping import table_text
from dial.stages.metrics.metrics import AGREEMENT

KINDS = {
    "expected": "expected",
    "confident": "confident",
    "in_sample": "in-sample",
    "per_stage": "per stage*",
    "fixed": "as given",
}
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def render(summary: dict[str, Any]) -> str:
    """Tables of tiers, operating points, lines to compare with, and scores, for every reported split.

    Args:
        summary: as in ``summary.json``.
    """
    from dial.report.exits import compression_text, simple_text  # made of this module's tables

    parts = [_heading(summary), table_text(summary), compression_text(summary)]
    for split, result in summary["splits"].items():
        parts.append(f"{split}: {result['rows']:,} rows")
        parts.append(_tiers(summary, result))
        if "points" in result:
            parts += [
                _points(summary, result),
                _patience(summary, result),
                simple_text(summary, result),
                _lines(summary, result),
                _scores(summary, result),
                _remarks(summary, result),
            ]
        else:
            parts.append(_listed([f"  {remark}." for remark in result["remarks"]]))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns, the first ``left`` to the left and the others to the right.

    Example:
        >>> print(table(["tier", "rows"], [["swift", "12"], ["super", "3"]]))
          tier   rows
          swift    12
          super     3
    """
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [
            str(cell).ljust(w) if i < left else str(cell).rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def amount(value: float | None) -> str:
    """A count with three figures and a prefix.

    Example:
        >>> amount(11_174_000_000.0), amount(685_022), amount(None)
        ('11.2 G', '685 k', '–')
    """
    if value is None:
        return "–"
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:#.3g}".rstrip(".") + f" {prefix}"
    return f"{value:.3g}"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage, a dash where it is undefined."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def with_interval(
    value: float | None, interval: Sequence[float] | None, scale: float = 1.0, digits: int = 2, sign: str = ""
) -> str:
    """A number with its interval in brackets.

    Example:
        >>> with_interval(2.414, (1.9, 3.0)), with_interval(None, None)
        ('2.41 [1.90, 3.00]', '–')
    """
    if value is None:
        return "–"
    number = f"{scale * value:{sign}.{digits}f}"
    if interval is None:
        return number
    return f"{number} [{scale * interval[0]:{sign}.{digits}f}, {scale * interval[1]:{sign}.{digits}f}]"


def select(result: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    """Operating points with the given entries."""
    return [point for point in result["points"] if all(point[key] == value for key, value in wanted.items())]


def unit_of(summary: dict[str, Any]) -> str:
    """What costs are counted in: MACs, or the milliseconds of a table of times."""
    return "MACs" if summary["table"].get("unit") is None else "ms"


def _budget(summary: dict[str, Any], point: dict[str, Any]) -> str:
    return amount(point["target"]) + ("MAC" if unit_of(summary) == "MACs" else " ms")


def quality_name(summary: dict[str, Any]) -> str:
    """What the primary metric is, in words."""
    name = str(summary["metrics"][0])
    return f"{name} with {summary['stages'][-1]['name']}, as rows have no labels," if name == AGREEMENT else name


def _heading(summary: dict[str, Any]) -> str:
    chosen, settings = summary["calibration"], summary["settings"]
    task = f" of {summary['task']}" if summary["task"] else ""
    lines = [
        f"Sweep{task}; quality is {quality_name(summary)} in %, costs are {unit_of(summary)} per row, "
        "brackets are 95 % bootstrap intervals."
    ]
    if summary["partial"]:
        lines.insert(0, "PARTIAL: a trial run on few rows; none of these numbers means anything.")
    if chosen["method"] == "split":
        lines.append(f"Operating points were chosen on the calibration split ({chosen['rows']:,} rows).")
    elif chosen["method"] == "crossfit":
        lines.append(
            f"Operating points were chosen by {chosen['folds']}-fold cross-fitting on the reported rows (crossfit), "
            "without a calibration split."
        )
    if chosen["method"] != "none":
        lines.append(
            f"`confident` holds on fresh rows with probability {settings['confidence']:g}, "
            "`expected` about half the time."
        )
        lines.append(
            "Speed-up is the mean cost of the reference alone over the mean cost; "
            "kept is quality relative to the Super's."
        )
    return "\n".join(lines)


def _tiers(summary: dict[str, Any], result: dict[str, Any]) -> str:
    metrics = summary["metrics"]
    header = ["stage", *metrics, "95 %", "parameters", f"{unit_of(summary)} to here", "speed-up"]
    rows = []
    for known, stage in zip(summary["stages"], result["stages"], strict=True):
        interval = stage.get("quality_interval")
        between = "" if interval is None else f"[{percent(interval[0])}, {percent(interval[1])}]"
        values = [percent(stage["quality"][name]) for name in metrics]
        rows.append(
            [
                stage["name"],
                *values,
                between,
                amount(known["parameters"]),
                amount(stage["macs"]),
                f"{stage['speedup']:.2f}",
            ]
        )
    last = rows[-1]
    if len(rows) > 1:
        cost = [amount(result["reference_macs"]), "1.00"]
        if summary["table"].get("reference_without_exits"):  # another model, whose quality nobody has measured here
            rows.append(["reference (unpruned, no exits)", *["–"] * len(metrics), "", "–", *cost])
        else:
            rows.append(["reference alone", *last[1 : len(metrics) + 1], "", last[-3], *cost])
    return table(header, rows)


def _row(point: dict[str, Any], first: str, stages: Sequence[str]) -> list[str]:
    held = {True: "yes", False: "no", None: "–"}[point["held"]]
    kept = with_interval(point["kept"], point.get("kept_interval"), 100, 1)
    shares = [percent(point["shares"][name], 0) for name in stages]
    speedup = with_interval(point["speedup"], point.get("speedup_interval"))
    return [first, KINDS.get(point["kind"], point["kind"]), speedup, kept, held, *shares]


def _points(summary: dict[str, Any], result: dict[str, Any]) -> str:
    """Targets × readings of the first score, then budgets and the crossing."""
    score, stages = summary["settings"]["scores"][0], [stage["name"] for stage in summary["stages"]]
    header = ["target %", "reading", "speed-up", "kept %", "held", *(f"{name} %" for name in stages)]
    rows = []
    for target in summary["settings"]["targets"]:
        for kind in ("expected", "confident", "per_stage", "in_sample"):
            rows += [
                _row(point, f"{100 * target:g}", stages)
                for point in select(result, score=score, kind=kind, target=target)
            ]
    rows += [_row(point, _budget(summary, point), stages) for point in select(result, score=score, kind="budget")]
    rows += [_row(point, "", stages) for point in select(result, score=score, kind="crossing")]
    inflation = [
        f"{100 * point['target']:g} %: {point['selection_inflation']:+.2f}"
        for point in select(result, score=score, kind="expected")
        if point.get("selection_inflation") is not None
    ]
    title = f"Operating points of `{score}` (last columns: share of rows that each stage answers):"
    notes = ["  Selection inflation (in-sample minus cross-fitted speed-up, on the same rows): " + ", ".join(inflation)]
    notes = notes if inflation else []
    if select(result, score=score, kind="per_stage"):
        notes.append("  * exploratory: fitted to the rows that it was measured on; nothing is promised of it.")
    return "\n".join([title, table(header, rows, left=2), *notes])


def _patience(summary: dict[str, Any], result: dict[str, Any]) -> str:
    """Targets × readings of patience, and the patiences that were asked for."""
    stages = [stage["name"] for stage in summary["stages"]]
    found = select(result, score="patience")
    header = ["target %", "reading", "patience", "speed-up", "kept %", "held", *(f"{name} %" for name in stages)]
    rows = []
    for kind in ("expected", "confident", "in_sample", "budget", "fixed"):
        for point in (p for p in found if p["kind"] == kind):
            share = kind in ("expected", "confident", "in_sample")
            first = f"{100 * point['target']:g}" if share else _budget(summary, point) if kind == "budget" else ""
            cells = _row(point, first, stages)
            rows.append([*cells[:2], _agreements(point["thresholds"]), *cells[2:]])
    rows.sort(key=lambda row: -float(row[0]) if row[0].replace(".", "").isdigit() else 0)
    return "Operating points of patience (PABEE):\n" + table(header, rows, left=2) if rows else ""


def _agreements(thresholds: Sequence[Any]) -> str:
    """Agreements in a row that stop a row; all stop at once below 1, and none ever above all."""
    value = float(thresholds[0])
    return "0" if value < 1 else "never" if value == float("inf") else f"{value:g}"


def _lines(summary: dict[str, Any], result: dict[str, Any]) -> str:
    """What no router, a random one and a perfect one do at each target."""
    targets = summary["settings"]["targets"]
    header = ["speed-up at", *(f"{100 * target:g} %" for target in targets)]
    swift = result["stages"][0]
    reached = [f"{swift['speedup']:.2f}" if (swift["kept"] or 0) >= target else "–" for target in targets]
    rows = [[f"{swift['name']} alone (keeps {percent(swift['kept'])} %)", *reached]]
    for label, wanted in (
        ("random routing, expected", {"score": "random", "kind": "expected"}),
        ("oracle (knows the labels)", {"score": "oracle", "kind": "in_sample"}),
    ):
        found = {point["target"]: point for point in select(result, **wanted)}
        if found:
            rows.append([label, *(with_interval(found[t]["speedup"], found[t]["speedup_interval"]) for t in targets)])
    return "Lines to compare with:\n" + table(header, rows)


def _scores(summary: dict[str, Any], result: dict[str, Any]) -> str:
    """Score ablation (E-LANG, Table 2) with paired intervals of the differences to the first score."""
    settings, first = summary["settings"], summary["settings"]["scores"][0]
    targets = [t for t in settings["targets"] if t in (0.99, 0.98)] or list(settings["targets"][-2:])
    pairs = {(pair["first"], pair["second"]): pair for pair in result["pairs"]}
    shown = [f"{100 * t:g} %: speed-up / kept %" for t in targets]
    header = [
        "score",
        "normalised area",
        f"area − {first}",
        *shown,
        *(f"{100 * t:g} %: speed-up − {first}" for t in targets),
    ]
    rows = []
    for entry in result["scores"]:
        score = entry["score"]
        pair = pairs.get((first, score))
        points = {t: select(result, score=score, kind="expected", target=t)[0] for t in targets}
        cells = [f"{points[t]['speedup']:.2f} / {percent(points[t]['kept'])}" for t in targets]
        area = with_interval(entry["normalised_area"], entry["normalised_area_interval"])
        rows.append([score, area if score != "random" else "0", *_difference(pair, "normalised_area"), *cells])
        compared = {each["target"]: each for each in pair["targets"]} if pair else {}
        rows[-1] += [cell for t in targets for cell in _difference(compared.get(t), "speedup")]
    same = [
        f"{entry['score']} = {', '.join(key.split('/')[1] for key in entry['same_as'])}"
        for entry in result["scores"]
        if entry["same_as"]
    ]
    note = f"  Identical decisions: {same[0]}." if same else ""
    return "\n".join(filter(None, ["Scores, `expected` points (differences are paired):", table(header, rows), note]))


def _difference(pair: dict[str, Any] | None, name: str) -> list[str]:
    """The second minus the first of a pair as a cell, negated from what the pair holds."""
    if pair is None or pair.get(name) is None:
        return ["–"]
    low_high = pair[f"{name}_interval"]
    return [with_interval(-pair[name] + 0.0, low_high and (-low_high[1] + 0.0, -low_high[0] + 0.0), sign="+")]


def _remarks(summary: dict[str, Any], result: dict[str, Any]) -> str:
    """Where only the Super qualifies, crossings, what could not be stated, where routing costs more than it saves."""
    score, lines = summary["settings"]["scores"][0], [f"  {remark}." for remark in result["remarks"]]
    for point in select(result, score=score, kind="confident"):
        if point["note"]:
            lines.append(f"  {100 * point['target']:g} % confident: {point['note']}.")
    for point in (p for p in select(result, kind="budget") if p["note"]):
        lines.append(
            f"  Budget of {_budget(summary, point)}, `{point['score']}`: {point['note']}; the cheapest is taken."
        )
    for stage, found in result["crossings"].get(score, {}).items():
        places = ", ".join(f"{x:.4g}" for x in found["crossings"])
        lines.append(
            f"  Crossing of the densities of `{score}` at {stage}: {found['status']}"
            + (f" ({places})." if places else ".")
        )
    lines += [f"  {remark}." for entry in result["scores"] for remark in entry["remarks"]]
    for name, reason in result.get("lengths_left_out", {}).items():
        tokens = f"{name} tokens" if name.isdecimal() else f"{name} length"
        lines.append(f"  Speed-ups at {tokens} are left out: {reason}.")
    if any(point["speedup"] < 1 for point in select(result, score=score, kind="expected")):
        lines.append("  A speed-up below 1 means that the reference alone is cheaper: nothing is to be saved there.")
    return _listed(lines)


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(["Remarks:", *lines]) if lines else ""
