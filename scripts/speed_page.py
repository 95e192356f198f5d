"""What `results/time.md` says of backends: the targets, and what a user might take in place of a cascade.

`results/targets.json` is left by `benchmarks/bench_targets.py`, `results/<task>/rivals-<threads>.json` are studies with
few rows. A table is written where its numbers are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.markdown import code, grid

TARGETS, RIVALS = "targets.json", "*/rivals-*.json"
KINDS = {"batches": "in batches", "single": "one row at a time"}
TASKS = {"sst2": "", "mrpc": "", "base_mrpc": " at base size"}
"""Where studies of rivals are kept, and what is said of the Super there."""
FIRST_TIER = "runs/first-tiers/sst2/seed0/wordpiece-super-50/tier"
"""Of `scripts/first_tiers.py`: what `configs/model/bilstm_subword.yaml` trains."""
STUDY: dict[str, dict[str, Any]] = {
    "sst2": {"rows": 64, "repeats": 3, "batch_size": 32},
    "mrpc": {"rows": 64, "repeats": 3, "batch_size": 32},
    "base_mrpc": {"rows": 16, "repeats": 3, "batch_size": 8},
}
"""Few rows: what is compared is the same model each time, whose ratios differ little between rows."""


def machine_text(machine: Mapping[str, Any]) -> str:
    """Processor, threads and instruction sets in a line."""
    sets = ", ".join(machine.get("instruction_sets", [])) or machine["instructions"]
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    return f"{machine['processor']}, {threads}, torch {machine['torch']}; {sets}"


def share_text(value: float | None) -> str:
    """A share in %, or that there is none.

    Example:
        >>> share_text(0.0123), share_text(None)
        ('1.23', '–')
    """
    return "–" if value is None else f"{100 * value:.2f}"


def target_table(content: Mapping[str, Any]) -> str:
    """Milliseconds a row and the ratio to the padded Super, of every contender, with and without the cap."""
    rows = []
    for cap, run in content["runs"].items():
        single = {each["name"]: each for each in run["single"]}
        for each in run["batches"]:
            cells = [cap or "all", each["name"]]
            for one in (each, single[each["name"]]):
                low, high = one["interval"]
                cells += [f"{one['ms']:.2f}", f"{one['speedup']:.1f}× [{low:.1f}, {high:.1f}]"]
            rows.append([*cells, share_text(each["changed"])])
    head = ["instructions", "what computes", "ms a row, batches", "over padded", "ms, one row", "over padded"]
    return grid([*head, "changed answers, %"], rows)


def verdicts(content: Mapping[str, Any]) -> str:
    """Each target with what was measured, a line each."""
    lines = []
    for cap, run in content["runs"].items():
        where = f"capped to {cap}" if cap else "all instructions"
        for kind, name in KINDS.items():
            target = content["targets"][cap][kind]
            (cascade,) = (each for each in run[kind] if each["name"] == "cascade")
            best = max((each for each in run[kind] if not each["by_hand"]), key=lambda each: each["speedup"])
            met = "met" if cascade["speedup"] >= target else "missed"
            extra = "" if best is cascade else f"; {best['name']} alone {best['speedup']:.1f}×"
            lines.append(f"- {where}, {name}: {cascade['speedup']:.1f}×, target {target}×: {met}{extra}.")
            alone = run[f"{kind}_alone"]
            if alone["hand"]:
                low, high = alone["interval"]
                met = "met" if alone["ratio"] <= 1.05 else "missed"
                lines.append(
                    f"- {where}, {name}: the Super alone, {alone['chosen']}, takes {alone['ratio']:.3f} "
                    f"[{low:.3f}, {high:.3f}] of the time of {alone['hand']}, target 1.05: {met}."
                )
        part = run["file_to_file"]
        share = part["of_model_calls"]["processor"]
        lines.append(
            f"- {where}: `dial predict` has {100 * share:.1f} % of the throughput of its model calls "
            f"({part['rows_per_second']:,.0f} rows/s from file to file), target 90 %: "
            f"{'met' if share >= 0.9 else 'missed'}."
        )
        shares = ", ".join(f"{name} {100 * value:.0f} %" for name, value in run["quality"]["shares"].items())
        lines.append(f"- {where}: {100 * run['quality']['kept']:.1f} % of the Super's quality is kept ({shares}).")
        for kind, tiers in run["computed_by"].items():
            listed = ", ".join(f"{name} by {what}" for name, what in tiers.items())
            lines.append(f"- {where}, {KINDS[kind]}: the cascade's tiers are computed: {listed}.")
        lines += [f"- {where}: {line}." for line in run["routes"]]
    return "\n".join(lines)


def targets_text(content: Mapping[str, Any]) -> str:
    """Everything that is said of the targets."""
    settings = content["settings"]
    how = (
        f"{machine_text(content['machine'])}. {settings['turns']} turns; ratios are medians of the ratios of a turn, "
        "with the tenths at both ends. *By hand*: the library's own calls, on our file or converted from torch."
    )
    return "\n\n".join([how, target_table(content), verdicts(content)])


def rivals_table(studies: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Latency and throughput of the Super in all precisions and backends, of each task and number of threads."""
    rows, machines, left_out = [], dict[str, None](), dict[str, None]()
    for place, study in studies:
        machines[machine_text(study["machine"])] = None
        left_out |= {f"{name}: {reason}": None for name, reason in study["skipped"].items()}
        for each in study["contenders"]:
            single, batched = each["single"], each["batched"]
            cells = [f"{study['task']}{TASKS.get(place, '')}", str(study["machine"]["threads"]), each["name"]]
            cells += [each["backend"], each["dtype"], f"{single['mean']['median']:.1f}"]
            for kind in (single, batched):
                low, high = kind["speedup_interval"]
                cells.append(f"{kind['speedup']:.2f}× [{low:.2f}, {high:.2f}]")
            cells.insert(7, f"{batched['rows_per_second']['median']:,.0f}")
            agrees = each.get("agrees")
            rows.append([*cells, share_text(None if agrees is None else 1 - agrees)])
    head = ["task", "threads", "model", "backend", "numbers", "ms, one row", "speed-up", "rows/s, batches", "speed-up"]
    lines = [f"- {line}." for line in machines] + [f"- Not measured: {line}." for line in left_out]
    return "\n\n".join([grid([*head, "changed answers, %"], rows), "\n".join(lines)])


