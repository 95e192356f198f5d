"""Time of counting: one path of BERT-base, cost functions of all depths of an encoder, and stage costs of many rows.

A test run may spend 20 s on counting, statistics and plots together; the aim here is below 1 s for a path.
"""

import argparse
import os
import time
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, PretrainedConfig

from dial.costs.fitting import fit_cost
from dial.costs.functions import ModelCosts
from dial.costs.macs import count_macs
from dial.models.bilstm import BiLSTMConfig
from dial.stages.stage import Stage


def build(config: PretrainedConfig, attention: str | None = None) -> torch.nn.Module:
    """A classifier of random weights, with ``attention`` eager or sdpa where it is given."""
    options = {"attn_implementation": attention} if attention else {}
    return AutoModelForSequenceClassification.from_config(config, **options)


def tokens(length: int) -> dict[str, torch.Tensor]:
    """An encoding of one row, ``(1, length)``."""
    ids = torch.ones(1, length, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def count(model: torch.nn.Module, length: int) -> int:
    """MACs of one row of ``length`` tokens."""
    return count_macs(model, tokens(length))


def time_counts(repeats: int) -> None:
    """Seconds of one count, for each kind of model and attention."""
    models = {f"BERT-base {kind}": build(BertConfig(), kind) for kind in ("eager", "sdpa")}
    models["BiLSTM"] = build(BiLSTMConfig())
    count(models["BiLSTM"], 8)  # imports fvcore
    print("one count (median)")
    for name, model in models.items():
        for length in (16, 128, 512):
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                macs = count(model, length)
                seconds.append(time.perf_counter() - start)
            print(f"  {name:16} {length:4} tokens  {macs / 1e9:9.4f} GMAC  {np.median(seconds):6.3f} s")


def time_exits(layers: int, rows: int) -> None:
    """An encoder with an exit after every layer, as plain cut models; then the costs of a table."""
    start = time.perf_counter()
    costs = {}
    for depth in range(layers):
        model = build(BertConfig(num_hidden_layers=depth + 1))
        start_count = time.perf_counter()
        costs[depth] = fit_cost(partial(count, model), range(4, 129))
        print(f"  exit {depth:2}: {time.perf_counter() - start_count:5.2f} s")
    print(f"all {layers} cost functions, building included: {time.perf_counter() - start:.1f} s")
    stages = [Stage(f"exit{depth}", "bert", depth) for depth in range(layers)]
    lengths = {"bert": np.random.default_rng(0).integers(4, 129, rows)}
    start = time.perf_counter()
    ModelCosts({"bert": costs}).stage_macs(stages, lengths)
    print(f"costs of {rows:,} rows x {layers} stages: {time.perf_counter() - start:.3f} s")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rows", type=int, default=100_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    time_counts(arguments.repeats)
    time_exits(arguments.layers, arguments.rows)


if __name__ == "__main__":
    main()
