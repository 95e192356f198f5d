"""Cascades of tiers that write: the executor against the ideal, and the loop of `dial test` against writing once.

    python benchmarks/bench_texts.py --model MODEL --source FOLDER --layers 2

MODEL is an encoder-decoder, whose first layers are the Swift; FOLDER has Multi30k (`configs/data/multi30k_en_de.yaml`).

* executor, batches of 32: at least 90 % of the ideal, in which each tier has the pace of its batches alone (grouped by
  length; the Swift's encoder alone for rows that go on) and nothing else takes time;
* `dial test`: at most 1.10 times writing once with each tier in the same batches, counting, statistics and figures
  included.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow.parquet as pq
import torch
from bench_executor import report  # type: ignore[import-not-found]  # the script's folder is on the path
from lightning.pytorch import Callback, LightningModule, Trainer
from measure import Turns, clocks, machine  # type: ignore[import-not-found]

from dial.cli.main import main as dial
from dial.inference.executor import Executor
from dial.inference.staged import StagedModel
from dial.tiers.loading import load_tier
from dial.tiers.tokens import Tokeniser, Tokens
from dial.tradeoff.rules import rule_named

TESTED: dict[str, tuple[float, float]] = {}  # clocks of the writing that `dial test` is held against


def bench_executor(tiers: list[Any], units: list[str], size: int, share: float, repeats: int) -> None:
    """Random routing, by which rows that go on are rows like all others, so that paces of all rows hold for them."""
    rule = rule_named("threshold", "random", stages=("swift", "super"), thresholds=(share,))
    network = StagedModel(tiers)
    tokens = {tier.name: Tokeniser(tier)(units) for tier in tiers}
    ideal, spent = [], []
    for _ in range(repeats + 1):
        taken = [pace(tier, tokens[tier.name], size, read, write) for tier, read, write in parts(tiers)]
        start = clocks()
        answers = list(Executor(network, rule, size).run(units))
        spent.append(np.subtract(clocks(), start))
        on = sum(answer.stage > 0 for answer in answers)
        ideal.append(taken[0] * len(units) + taken[1] * (len(units) - on) + (taken[2] + taken[3]) * on)
    print(f"{on / len(units):.0%} of {len(units):,} rows go on")
    report(f"cascade of writers, batches of {size}", np.array(ideal)[1:], np.array(spent)[1:], 0.90)


def parts(tiers: list[Any]) -> list[tuple[Any, bool, bool]]:
    """Tiers with whether they read, and whether they write."""
    return [(tier, read, not read) for tier in tiers for read in (True, False)]


def pace(tier: Any, rows: list[Tokens], size: int, read: bool, write: bool) -> np.ndarray:
    """Seconds per row ``(2,)`` of reading or of writing, rows grouped by length."""
    order = sorted(rows, key=lambda row: len(row.ids))
    tokeniser = Tokeniser(tier)
    batches = [tokeniser.collate(order[i : i + size]) for i in range(0, len(order), size)]
    with torch.inference_mode():
        states = None if read else [tier.read(batch) for batch in batches]
        start = clocks()
        for index, batch in enumerate(batches):
            if states is None:
                tier.read(batch)
            else:
                tier.write(batch, torch.arange(len(batch["input_ids"])), states[index])
        return np.subtract(clocks(), start) / len(rows)


class Once(Callback):
    """Writes with each tier once after every batch of the test, and prints the ratio."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tiers of its own, with the same weights."""
        network: Any = pl_module.network
        self.tiers = [load_tier(tier.view, tier.name, ["*"]).eval() for tier in network.tiers]
        self.batch: Any = None
        self.turns = Turns(self._write, warm_up=1)
        self.spent = np.zeros(2)

    def _write(self) -> None:
        start = clocks()
        with torch.inference_mode():
            for tier in self.tiers:
                encoding = self.batch["encodings"][tier.encoding_key]
                tier.write(encoding, torch.arange(len(encoding["input_ids"])))
        self.spent += np.subtract(clocks(), start)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
        """The batch that is written, too."""
        self.batch = batch

    def on_test_batch_end(self, *args: Any, **settings: Any) -> None:
        """Take turns."""
        self.turns.step()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print."""
        print(self.turns.report("test loop, per batch", target=1.10))
        TESTED["writing"] = (float(self.spent[0]), float(self.spent[1]))


def bench_test(options: argparse.Namespace, tiers: str) -> int:
    """`dial test` with the writing beside it."""
    with tempfile.TemporaryDirectory() as name:
        files = ("--data=configs/data/multi30k_en_de.yaml", f"--data.source={options.source}")
        # Loading and encoding of 29,000 training rows, which are cached, are no part of it: an empty trial does them.
        common = ["test", "--config=configs/model/cascade.yaml", tiers, *files, f"--data.cache_dir={name}/cache"]
        common += [
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            f"--data.batch_size={options.size}",
        ]
        dial([*common, "--trainer.limit_test_batches=1", "--sweep.bootstrap=100", f"--run={name}/trial"])
        limit = f"--trainer.limit_test_batches={-(-options.rows // options.size // 2)}"  # of each of the two splits
        once = "--trainer.callbacks=[{class_path: __main__.Once}]"
        start = clocks()
        code = int(dial([*common, limit, once, f"--run={name}/run"]))
        whole, writing = np.subtract(clocks(), start), np.array(TESTED["writing"])
        for clock, all_, one in zip(("wall", "processor"), whole - writing, writing, strict=True):
            print(
                f"whole `dial test`, {clock} time: {all_:.0f} s against {one:.0f} s; ratio {all_ / one:.3f}; target 1.1"
            )
    return code


def main() -> None:
    """Run both, or the one asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of an encoder-decoder")
    parser.add_argument("--source", required=True, help="folder with Multi30k")
    parser.add_argument("--only", choices=("executor", "test"))
    parser.add_argument("--layers", type=int, default=2, help="of the Swift")
    parser.add_argument("--size", type=int, default=32, help="of batches")
    parser.add_argument("--share", type=float, default=0.5, help="of rows that go on")
    parser.add_argument("--rows", type=int, default=2000, help="of the test")
    parser.add_argument("--texts", type=int, default=384, help="for the executor")
    parser.add_argument("--limit", type=int, default=40, help="pieces of an answer")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    view = {"path": options.model, "max_new_tokens": options.limit}
    if options.only != "test":
        views = (("swift", {**view, "layers": options.layers}), ("super", view))
        tiers = [load_tier(each, name, ["*"]).eval() for name, each in views]
        texts = pq.read_table(Path(options.source) / "test.parquet", columns=["en"])["en"].to_pylist()
        units = [f"translate English to German: {text}" for text in texts[: options.texts]]
        bench_executor(tiers, units, options.size, options.share, options.repeats)
    if options.only != "executor":
        big = f"path: {options.model}, max_new_tokens: {options.limit}"
        raise SystemExit(bench_test(options, f"--model.tiers=[{{{big}, layers: {options.layers}}}, {{{big}}}]"))


if __name__ == "__main__":
    main()
