"""`dial predict` against its model calls alone (90 % of their throughput), and its memory (ten times the rows: +10 %).

Speed: the input is cut into pieces; each is answered by the whole command (reading, tokenising, both tiers, writing),
which notes every batch that its models got; then the same batches go through the models alone, with the same rows
leaving. Both take turns. Loading the tiers is not on the clock. Memory: the peak of two commands of their own.

Without --run a BiLSTM and a BERT of the width of MiniLM-L6 with random weights are tested first, in a folder that is
removed; about two rows in five go on to the second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from measure import clocks, machine, write_texts  # type: ignore[import-not-found]  # the script's folder is on the path

from datamodules.sources import TextFile
from dial import AdaptiveClassifier
from dial.cli.interrupts import Interrupts
from dial.cli.main import main as dial
from dial.cli.predict import predict
from dial.cli.record_files import JsonLines
from dial.stages.parquet import load_table
from dial.tiers.loading import build_tier, save_tier

LABELS = ["0", "1"]
WORDS = 9_000


def make_run(folder: Path, small: bool) -> Path:
    """Test a cascade of random tiers; gives the run folder."""
    for seed, (role, rows) in enumerate({"calibration": 300, "test": 300}.items()):
        write_texts(folder / f"{role}.csv", rows, WORDS, seed)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    if small:
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    configs: list[dict[str, Any]] = [
        {"model_type": "bilstm"},
        {"model_type": "bert", "initializer_range": 0.1, **sizes},
    ]
    saved = []
    for config in configs:
        tier = build_tier({"vocab_size": 10_000, **config}, "words", LABELS, max_length=64)
        tier.fit_tokenizer(lambda: (f"w{i}" for i in range(WORDS)))
        saved.append(str(save_tier(folder / config["model_type"], tier, {})))
    files = [f"--data.{role}_file={folder}/{role}.csv" for role in ("calibration", "test")]
    code = dial(
        [
            *("test", "--model=Cascade", f"--model.tiers={saved}", "--data=TextDataModule", *files),
            *(f"--data.train_file={folder}/calibration.csv", f"--data.cache_dir={folder}/cache"),
            *(f"--run={folder}/run", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"),
        ]
    )
    if code:
        raise SystemExit(code)
    return folder / "run"


def threshold(run: Path, share: float) -> float:
    """The softmax score that a share of the rows does not reach at the first stage."""
    table = load_table(run / "sweep" / "stages.parquet")
    return float(np.quantile(table.scores["softmax"][:, 0], share))


class Recorder:
    """Notes what a tier was given and which rows went on, and does the same again without anything around it."""

    def __init__(self, tier: Any) -> None:
        self.calls = list[tuple[Callable[..., Any], Any, list[Any]]]()
        tier.run = partial(self._record, tier.run)
        tier.run_together = partial(self._record, tier.run_together)

    def _record(self, run: Callable[..., Any], given: Any, go_on: Any, *more: Any) -> Any:
        """Runs the model, and notes what it was given and what the rule answered, to be run again alone."""
        kept: list[Any] = []

        def ask(*arguments: Any) -> Any:
            kept.append(go_on(*arguments))
            return kept[-1]

        self.calls.append((run, given, kept))
        return run(given, ask, *more)

    def replay(self) -> None:
        """The model calls alone."""
        with torch.inference_mode():
            for run, given, kept in self.calls:
                answers = iter(kept)
                run(given, lambda *_, answers=answers: next(answers))
        self.calls.clear()


def in_turns(
    classifier: AdaptiveClassifier, paths: Sequence[Path], columns: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds ``(pieces, 2)``, on the wall and of the processor, of the command and of its model calls on each file.

    Args:
        classifier: with its tiers' backends and batch sizes.
        paths: files of texts; the first does not count.
        columns: of the texts; default: those of a file of single texts.
    """
    recorders = [Recorder(tier) for tier in classifier.network.tiers]
    whole, alone = [], []
    for path in paths:
        output, start = JsonLines(path.with_suffix(".out.jsonl"), {"piece": path.stem}), clocks()
        predict(classifier, TextFile(path, columns), output, "fail", Interrupts())
        middle = clocks()
        for recorder in recorders:
            recorder.replay()
        end = clocks()
        whole.append([b - a for a, b in zip(start, middle, strict=True)])
        alone.append([b - a for a, b in zip(middle, end, strict=True)])
    return np.array(whole)[1:], np.array(alone)[1:]


def bench_speed(run: Path, rows: int, pieces: int, bound: float, batch_sizes: dict[str, int], folder: Path) -> None:
    """Whole command and model calls in turns."""
    classifier = AdaptiveClassifier.from_run(run, threshold=bound, score="softmax", batch_sizes=batch_sizes)
    paths = [folder / f"piece{piece}.csv" for piece in range(pieces + 1)]
    for piece, path in enumerate(paths):
        write_texts(path, rows // pieces, WORDS, seed=10 + piece)
    ours, models = in_turns(classifier, paths)
    work = {name: f"{work.rows:,} rows in {work.batches:,} batches" for name, work in classifier.executor.work.items()}
    print(f"{rows:,} texts: {work}")
    drawn = np.random.default_rng(0).integers(0, pieces, (2000, pieces))
    for column, clock in enumerate(("wall", "processor")):
        ratio = models[:, column].sum() / ours[:, column].sum()
        again = models[drawn, column].sum(axis=1) / ours[drawn, column].sum(axis=1)
        low, high = np.quantile(again, [0.025, 0.975])
        print(
            f"whole command, {clock} time: {rows / ours[:, column].sum():,.0f} rows/s, {ratio:.1%} "
            f"[{low:.1%}, {high:.1%}] of the throughput of its model calls; target 90%"
        )


def peak(run: Path, rows: int, bound: float, folder: Path) -> float:
    """Peak memory in MiB of a command over so many rows."""
    source = folder / f"rows{rows}.csv"
    write_texts(source, rows, WORDS)
    command = [sys.executable, "-m", "dial", "predict", str(run), str(source), "--out", str(folder / f"rows{rows}")]
    command += ["--threshold", str(bound), "--score", "softmax", "--progress", "0", "--part-rows", "20000"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    done = json.loads((folder / f"rows{rows}" / "_manifest.json").read_text())
    assert done["rows"] == rows
    return usage.ru_maxrss / 1024


def main() -> None:
    """Both, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("speed", "memory"))
    parser.add_argument("--run", help="folder of `dial test` of a cascade swift, super")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--pieces", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.4, help="of rows that go on")
    parser.add_argument("--batch-sizes", type=int, nargs=2, default=[64, 32])
    parser.add_argument("--memory-rows", type=int, nargs=2, default=[20_000, 200_000])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.only != "memory":
            (folder / "speed").mkdir()
            run = Path(options.run) if options.run else make_run(folder / "speed", small=False)
            sizes = dict(zip(("swift", "super"), options.batch_sizes, strict=True))
            bound = threshold(run, options.share)
            bench_speed(run, options.rows, options.pieces, bound, sizes, folder)
        if options.only != "speed":
            (folder / "memory").mkdir()
            run = make_run(folder / "memory", small=True)
            few, many = (peak(run, rows, threshold(run, 0.4), folder) for rows in options.memory_rows)
            rows = " and ".join(f"{count:,}" for count in options.memory_rows)
            print(f"memory on {rows} rows: {few:,.0f} and {many:,.0f} MiB, {many / few - 1:+.1%}; target at most +10%")


if __name__ == "__main__":
    main()
