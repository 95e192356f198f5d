"""Steps of `make results` on the clock: a cascade and its rivals, int8, and the executor of exits against its ideal.

What they measure is kept in `results/<task>/`; they run only when asked for (`make results ONLY=study`).
"""

from __future__ import annotations

from collections.abc import Iterator

from dial.cli.steps import Step
from scripts.results_steps import Measured, cell, glue

SEED = 0
SWIFTS = {"sst2": "bilstm-distilled", "cola": "layers2-distilled", "mrpc": "layers2-distilled"}
EXITS = "deebert"  # on the Super's encoder, as in TangoBERT's Table 2
EXECUTED = "equilibrium"
ROWS = {"study": 500, "study-int8": 250, "executor": 1500}


def measured_steps(data: str, models: str, runs: str, task: str) -> Iterator[Step]:
    """Nothing else should run on the machine meanwhile.

    Args:
        data: folder with `glue/<task>`.
        models: not used; as for the other steps.
        runs: folder of the run folders, where the tiers have been trained.
        task: one of :data:`SWIFTS`.
    """
    folder, prefix, source = cell(runs, task, SEED), f"{task}/seed{SEED}", glue(task, data)
    whole = f"{folder}/super/tier"
    cascades: dict[str, tuple[str, tuple[str, ...]]] = {
        "study": (f"{folder}/{SWIFTS[task]}/tier", ("--study.exits", f"{folder}/exits-{EXITS}")),
        "study-int8": (f"{{path: {whole}, dtype: int8}}", ()),
    }
    for name, (first, more) in cascades.items():
        cascade = ("--config", "configs/model/cascade.yaml", "--model.tiers", f"[{first}, {whole}]")
        command = (
            "dial",
            "test",
            *cascade,
            *source,
            "--study.rows",
            str(ROWS[name]),
            *more,
            "--run",
            f"{folder}/{name}",
        )
        yield Step(f"{prefix}/{name}", f"{folder}/{name}/study/study.json", command)
        keep = ("python", "scripts/store_results.py", f"{folder}/{name}")
        yield Measured(f"{prefix}/{name}/kept", f"results/{task}/{name}.json", keep)
    out = f"results/{task}/executor.json"
    what = ("--only", "batches", "--run", f"{folder}/exits-{EXECUTED}", "--rows", str(ROWS["executor"]))
    place = ("--task", task, "--source", f"{data}/glue", "--out", out)
    yield Measured(f"{prefix}/executor", out, ("python", "benchmarks/bench_executor.py", *what, *place))
