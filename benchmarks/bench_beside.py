"""Two cores in bulk: each batch on two threads, against two batches at once on one thread each.

    python benchmarks/bench_beside.py
    python benchmarks/bench_beside.py runs/super/tier --task sst2 --source ../shared/data/glue --routes "torch bfloat16"

The same batches of 32 rows of similar length; in the second form two Python threads, each with a tier of its own, take
the next batch as soon as they are free. Both forms take turns; ratios of rows per second on the wall, and of processor
time, which tells of the work that a form adds. Without a folder, a random BERT of MiniLM-L6's size reads random words.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from bench_backends import NAMES, random_tier  # type: ignore[import-not-found]  # beside this script
from measure import clocks, machine  # type: ignore[import-not-found]

from datamodules import GLUEDataModule
from dial.machine import limited_threads
from dial.tiers.backends.choice import TORCH, Route, routes, take
from dial.tiers.loading import load_tier
from dial.tiers.tier import Encoding, Tier
from dial.tiers.tokens import Tokeniser

SIZE = 32


def compute(tier: Tier, batches: Iterator[Encoding], threads: int) -> None:
    """Batches as long as there are some."""
    with torch.inference_mode(), limited_threads(threads):
        for batch in batches:
            tier(batch)


def beside(tiers: list[Tier], batches: list[Encoding]) -> None:
    """All batches, each by the tier that is free first, in a Python thread for each."""
    waiting = iter(batches)  # of a list: two threads may take from it
    workers = [Thread(target=compute, args=(tier, waiting, 1)) for tier in tiers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def measure(alone: Tier, pair: list[Tier], batches: list[Encoding], turns: int) -> np.ndarray:
    """Seconds ``(turns, 2, 2)``: both forms, on the wall and of processor time; a first turn warms up.

    Each form has tiers of its own: a backend opens its file again for another number of threads.
    """
    spent = np.empty((turns + 1, 2, 2))
    for turn in range(turns + 1):
        for form in ((0, 1), (1, 0))[turn % 2]:
            before = clocks()
            beside(pair, batches) if form else compute(alone, iter(batches), 2)
            spent[turn, form] = np.subtract(clocks(), before)
    return spent[1:]


def main() -> None:
    """Print rows per second of both forms and their ratio, for each route."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tier", nargs="?", help="folder of a trained tier, for --task")
    parser.add_argument("--task")
    parser.add_argument("--source", help="folder with one folder per task")
    parser.add_argument("--routes", nargs="+", default=[str(TORCH), *map(str, routes())])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    if bool(options.tier) != bool(options.task and options.source):
        parser.error("the folder of a tier, --task and --source go together")
    torch.set_num_threads(2)
    print(machine())
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        names: Any = NAMES
        rows: list[Any] = [" ".join(f"w{i}" for i in rng.integers(0, 30_517, n)) for n in rng.integers(5, 46, 999)]
        if options.tier:
            data = GLUEDataModule(options.task, options.source)
            units = list(data.rows(data.test_roles()[0]).units())
            names, rows = data.label_names, [unit if len(unit) > 1 else unit[0] for unit in units]
        folder = options.tier or str(random_tier(Path(scratch)))
        tiers = [load_tier(folder, "tier", names).eval() for _ in range(3)]
        encoded = sorted(Tokeniser(tiers[0])(rows[: options.rows]), key=lambda row: len(row.ids), reverse=True)
        tokeniser = Tokeniser(tiers[0])
        batches = [tokeniser.collate(encoded[start : start + SIZE]) for start in range(0, len(encoded), SIZE)]
        for name in options.routes:
            if not all(take(tier, Route(*name.split())) for tier in tiers):
                continue
            spent = measure(tiers[0], tiers[1:], batches, options.turns)
            low, middle, high = np.quantile(spent[:, 0] / spent[:, 1], [0.1, 0.5, 0.9], axis=0)
            one, two = len(encoded) / np.median(spent[:, :, 0], axis=0)
            print(
                f"{name:>20}: {one:.0f} rows/s in turn, {two:.0f} beside each other, {middle[0]:.2f}x [{low[0]:.2f}, "
                f"{high[0]:.2f}]; of processor time {middle[1]:.2f}x [{low[1]:.2f}, {high[1]:.2f}]"
            )


if __name__ == "__main__":
    main()
