"""What keeping freed memory is worth where a model answers batch after batch (:func:`dial.heap.kept_memory`).

    python benchmarks/bench_heap.py --rounds 5

An encoder of MiniLM-L6's size answers batches in processes of their own, with memory kept and with glibc's defaults, in
turns. The share of what both take is reported of processor time, too, and the most memory that each held.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import defaultdict

import numpy as np
from measure import machine  # type: ignore[import-not-found]  # the script's folder is on the path

from dial.heap import OF_USERS

WORK = """
import contextlib, resource, time
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from dial.heap import kept_memory
torch.set_num_threads({threads})
sizes = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **sizes)).eval()
ids = torch.randint(5, 5000, ({rows}, {length}))
with torch.inference_mode(), kept_memory() if {kept} else contextlib.nullcontext():
    with torch.autocast("cpu", torch.bfloat16, enabled={bf16}):
        for _ in range(2):
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range({calls}):
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
        spent = time.perf_counter() - began, time.process_time() - cpu
print(*spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def measured(**settings: object) -> list[float]:
    """Seconds on the wall and of processor time, and GB held at most, of a new process."""
    plain = {key: value for key, value in os.environ.items() if key not in OF_USERS}
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(**settings)], env=plain, capture_output=True, text=True, check=True
    )
    return [float(number) for number in done.stdout.split()]


def main() -> None:
    """Print a line per type and shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["32x256", "32x64", "128x32", "1x256"], help="rows x tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(machine())
    for shape in options.shapes:
        rows, length = map(int, shape.split("x"))
        for bf16 in (False, True):
            found = defaultdict(list)
            for turn in range(options.rounds):
                for kept in (False, True) if turn % 2 else (True, False):
                    settings = {"rows": rows, "length": length, "calls": options.calls, "threads": options.threads}
                    found[kept].append(measured(kept=kept, bf16=bf16, **settings))
            default, kept_ones = np.array(found[False]), np.array(found[True])
            wall, cpu = np.median(kept_ones[:, :2] / default[:, :2], axis=0)
            spread = np.sort(kept_ones[:, 0] / default[:, 0])
            print(
                f"{rows} rows of {length} tokens, {'bf16' if bf16 else 'fp32'}: {wall:.2f} of the default's time "
                f"(median of {options.rounds}, {spread[0]:.2f} to {spread[-1]:.2f}), {cpu:.2f} of its processor time; "
                f"at most {kept_ones[:, 2].max():.2f} GB held, {default[:, 2].max():.2f} by default"
            )


if __name__ == "__main__":
    main()
