"""What `results/text_to_text.md` says of text-to-text cascades, beside E-LANG's Tables 1 to 3 as they are printed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from typing import Any

from scripts import clock
from scripts.e_lang_printed import printed_tables
from scripts.markdown import code, grid, percent
from scripts.results_steps import chain
from scripts.results_text_plan import HEADS, SCORES, TASKS, plan
from scripts.text_figures import PUBLISHED

FIRST = {"phonemes": "small"}  # the cascade that stands for a task; elsewhere the Swift of two layers
ROUTED = tuple(name for name in SCORES if name != "random")
IN_PAPER = ("softmax", "entropy", "decoder_energy")
QUESTIONS = {"swift": "quality of the Swift, points", "area": "normalised area", "speedup-99": "speed-up at 99 %"}
Record = Mapping[str, Any]


def tables(found: Record, studies: Mapping[str, Record], data: str, models: str) -> dict[str, str]:
    """What the page shows, by the name of its place.

    Args:
        found: from :func:`scripts.text_collect.collect`.
        studies: what was measured on the clock, by task.
        data: as for `make results`.
        models: as for `make results`.
    """
    cascades, compared, paper = found["cascades"], found["comparisons"], printed_tables()
    return {
        "text-missing": missing_text(found["missing"]),
        "text-tiers": tier_table(cascades),
        "text-table1": table_1(cascades, paper),
        "text-time": time_table(studies, paper),
        "text-table2": table_2(cascades, paper),
        "text-areas": area_table(cascades),
        "text-scores": "\n".join(score_statements(cascades)),
        "text-sizes": comparison_table(compared, "sizes"),
        "text-table3": "\n\n".join([comparison_table(compared, "distillation"), table_3(cascades, paper)]),
        "text-heads": "\n\n".join([head_table(cascades), comparison_table(compared, "heads")]),
        "text-more": "\n\n".join([points_table(cascades, ("three", "encoder2")), comparison_table(compared, "tiers")]),
        "text-commands": code(commands(cascades, studies, data, models)),
    }


METHODS = {"text_sst2": "E-LANG: energy head, label words", "multi30k": "E-LANG: energy head, free text"}
"""Of the README's table, by task."""


def methods(found: Record, target: float) -> list[list[str]]:
    """Rows of the README's table of methods: crossfit points of a task of label words and one of free text, if tested.

    Args:
        found: from :func:`scripts.text_collect.collect`.
        target: share of the Super's quality.
    """
    records = {record["task"]: record for record in leading(found["cascades"]) if record["task"] in METHODS}
    command = "`dial fit --config configs/model/energy_head.yaml`"
    rows = []
    for task, record in records.items():
        point = point_of(record, "confident", target)
        if point is None:
            continue
        # Who sees that only the Super qualifies runs it alone.
        speedup, share = (1.0, 1.0) if alone(point) else (point["speedup"], point["kept"])
        value = f"{speedup:.2f}× ({percent(share)} %)"
        rows.append([METHODS[task], command, task, value, "[text_to_text](results/text_to_text.md)"])
    return rows


# ---- cells ----


def signed(value: float | None, interval: Sequence[float] | None, scale: float = 1.0, digits: int = 3) -> str:
    """A difference with its interval, bold where the interval leaves zero out.

    >>> signed(0.25, [0.1, 0.4]), signed(-0.1, [-0.3, 0.1], digits=1), signed(0.5, None)
    ('**+0.250** [+0.100, +0.400]', '-0.1 [-0.3, +0.1]', '+0.500')
    """
    if value is None:
        return "–"
    text = f"{scale * value:+.{digits}f}"
    if interval is None:
        return text
    low, high = interval
    text = f"**{text}**" if low > 0 or high < 0 else text
    return f"{text} [{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"


def point_of(record: Record, kind: str, target: float | None, score: str = "energy") -> Record | None:
    """An operating point of a cascade; None where there is none."""
    for point in record["points"]:
        if (point["kind"], point["target"], point["score"]) == (kind, target, score):
            return dict(point)
    return None


def saved(point: Record | None) -> str:
    """Speed-up with its interval, and what was kept of the Super."""
    if point is None:
        return "–"
    if alone(point):
        return "Super alone"
    bounds = point["speedup_interval"]
    interval = f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else ""
    return f"{point['speedup']:.2f}×{interval} ({percent(point['kept'])} %)"


