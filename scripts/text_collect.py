"""Numbers of text-to-text cascades: each from its sweep across folds, and pairs from two stored tables.

Two cascades on one task are compared on the same resamples of the same test rows, so that their difference has a paired
interval.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dial.cli.steps import Step
from dial.files import plain
from dial.stages.parquet import load_table
from dial.stages.table import StageTable
from dial.stages.task import UNREAD
from dial.tradeoff.area import normalised_area
from dial.tradeoff.bootstrap import bootstrap, percentile_interval
from dial.tradeoff.calibration import Chooser
from dial.tradeoff.rules import Oracle, Threshold, curve
from dial.tradeoff.taken import Taken, metric_of, quality_of
from scripts import clock
from scripts.e_lang_printed import printed_tables
from scripts.results_cell import crossfit_of, sweep_of, table_of
from scripts.results_text_plan import ENCODER, TASKS, TextCell

TARGETS, RESAMPLES = (1.0, 0.99), 1000
KINDS = ("in_sample", "expected", "confident", "crossing")
POINT = ("score", "kind", "target", "kept", "held", "speedup", "speedup_interval", "flops", "swift_ratio", "only_super")
COMPARED = (
    ("sizes", "layers2", "layers4"),
    ("distillation", "layers2", "layers2-distilled"),
    ("distillation", "layers4", "layers4-distilled"),
    ("heads", "layers2", "layers2-position-32"),
    ("heads", "layers2", "layers2-bag"),
    ("heads", "layers2", "layers2-bag-32"),
    ("tiers", "layers2", "three"),
    ("tiers", "layers2", ENCODER),
    ("sizes", "tiny", "small"),
)
"""What is asked, and two cascades; the second is the one that is to be better."""


class Planned(Protocol):
    """A task and the steps that train and test it."""

    @property
    def prefix(self) -> str:
        """See :class:`scripts.results_cell.Cell`."""

    def steps(self) -> Iterator[Step]:
        """In order."""


def cells(runs: str = "runs/results") -> Iterator[TextCell]:
    """The tasks of the plan, wherever their runs lie."""
    for task in TASKS:
        yield TextCell(task.name, runs=runs, about=task)


def cascades_of(cell: Planned) -> list[str]:
    """Names of a task's cascades, and models with exits, in the order of the plan."""
    return [step.name.rsplit("/", 2)[1] for step in cell.steps() if step.name.endswith("/table")]


def tested(results: Path, cell: Planned) -> dict[str, Path]:
    """The tables of a task that are stored, by name of the cascade.

    Args:
        results: folder of the stored tables.
        cell: the task.
    """
    paths = {name: results / Path(table_of(cell.prefix, name)).relative_to("results") for name in cascades_of(cell)}
    return {name.removeprefix("cascade-"): path for name, path in paths.items() if path.is_file()}


def collect(runs: Path, results: Path) -> dict[str, Any]:
    """Everything that the page says, as plain values.

    Args:
        runs: folder with the sweeps.
        results: folder of the stored tables.
    """
    cascades, comparisons, missing = [], [], []
    for cell in cells(str(runs)):
        tables = tested(results, cell)
        missing += [f"{cell.task}: {n}" for n in cascades_of(cell) if n.removeprefix("cascade-") not in tables]
        rows = {name: reported_rows(path) for name, path in tables.items()}
        for name, table in rows.items():
            path = Path(crossfit_of(cell.folder, f"cascade-{name}"), "summary.json")
            if not path.is_file():
                missing.append(f"{cell.task}: the sweep of cascade-{name}")
                continue
            split = Path(sweep_of(cell.folder, f"cascade-{name}"), "summary.json")
            held_out = json.loads(split.read_text()) if split.is_file() else None
            record = cascade(json.loads(path.read_text()), held_out, table)
            cascades.append({"task": cell.task, "cascade": name} | record)
        for question, first, second in COMPARED:
            if first in rows and second in rows:
                entry = {"task": cell.task, "question": question, "first": first, "second": second}
                comparisons.append(entry | compared(rows[first], rows[second]))
    return rounded({"cascades": cascades, "comparisons": comparisons, "missing": missing})


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """The same plain values with six digits.

    >>> rounded({"a": [0.123456789, 2, None]})
    {'a': [0.123457, 2, None]}
    """
    return dict(json.loads(json.dumps(plain(values)), parse_float=lambda text: float(f"{float(text):.6g}")))


def reported_rows(path: Path) -> StageTable:
    """The test rows of a stored table."""
    return load_table(path).of_split("test")