def commands(data: str) -> list[str]:
    """What measures all of it, on a machine with nothing else to do.

    Args:
        data: folder with `glue/<task>` as parquet.
    """
    run = "runs/results/{task}/seed0/{name}"
    test = "dial test --config configs/model/cascade.yaml --model.names '[{first}, super]' --model.tiers '[{tiers}]'"
    test += f" --data GLUEDataModule --data.task {{glue}} --data.source {data}/glue --data.calibration crossfit"
    wanted = {
        "sst2": ("swift", FIRST_TIER, "sst2"),
        "mrpc": ("swift", "layers2-distilled", "mrpc"),
        "base_mrpc": ("small", "runs/results/mrpc/seed0/super/tier", "mrpc"),
    }
    lines = []
    for task, (first, tier, glue) in wanted.items():
        swift = tier if "/" in tier else f"{run.format(task=task, name=tier)}/tier"
        body = test.format(first=first, tiers=f"{swift}, {run.format(task=task, name='super')}/tier", glue=glue)
        if task == "sst2":
            folder, capped = (run.format(task=task, name=name) for name in ("targets", "targets-int8"))
            whole = run.format(task=task, name="super") + "/tier"
            int8 = test.format(first=first, tiers=f"{swift}, {{path: {whole}, dtype: int8}}", glue=glue)
            lines += [f"{body} --run {folder}", f"{int8} --sweep.targets '[0.992, 0.99]' --run {capped}"]
            about = f"--task sst2 --source {data}/glue --out results/{TARGETS}"
            lines.append(
                f"python benchmarks/bench_targets.py {folder} --capped-run {capped} --capped-target 0.992 {about}"
            )
        for threads in (1, 2):
            folder = run.format(task=task, name=f"rivals-{threads}")
            compiled = {"compiled": "true"} if task == "sst2" and threads == 1 else {}  # it takes minutes
            study = " ".join(f"--study.{key} {value}" for key, value in (STUDY[task] | compiled).items())
            lines.append(f"OMP_NUM_THREADS={threads} {body} {study} --run {folder}")
            lines.append(f"python scripts/store_results.py {folder}")
    return lines


def tables(results: Path, data: str) -> dict[str, str]:
    """What the page shows, by the name of its place; without what is not kept.

    Args:
        results: folder with what was measured.
        data: as for `make results`, in the commands shown.
    """
    found = {"speed-commands": code(commands(data))}
    if (file := results / TARGETS).is_file():
        found["targets"] = targets_text(json.loads(file.read_text()))
    order = list(TASKS)
    files = sorted((file for file in results.glob(RIVALS) if file.parent.name in order), key=lambda file: file.name)
    files.sort(key=lambda file: order.index(file.parent.name))
    if files:
        found["rivals"] = rivals_table([(file.parent.name, json.loads(file.read_text())) for file in files])
    return found
