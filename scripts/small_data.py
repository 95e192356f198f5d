"""Fits with the defaults before and now, on small sets: `results/small_data.md` from `results/small_data.json`.

A cell is one `dial fit` with `configs/model/finetune.yaml`; its tier then answers the official validation rows. What is
in the JSON is skipped, so the same command goes on. `--only minilm-l6-h384/cola` does a part.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from datamodules import GLUEDataModule
from dial.cli.trainer import run_trainer_command
from dial.files import read_json, write_json
from dial.stages.metrics.metrics import evaluate

ROOT = Path(__file__).resolve().parent.parent
JSON, PAGE = ROOT / "results/small_data.json", ROOT / "results/small_data.md"
BEFORE = ("--trainer.max_epochs", "3", "--model.optimizer", "torch.optim.AdamW", "--model.optimizer.init_args.lr")
ARMS: dict[str, tuple[str, ...]] = {"before": (*BEFORE, "5e-5"), "now": ()}
# Rows to train on; with them a tenth to validate on, as many as a set of that size would have.
CUTS = {"sst2": (500, 1_000, 3_000, 10_000), "cola": (None,), "mrpc": (None,), "rte": (None,)}


@dataclass(frozen=True)
class Cell:
    """One fit.

    Attributes:
        model: name of its folder.
        task: of GLUE.
        rows: training rows; None: all that the task has.
        arm: which defaults.
        seed: of everything.
    """

    model: str
    task: str
    rows: int | None
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Key in the JSON, and folder."""
        return f"{self.model}/{self.task}-{self.rows or 'all'}/{self.arm}/seed{self.seed}"

    def command(self, data: str, models: str, run: str) -> list[str]:
        """Of `dial fit`."""
        limits = f'{{"train": {self.rows}, "validation": {max(50, self.rows // 10)}}}' if self.rows else None
        return [
            *("fit", "--config", "configs/model/finetune.yaml", "--data", "GLUEDataModule", "--data.task", self.task),
            *("--data.source", f"{data}/glue", *(("--data.max_rows", limits) if limits else ())),
            *("--model.path", f"{models}/{self.model}", *ARMS[self.arm], "--trainer", "configs/trainer/cpu.yaml"),
            *("--data.seed", str(self.seed), "--seed_everything", str(self.seed), "--run", run),
        ]


def cells(models: Sequence[str], seeds: int) -> Iterator[Cell]:
    """All of them; every set once before any a second time."""
    for model in models:
        for seed in range(seeds):
            for task, cuts in CUTS.items():
                for rows in cuts:
                    yield from (Cell(model, task, rows, arm, seed) for arm in ARMS)


def measure(cell: Cell, data: str, models: str, runs: str) -> dict[str, Any]:
    """Fit, then answer the test rows."""
    run, begin = f"{runs}/{cell.name}", time.monotonic()
    if run_trainer_command(cell.command(data, models, run)):
        raise SystemExit(f"{cell.name}: dial fit failed")
    module = GLUEDataModule(cell.task, source=f"{data}/glue")
    rows = module.read("test")
    answers = np.array(predict(Path(run) / "tier", list(rows.units())))
    card = read_json(Path(run) / "tier/card.json", "run")
    shutil.rmtree(Path(run) / "checkpoints")
    return {
        "metric": module.metrics[0],
        "quality": evaluate(module.metrics[0], rows.label, answers),
        "largest_share": float(np.bincount(answers).max() / len(answers)),
        "validation": card["validation_quality"],
        "seconds": round(time.monotonic() - begin),
        **card["fit"],
    }


def predict(folder: Path, units: Sequence[tuple[str, ...]]) -> list[int]:
    """Classes that a tier gives texts or pairs, by plain transformers."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    order = sorted(range(len(units)), key=lambda i: sum(map(len, units[i])))
    answers = [0] * len(units)
    for start in range(0, len(order), 64):
        batch = order[start : start + 64]
        texts = [list(column) for column in zip(*(units[i] for i in batch), strict=True)]
        with torch.inference_mode():
            encoding = tokenizer(*texts, truncation=True, max_length=128, padding=True, return_tensors="pt")
            for i, answer in zip(batch, model(**encoding).logits.argmax(dim=1).tolist(), strict=True):
                answers[i] = answer
    return answers


def in_child(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """Measure in a fork, so that no cell inherits from the one before, and the imports are paid once.

    Raises:
        SystemExit: the child failed.
    """
    out = Path(options.runs) / cell.name / "cell.json"
    if out.is_file():
        return read_json(out, "runs")
    if (child := os.fork()) == 0:
        code = 1
        try:
            write_json(out, measure(cell, options.data, options.models, options.runs))
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"{cell.name}: failed")
    return read_json(out, "runs")


def table(measured: dict[str, Any]) -> Iterator[str]:
    """One line for each model and set: steps, rate and quality of both arms, each seed's."""
    yield "| model | set | training rows | metric | before: steps, rate | quality, % | now: steps, rate | quality, % |"
    yield "|---|---|---|---|---|---|---|---|"
    sets = dict.fromkeys(tuple(name.split("/")[:2]) for name in measured)
    for model, name in sets:
        columns: list[str] = []
        one: dict[str, Any] = {}
        for arm in ARMS:
            found = [one for key, one in measured.items() if key.startswith(f"{model}/{name}/{arm}/")]
            if not found:
                columns += ["–", "–"]
                continue
            one = found[0]
            values = [100 * cell["quality"] for cell in found]
            marks = [
                f"{v:.1f}{'*' if cell['largest_share'] > 0.99 else ''}" for v, cell in zip(values, found, strict=True)
            ]
            mean = f" (mean {statistics.mean(values):.1f})" if len(values) > 1 else ""
            columns += [f"{one['steps']}, {one['learning_rate']:g}", f"{', '.join(marks)}{mean}"]
        yield f"| {model} | {name.split('-')[0]} | {one['train_rows']:,} | {one['metric']} | {' | '.join(columns)} |"


def write_page(measured: dict[str, Any]) -> None:
    """Put the table where it stands in the page."""
    begin, end = "<!-- small data -->\n", "<!-- end small data -->"
    before, rest = PAGE.read_text().split(begin)
    PAGE.write_text(before + begin + "\n".join(table(measured)) + "\n" + end + rest.split(end)[1])


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with glue/sst2, glue/cola, ... as parquet")
    parser.add_argument("--models", default="../shared/models", help="folder with the models")
    parser.add_argument("--model", nargs="+", default=["bert-tiny-mlm", "minilm-l6-h384"], help="which of them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="cells with this in their name")
    parser.add_argument("--runs", default="runs/small-data", help="folder of the run folders")
    options = parser.parse_args()
    measured = read_json(JSON, "runs") if JSON.is_file() else {}
    for cell in cells(options.model, options.seeds):
        if options.only in cell.name and cell.name not in measured:
            measured[cell.name] = in_child(cell, options)
            write_json(JSON, measured)
    write_page(measured)


if __name__ == "__main__":
    main()