def cascade(summary: Mapping[str, Any], held_out: Mapping[str, Any] | None, table: StageTable) -> dict[str, Any]:
    """What one cascade came to.

    Args:
        summary: of the sweep across folds of the test rows.
        held_out: of the sweep with calibration rows, where there are any.
        table: its test rows.
    """
    split, metric = summary["splits"]["test"], summary["metrics"][0]
    stages = split["stages"]
    record: dict[str, Any] = {"metric": metric, "rows": split["rows"], "reference_macs": split["reference_macs"]}
    record["tiers"] = [
        {
            "name": stage["name"],
            "parameters": about["parameters"],
            "quality": stage["quality"],
            "quality_interval": stage["quality_interval"],
            "decide_macs": float(own.mean()),
            "macs": float(whole.mean()),
            "no_answer": int((table.predictions[:, index] == UNREAD).sum()) if table.task.classes else 0,
            "cut_off": int(table.cut_off[stage["name"]].sum()) if stage["name"] in table.cut_off else 0,
        }
        for index, (stage, about) in enumerate(zip(stages, summary["stages"], strict=True))
        for own, whole in [own_costs(table, index)]
    ]
    record["points"] = list(points(split))
    if held_out is not None:
        parts = points(held_out["splits"]["test"])
        record["points"] += [{**p, "kind": f"calibrated {p['kind']}"} for p in parts if p["kind"] in KINDS[1:3]]
    shown = ("normalised_area", "normalised_area_interval")
    record["scores"] = {entry["score"]: [entry[name] for name in shown] for entry in split["scores"]}
    record["energy_minus"] = {}
    for pair in split["pairs"]:
        names, sign = [pair["first"], pair["second"]], 1 if pair["first"] == "energy" else -1
        if "energy" in names and pair.get("normalised_area_interval"):
            (other,) = set(names) - {"energy"}
            bounds = sorted(sign * bound for bound in pair["normalised_area_interval"])
            record["energy_minus"][other] = [sign * pair["normalised_area"], bounds]
    return record


def studies(results: Path) -> dict[str, dict[str, Any]]:
    """What was measured on the clock, by task, in the order of the plan.

    Args:
        results: folder of what is kept.
    """
    return clock.studies(results, [task.name for task in TASKS])


def printed_points(task: str) -> list[dict[str, Any]]:
    """What E-LANG prints of a task, as `dial compare --points` reads it; its FLOPs are on an axis of their own.

    Args:
        task: among the printed ones.
    """
    paper = printed_tables()
    first, position = paper["table1"], paper["tasks"].index(task)
    rows = {
        "E-LANG's Super": (paper["super_flops"], first["super_accuracy"][position]),
        "E-LANG's Swift": (paper["swift_flops"], first["swift_accuracy"][position]),
        "E-LANG": (first["flops"][position], first["accuracy"][position]),
    }
    for table, left_out in (("table2", ("super", "energy")), ("table3", ("super", "swift", "cascade"))):
        if task in paper[table]["tasks"]:
            place = paper[table]["tasks"].index(task)
            names = [name for name in paper[table] if name not in (*left_out, "tasks")]
            rows |= {f"E-LANG: {name.replace('_', ' ')}": tuple(paper[table][name][place]) for name in names}
    return [
        {"name": name, "quality": quality, "cost": 1e11 * cost, "convention": "flop"}
        for name, (cost, quality) in rows.items()
    ]


def own_costs(table: StageTable, index: int) -> tuple[np.ndarray, np.ndarray]:
    """MACs ``(N,)`` of one tier up to its decision, and with its answer, without the tiers before it."""
    before = table.decide_macs[:, index - 1] if index else 0.0
    return table.decide_macs[:, index] - before, table.macs[:, index] - before


def points(split: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The operating points that the page may show: all kinds by energy, E-LANG's own by every score."""
    for point in split["points"]:
        shown = point["score"] == "energy" or (point["kind"], point["target"]) == ("in_sample", TARGETS[0])
        wanted = point["kind"] in KINDS and point["rule"] == "threshold" and point["target"] in (*TARGETS, None)
        if shown and wanted:
            yield {name: point.get(name) for name in POINT} | {"quality": next(iter(point["quality"].values()))}


def compared(
    first: StageTable, second: StageTable, score: str = "energy", targets: Sequence[float] = TARGETS
) -> dict[str, Any]:
    """Second minus first on the same resamples: quality of first and last stage, normalised area, in-sample speed-ups.

    Args:
        first: test rows of one cascade.
        second: the same rows of another with the same Super.
        score: that routes both.
        targets: shares of each one's own Super that speed-ups are at.

    Raises:
        ValueError: the rows differ.
    """
    if not np.array_equal(first.sample_id, second.sample_id) or not np.array_equal(first.label, second.label):
        raise ValueError("`second` must have the rows of `first`, but they differ; test both on the same data.")
    measured = [_measured(table, score, targets) for table in (first, second)]
    result: dict[str, Any] = {}
    for name in measured[0]:
        (one, one_again), (two, two_again) = (each[name] for each in measured)
        entry: dict[str, Any] = {"first": one, "second": two, "difference": None, "interval": None}
        if one is not None and two is not None:
            entry |= {"difference": two - one, "interval": percentile_interval(two_again - one_again)}
        result[name] = entry
    return result


def _measured(table: StageTable, score: str, targets: Sequence[float]) -> dict[str, tuple[float | None, np.ndarray]]:
    """Value, and values on the resamples ``(B,)``, of each quantity that is compared."""
    metric, swift = metric_of(table), Taken.all_at(table, 0)
    chooser = Chooser(table, Threshold(score))
    lines = {"score": chooser.curve, "random": curve(table, "random"), "oracle": Oracle().curve(table)}
    again = bootstrap(table, metric, {"swift": swift}, lines, targets, RESAMPLES)
    area = normalised_area(lines["score"], lines["random"], lines["oracle"])
    found: dict[str, tuple[float | None, np.ndarray]] = {
        "swift": (quality_of(swift), again.quality["swift"]),
        "super": (quality_of(Taken.all_at(table, len(table.stages) - 1)), again.quality["super"]),
        "area": (area, again.normalised_area("score")),
    }
    reference = float(table.macs_reference.mean())
    for index, target in enumerate(targets):
        macs = chooser.expected(target).rule.taken(table).macs.mean()
        found[f"speedup-{100 * target:g}"] = reference / float(macs), again.chosen["score"][index]
    return found
