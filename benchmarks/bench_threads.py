"""What passive waiting of threads is worth beside a busy process, and what it costs alone.

    python benchmarks/bench_threads.py --threads 2 --rounds 3

A BiLSTM and a small encoder answer batches in processes of their own, with threads that spin while they wait (the
default of OpenMP) and with passive ones (what ``dial`` sets), in turns: alone, and beside as many busy processes as
asked for. How threads wait is settled when torch is imported, so each measurement is a new process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import defaultdict

import numpy as np
from measure import machine  # type: ignore[import-not-found]  # the script's folder is on the path

POLICIES = {"spinning": {"OMP_WAIT_POLICY": "ACTIVE"}, "passive": {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}}
MODELS = {
    "bilstm": {"model_type": "bilstm"},
    "encoder": {
        "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
}  # fmt: skip
WORK = """
import sys, time
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
import dial.models
settings, threads, batch, length, seconds = {settings!r}, {threads}, {batch}, {length}, {seconds}
torch.set_num_threads(threads)
torch.manual_seed(0)
model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**settings)).eval()
ids = torch.randint(5, 5000, (batch, length))
with torch.inference_mode():
    for _ in range(2):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
        calls += 1
print(calls * batch / (time.perf_counter() - began))
"""
BUSY = "while True: pass"


def rows_per_second(code: str, policy: str) -> float:
    """What a process of that policy reaches."""
    chosen = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT", "KMP_LIBRARY", "OMP_NUM_THREADS")
    environment = {key: value for key, value in os.environ.items() if key not in chosen}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **POLICIES[policy]},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def measure(codes: dict[str, str], busy: int, rounds: int) -> None:
    """Print rows per second of each model and policy, in turns, beside so many busy processes."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    try:
        for turn in range(rounds):
            for model, code in codes.items():
                for policy in list(POLICIES)[:: 1 if turn % 2 else -1]:
                    found[model, policy].append(rows_per_second(code, policy))
    finally:
        for process in others:
            process.kill()
            process.wait()
    for model in codes:
        spinning, passive = (np.array(found[model, policy]) for policy in POLICIES)
        ratios = passive / spinning
        print(
            f"{model}, {'alone' if not busy else f'beside {busy} busy'}: spinning {np.median(spinning):,.0f} rows/s, "
            f"passive {np.median(passive):,.0f}; ratio {np.median(ratios):.3f} [{ratios.min():.3f}, {ratios.max():.3f}]"
        )


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1], help="busy processes beside")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=25)
    options = parser.parse_args()
    print(f"{machine()}; measured with {options.threads} threads")
    shared = {name: getattr(options, name) for name in ("threads", "batch", "length", "seconds")}
    codes = {name: WORK.format(settings=settings, **shared) for name, settings in MODELS.items()}
    for busy in options.busy:
        measure(codes, busy, options.rounds)


if __name__ == "__main__":
    main()
