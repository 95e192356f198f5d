"""BERT-base in float32, bfloat16 and int8: time of one row of 128 tokens, in turns, and what lower precision keeps.

    python benchmarks/bench_precision.py --threads 2
    python benchmarks/bench_precision.py --task sst2 --source ../shared/data/glue runs/results/sst2/seed0/super/tier

Target: int8 at least 2.5 times as fast as float32. With folders of tiers also their quality and answers in int8, and
epsilon: how far the logits of a row move with the batch that it is in.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from measure import Turns, machine  # type: ignore[import-not-found]  # the script's folder is on the path
from transformers import BertConfig, BertForSequenceClassification

from datamodules import GLUEDataModule
from dial.stages.metrics.metrics import evaluate
from dial.tiers.loading import Tier, load_tier
from dial.tiers.precision import cast_encoder
from dial.tiers.tokens import Tokeniser

DTYPES = ("bfloat16", "int8")
TARGET = 2.5


def encoder(dtype: str) -> Any:
    """BERT-base with random weights, the same for every precision."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig()).eval()
    cast_encoder(model, dtype)
    return model


def speed(length: int, batch: int, pairs: int) -> None:
    """Print the ratio of times of float32 and each lower precision."""
    ids = torch.randint(5, 30000, (batch, length))
    mask = torch.ones_like(ids)
    whole = encoder("float32")
    for dtype in DTYPES:
        lower = encoder(dtype)

        def call(model: Any) -> Callable[[], None]:
            return lambda: model.bert(ids, mask)

        turns = Turns(call(lower))
        with torch.inference_mode():
            call(lower)()
            for _ in range(pairs + turns.warm_up + 1):
                call(whole)()
                turns.step()
        print(turns.report(f"float32 over {dtype}, batch {batch}, {length} tokens", TARGET))


def outputs(tier: Tier, units: Sequence[Any], batches: Sequence[np.ndarray]) -> np.ndarray:
    """Logits ``(N, C)`` of the last exit in the given batches."""
    tokeniser = Tokeniser(tier)
    tokens = tokeniser(list(units))
    found = np.zeros((len(units), max(1, len(tier.label_names))), dtype=np.float32)
    with torch.inference_mode():
        for rows in batches:
            found[rows] = tier(tokeniser.collate([tokens[i] for i in rows]))[:, -1].numpy()
    return found


def quality(folder: str, task: str, source: str, rows: int) -> None:
    """Print quality, agreement and epsilon of a tier in each precision, on the test rows of a task."""
    data = GLUEDataModule(task, source)
    whole = data.rows(data.test_roles()[0])
    units: list[Any] = [unit if len(unit) > 1 else unit[0] for unit in whole.units()][:rows]
    label = whole.label[: len(units)]
    reference = None
    for dtype in ("float32", *DTYPES):
        tier = load_tier({"path": folder, "dtype": dtype}, dtype, data.label_names, "tier").eval()
        order = np.argsort([len(row.ids) for row in Tokeniser(tier)(units)], kind="stable")
        shuffled = np.random.default_rng(0).permutation(len(units))
        layouts = [np.split(order, range(32, len(units), 32)), np.split(shuffled, range(7, len(units), 7))]
        layouts.append(list(np.arange(len(units))[:, None]))
        found = [outputs(tier, units, batches) for batches in layouts]
        reference = found[0] if reference is None else reference
        name = data.metrics[0]
        answers = [each[:, 0] if each.shape[1] == 1 else each.argmax(axis=1) for each in (found[0], reference)]
        moved = np.max([np.abs(each - found[0]).max(axis=1) for each in found[1:]], axis=0)
        print(
            f"{folder} in {dtype}: {name} {100 * evaluate(name, label, answers[0]):.2f}, answers as in float32 "
            f"{100 * (answers[0] == answers[1]).mean():.2f} %, epsilon over batches of 32, 7 and 1: largest "
            f"{moved.max():.2g}, 99 % of rows {np.quantile(moved, 0.99):.2g}, median {np.median(moved):.2g}"
        )


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiers", nargs="*", help="folders of trained tiers, for --task")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--task")
    parser.add_argument("--source", help="folder with one folder per task")
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    if bool(options.tiers) != bool(options.task and options.source):
        parser.error("folders of tiers, --task and --source go together")
    torch.set_num_threads(options.threads)
    print(machine())
    if not options.tiers:
        speed(options.length, options.batch, options.pairs)
    for folder in options.tiers:
        quality(folder, options.task, options.source, options.rows)


if __name__ == "__main__":
    main()