def alone(point: Record) -> bool:
    """Whether the Super answers every row."""
    return bool(point["only_super"]) or point["swift_ratio"] == 0


def leading(cascades: Sequence[Record]) -> list[Record]:
    """The cascade of each task that Table 1 has: the smallest Swift with the plain head."""
    return [each for each in cascades if each["cascade"] == FIRST.get(each["task"], "layers2")]


def nothing(rows: Sized) -> str | None:
    """What stands in the place of a table without rows."""
    return None if rows else "Not trained yet."


def missing_text(missing: Sequence[str]) -> str:
    """What of the plan has no numbers yet, by task.

    >>> print(missing_text(["text_cb: cascade-layers2", "phonemes: cascade-tiny", "phonemes: cascade-small"]))
    Not trained yet, 3 cascades of the plan: text_cb (layers2), phonemes (tiny, small).
    """
    if not missing:
        return "All cascades of the plan were trained and tested."
    by_task: dict[str, list[str]] = {}
    for task, name in (entry.split(": ") for entry in missing):
        by_task.setdefault(task, []).append(name.removeprefix("cascade-"))
    told = ", ".join(f"{task} ({', '.join(names)})" for task, names in by_task.items())
    return f"Not trained yet, {len(missing)} cascades of the plan: {told}."


# ---- tables ----


def tier_table(cascades: Sequence[Record]) -> str:
    """Quality and cost of every tier alone, by task: the Swifts with their plain heads, then the Super."""
    rows: dict[tuple[str, str], list[str]] = {}
    for record in cascades:
        if record["cascade"] == "three" or record["cascade"].endswith(tuple(filter(None, HEADS))):
            continue  # of tiers that stand here already
        for name, tier in zip((record["cascade"], "Super"), record["tiers"], strict=True):
            interval = tier["quality_interval"] or (None, None)
            cells = [record["task"], name, record["metric"], percent(tier["quality"][record["metric"]])]
            cells += [f"[{percent(interval[0])}, {percent(interval[1])}]", f"{tier['parameters'] / 1e6:.1f}"]
            cells += [f"{2e-6 * tier['decide_macs']:,.0f}", f"{2e-6 * tier['macs']:,.0f}"]
            rows.setdefault((record["task"], name), [*cells, str(tier["no_answer"]), str(tier["cut_off"])])
    tasks = [task.name for task in TASKS]
    ordered = sorted(rows, key=lambda key: (tasks.index(key[0]), key[1] == "Super"))
    head = ["task", "tier", "metric", "quality, %", "95 %", "M parameters", "MFLOPs to decide", "MFLOPs to answer"]
    return nothing(rows) or grid([*head, "no label word", "cut off"], [rows[key] for key in ordered])


def table_1(cascades: Sequence[Record], paper: Record) -> str:
    """E-LANG's Table 1, a row a task: the tiers, the cascade by encoder energy, and what the paper prints."""
    printed, rows = paper["table1"], []
    for record in leading(cascades):
        first, last = record["tiers"][0], record["tiers"][-1]
        metric, inside = record["metric"], point_of(record, "in_sample", 1.0)
        cells = [record["task"], metric, percent(first["quality"][metric]), percent(last["quality"][metric])]
        cells += [percent(inside["swift_ratio"], 0) if inside else "–", saved(inside)]
        cells += [saved(point_of(record, *kind)) for kind in (("crossing", None), ("confident", 0.99))]
        name = PUBLISHED.get(record["task"])
        if name in paper["tasks"]:
            n = paper["tasks"].index(name)
            cells.append(f"{printed['swift_accuracy'][n]} → {printed['super_accuracy'][n]}")
            cells.append(f"{printed['speedup_flops'][n]}× ({printed['accuracy'][n]}, {printed['swift_ratio'][n]:g} %)")
            cells.append(f"{printed['speedup_time'][n]}×")
        rows.append([*cells, *["–"] * (11 - len(cells))])
    head = ["task", "metric", "Swift, %", "Super, %", "Swift ratio, %", "in-sample, 100 %", "crossing"]
    head += ["crossfit, 99 %", "E-LANG: Swift → Super", "E-LANG: speed-up (accuracy, Swift ratio)", "E-LANG: in time"]
    return nothing(rows) or grid(head, rows)


