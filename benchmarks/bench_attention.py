"""OpenVINO's attention as one operation and as several, by rows and tokens, against its own conversion from torch.

    python benchmarks/bench_attention.py
    python benchmarks/bench_attention.py runs/super/tier --dtype float32 --shapes 1x25 32x25

Processor time of one thread, all forms in turns, medians of the ratios of a turn. `FUSED_FROM` of
`dial/tiers/backends/graphs.py` lies where one operation begins to be faster. Without a folder, a random BERT of
MiniLM-L6's size; random ids, the second half of a batch padded by an eighth.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from bench_backends import NAMES, from_torch, random_tier  # type: ignore[import-not-found]  # beside this script
from measure import clocks, machine  # type: ignore[import-not-found]

from dial.tiers.backends import graphs
from dial.tiers.backends.choice import Route, take
from dial.tiers.loading import load_tier

SHAPES = ["1x12", "1x25", "4x25", "32x25", "8x64", "8x128", "4x192", "4x256", "2x384", "2x500"]


def batch(shape: str) -> dict[str, torch.Tensor]:
    """Random ids ``(B, T)`` of a shape such as 8x128, with a mask where there are several rows."""
    rows, tokens = map(int, shape.split("x"))
    ids = torch.from_numpy(np.random.default_rng(0).integers(1000, 20_000, (rows, tokens)))
    mask = torch.ones_like(ids)
    mask[(rows + 1) // 2 :, tokens - tokens // 8 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def main() -> None:
    """Print milliseconds a row and the ratio to OpenVINO's own conversion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tier", nargs="?", help="folder of a classifier of two classes; default: a random one")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        tier = load_tier(options.tier or str(random_tier(Path(scratch))), "tier", NAMES).eval()
        batches = {shape: batch(shape) for shape in options.shapes}
        by_hand = {shape: from_torch(tier, options.dtype, [each]) for shape, each in batches.items()}
        if not take(tier, Route("openvino", options.dtype)) or tier.parts is None:
            raise SystemExit("this tier is not computed by OpenVINO")
        graph = tier.parts[0]
        for shape, each in batches.items():
            spent = np.empty((options.turns + 1, 3))
            for turn in range(options.turns + 1):
                for place in range(3):
                    form = (place + turn) % 3
                    graphs.FUSED_FROM = 1 if form == 1 else 10**9
                    before = clocks()
                    by_hand[shape]() if form == 2 else graph(each)
                    spent[turn, form] = 1e3 * (clocks()[1] - before[1]) / len(each["input_ids"])
            apart, fused, _ = np.median(spent[1:] / spent[1:, 2:], axis=0)
            several, one, hand = np.median(spent[1:], axis=0)
            print(
                f"{shape:>7}: {hand:.2f} ms a row by hand; as several {several:.2f} ({apart:.3f} of it), as one "
                f"{one:.2f} ({fused:.3f})"
            )


if __name__ == "__main__":
    main()
