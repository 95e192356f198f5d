"""Milliseconds per row of trained tiers: batch 1, a stated number of threads, the tiers interleaved row by row.

    python benchmarks/tier_time.py --task sst2 --source ../shared/data/glue --out times.json swift=DIR super=DIR

Every tier answers a row before the next row comes, so that a slow moment of the machine meets all of them. Only the
model is timed, as TangoBERT does (section 5.5): texts are tokenised before, and nothing is padded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules import GLUEDataModule
from dial.files import write_json
from dial.tiers.loading import Tier, load_tier


def encodings(tier: Tier, units: Sequence[tuple[str, ...]]) -> list[dict[str, torch.Tensor]]:
    """One unpadded encoding per text or pair, each tensor ``(1, T)``."""
    options = {"truncation": True, "max_length": tier.max_length, "return_tensors": "pt"}
    return [dict(tier.tokenizer(*unit, **options)) for unit in units]


def measure(tiers: dict[str, Tier], units: Sequence[tuple[str, ...]], repeats: int, warm_up: int = 10) -> np.ndarray:
    """Milliseconds ``(repeats, rows, tiers)``; the order of the tiers rotates from row to row."""
    inputs = {name: encodings(tier, units) for name, tier in tiers.items()}
    names = list(tiers)
    milliseconds = np.empty((repeats, len(units), len(names)))
    with torch.inference_mode():
        for row in range(min(warm_up, len(units))):
            for name in names:
                tiers[name](inputs[name][row])
        for repeat in range(repeats):
            for row in range(len(units)):
                for position in range(len(names)):
                    index = (position + row + repeat) % len(names)
                    start = time.perf_counter()
                    tiers[names[index]](inputs[names[index]][row])
                    milliseconds[repeat, row, index] = 1e3 * (time.perf_counter() - start)
    return milliseconds


def summarise(milliseconds: np.ndarray) -> dict[str, float]:
    """Median over the repeats of the mean over the rows, with the lowest and the highest; ``(repeats, rows)``."""
    means = milliseconds.mean(axis=1)
    return {"median_ms": float(np.median(means)), "low_ms": float(means.min()), "high_ms": float(means.max())}


def sample(task: str, source: str, rows: int) -> list[tuple[str, ...]]:
    """Test rows spread evenly over the split."""
    data = GLUEDataModule(task, source)
    units = list(data.rows(data.test_roles()[0]).units())
    return [units[i] for i in np.unique(np.linspace(0, len(units) - 1, rows).round().astype(int))]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiers", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--task", required=True)
    parser.add_argument("--source", required=True, help="folder with one folder per task")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", help="file for the numbers, JSON")
    options = parser.parse_args(arguments)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(options.threads)
    folders = dict(pair.split("=", 1) for pair in options.tiers)
    labels = GLUEDataModule(options.task, options.source).label_names
    tiers = {name: load_tier(folder, name, labels, "tiers").eval() for name, folder in folders.items()}
    units = sample(options.task, options.source, options.rows)
    milliseconds = measure(tiers, units, options.repeats)
    result = {
        "task": options.task,
        "rows": len(units),
        "repeats": options.repeats,
        "threads": options.threads,
        "batch_size": 1,
        "dtype": "float32",
        "machine": platform.machine(),
        "torch": torch.__version__,
        "tiers": {name: summarise(milliseconds[:, :, i]) for i, name in enumerate(tiers)},
    }
    if options.out:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(options.out), result)
    print(json.dumps(result, indent=2))
    return result


if __name__ == "__main__":
    main()