def time_table(studies: Mapping[str, Record], paper: Record) -> str:
    """Speed-ups of the same cascades on the clock beside those in FLOPs, and what E-LANG prints."""
    lines, rows = [], []
    for task, study in studies.items():
        lines.append(f"- {task}: {clock.how(study, 'test rows')}")
        swift = {(arm["name"], arm["target"]): arm["swift_ratio"] for arm in study["arms"]}
        for share, (kind, *cells) in zip(swift.values(), clock.rows_of(study), strict=True):
            rows.append([task, kind, percent(share, 0), *cells])
        if (name := PUBLISHED.get(task)) in paper["tasks"]:
            place, first = paper["tasks"].index(name), paper["table1"]
            kept = first["accuracy"][place] / first["super_accuracy"][place]
            cells = [f"{first['swift_ratio'][place]:g}", percent(kept)]
            cells += [f"{first['speedup_flops'][place]}×", "–", f"{first['speedup_time'][place]}×", "–", "–"]
            rows.append([task, "E-LANG, printed", *cells])
    head = ["task", clock.HEAD[0], "Swift ratio, %", *clock.HEAD[1:]]
    return "\n".join([*lines, "", grid(head, rows)]) if rows else "Not measured yet."


def table_2(cascades: Sequence[Record], paper: Record) -> str:
    """E-LANG's Table 2: GFLOPs / quality at the in-sample point that keeps all of the Super, by what decides."""
    columns = [record for record in leading(cascades) if record["task"] != "phonemes"]
    rows = [["the Super alone", *(_gflops(_super(record)) for record in columns)]]
    for score in ("random", *ROUTED):
        rows.append([_scenario(score), *(_gflops(point_of(record, "in_sample", 1.0, score)) for record in columns)])
    larger = {record["task"]: record for record in cascades if record["cascade"] == "layers4"}
    row = [point_of(larger[r["task"]], "in_sample", 1.0) if r["task"] in larger else None for r in columns]
    rows.append(["energy, Swift of four layers", *map(_gflops, row)])
    if not columns:
        return "Not trained yet."
    ours = grid(["GFLOPs / quality", *(record["task"] for record in columns)], rows)
    printed = paper["table2"]
    scenarios = [name for name in printed if name != "tasks"]
    body = [[_scenario(name), *(f"{cost:g} / {quality:g}" for cost, quality in printed[name])] for name in scenarios]
    return f"{ours}\n\nAs E-LANG prints it (10¹¹ FLOPs / accuracy):\n\n{grid(['', *printed['tasks']], body)}"


def _scenario(name: str) -> str:
    known = {"random": "random", "super": "the Super alone", "energy": "encoder energy", "softmax": "encoder softmax"}
    return known.get(name, "encoder entropy" if name == "entropy" else name.replace("_", " "))


def _super(record: Record) -> Record:
    last = record["tiers"][-1]
    return {"flops": 2 * record["reference_macs"], "quality": last["quality"][record["metric"]]}


def _gflops(point: Record | None) -> str:
    return "–" if point is None else f"{1e-9 * point['flops']:.2f} / {percent(point['quality'])}"


def area_table(cascades: Sequence[Record]) -> str:
    """Encoder energy's normalised area, and by how much it exceeds that of every other score on the same resamples."""
    rows = []
    for record in cascades:
        value, interval = record["scores"].get("energy", (None, None))
        others = [record["energy_minus"].get(name, (None, None)) for name in ROUTED[1:]]
        if any(pair[0] is not None for pair in others):
            own = signed(value, interval, digits=2)
            rows.append(
                [record["task"], record["cascade"], own, *(signed(value, bounds, digits=2) for value, bounds in others)]
            )
    head = ["task", "Swift", "energy", *(f"− {_scenario(name)}" for name in ROUTED[1:])]
    return nothing(rows) or grid(head, rows)


def score_statements(cascades: Sequence[Record]) -> list[str]:
    """In how many cascades encoder energy routes better or worse than each other score, beyond noise."""
    lines = []
    energies = [record["scores"]["energy"][1] for record in cascades if "energy" in record["scores"]]
    known = [interval for interval in energies if interval]
    better = sum(low > 0 for low, _ in known)
    worse = sum(high < 0 for _, high in known)
    lines.append(f"- Against random routing: better in {better}, worse in {worse} of {len(known)} cascades.")
    for name in ROUTED[1:]:
        pairs = [record["energy_minus"][name][1] for record in cascades if name in record["energy_minus"]]
        better, worse = sum(low > 0 for low, _ in pairs), sum(high < 0 for _, high in pairs)
        note = " (E-LANG: better)" if name in IN_PAPER else ""
        if pairs:
            told = f"better in {better}, worse in {worse} of {len(pairs)} cascades"
            lines.append(f"- Against {_scenario(name)}{note}: {told}.")
    return lines


def comparison_table(compared: Sequence[Record], question: str) -> str:
    """Second minus first of every pair that answers a question, with paired intervals."""
    rows = []
    for entry in compared:
        if entry["question"] != question:
            continue
        cells = [entry["task"], entry["first"], entry["second"]]
        for name in QUESTIONS:
            scale, digits = (100.0, 1) if name == "swift" else (1.0, 2)
            cells.append(signed(entry[name]["difference"], entry[name]["interval"], scale, digits))
        rows.append(cells)
    return nothing(rows) or grid(["task", "first", "second", *(f"{name}: change" for name in QUESTIONS.values())], rows)


def table_3(cascades: Sequence[Record], paper: Record) -> str:
    """E-LANG's Table 3: GFLOPs / quality of Swift and cascade without and with distillation, and what is printed."""
    by_name = {(record["task"], record["cascade"]): record for record in cascades}
    pairs = [(t, n) for t, n in by_name if not n.endswith("distilled") and (t, f"{n}-distilled") in by_name]
    rows = []
    for task, name in pairs:
        cells = [task, name, _gflops(_super(by_name[task, name]))]
        for record in (by_name[task, name], by_name[task, f"{name}-distilled"]):
            swift = record["tiers"][0]
            own = {"flops": 2 * swift["macs"], "quality": swift["quality"][record["metric"]]}
            cells += [_gflops(own), _gflops(point_of(record, "in_sample", 1.0))]
        rows.append(cells)
    printed = paper["table3"]
    for n, task in enumerate(printed["tasks"]):
        names = ("super", "swift", "cascade", "swift, distilled", "cascade, distilled")
        values = [f"{printed[name][n][0]:g} / {printed[name][n][1]:g}" for name in names]
        rows.append([f"{task}, E-LANG's (10¹¹ FLOPs)", "large", *values])
    head = ["GFLOPs / quality", "Swift", "Super", "Swift alone", "cascade", "Swift alone, distilled"]
    return grid([*head, "cascade, distilled"], rows)


def head_table(cascades: Sequence[Record]) -> str:
    """What each head over the vocabulary costs and tells, by its own energy."""
    rows = []
    for record in cascades:
        swift = record["tiers"][0]
        if record["task"] not in ("multi30k", "wmt16_en_ro", "phonemes", "text_wsc"):
            continue
        value, interval = record["scores"].get("energy", (None, None))
        cells = [record["task"], record["cascade"], f"{2e-6 * swift['decide_macs']:,.0f}"]
        cells += [f"{2e-6 * swift['macs']:,.0f}", signed(value, interval, digits=2)]
        rows.append([*cells, saved(point_of(record, "in_sample", 0.99)), saved(point_of(record, "confident", 0.99))])
    head = ["task", "Swift and head", "MFLOPs to decide", "to answer", "normalised area", "in-sample, 99 %"]
    return nothing(rows) or grid([*head, "crossfit, 99 %"], rows)


def points_table(cascades: Sequence[Record], names: Sequence[str]) -> str:
    """Operating points of some cascades, by encoder energy or the classifier's."""
    wanted: list[tuple[str, Callable[[Record], Record | None]]] = [
        ("in-sample, 99 %", lambda record: point_of(record, "in_sample", 0.99)),
        ("crossfit, 99 %", lambda record: point_of(record, "confident", 0.99)),
        ("calibrated, 99 %", lambda record: point_of(record, "calibrated confident", 0.99)),
    ]
    rows = [
        [record["task"], record["cascade"], *(saved(get(record)) for _, get in wanted)]
        for record in cascades
        if record["cascade"] in names
    ]
    return nothing(rows) or grid(["task", "cascade", *(name for name, _ in wanted)], rows)


def commands(cascades: Sequence[Record], studies: Collection[str], data: str, models: str) -> list[str]:
    """The commands that led to each task's first cascade, and to its times."""
    steps = list(plan(data, models))
    wanted = {f"{record['task']}/seed0/cascade-{record['cascade']}/table" for record in leading(cascades)}
    wanted |= {f"{task}/seed0/clock/kept" for task in studies}
    told = chain(steps, [step for step in steps if step.name in wanted])
    return [line for step in told for line in (f"# {step.name}", str(step))]
