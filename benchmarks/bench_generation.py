"""Writing by a tier against `generate` of transformers, in turns over the same batches of like length.

    python benchmarks/bench_generation.py --threads 1 --model MODEL --texts sources.txt --beams 1 4

Target: at most the time of transformers, encoder included (a ratio of 1), with the same texts.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Turns, machine  # type: ignore[import-not-found]  # the script's folder is on the path

from dial.tiers.loading import load_tier
from dial.tiers.tokens import Tokeniser

TARGET = 1.0


def bench(tier: Any, batches: list[dict[str, torch.Tensor]], beams: int, repeats: int) -> None:
    """Print the ratio of times, and how many rows have another text."""
    settings = {"num_beams": beams, "max_new_tokens": tier.generation.max_new_tokens, "do_sample": False}
    order = np.concatenate([np.random.default_rng(seed).permutation(len(batches)) for seed in range(repeats)])
    place, ours, theirs = [0], [], []  # texts of each step

    def reference() -> None:
        tokens = tier.model.generate(**batches[place[0]], **settings)
        theirs.append(tier.tokenizer.batch_decode(tokens, skip_special_tokens=True))

    turns = Turns(reference, warm_up=1)
    with torch.inference_mode():
        for index in order:
            place[0], batch = int(index), batches[index]
            ours.append(tier.write(batch, torch.arange(len(batch["input_ids"])), tier.read(batch)).texts)
            turns.step()
    pairs = [pair for step in zip(ours, theirs, strict=True) for pair in zip(*step, strict=True)]
    print(turns.report(f"{'greedy' if beams == 1 else f'{beams} beams'}, {len(batches[0]['input_ids'])} rows", TARGET))
    print(f"{sum(a != b for a, b in pairs)} of {len(pairs)} rows have another text")


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of an encoder-decoder")
    parser.add_argument("--texts", required=True, help="file with a source a line")
    parser.add_argument("--prefix", default="", help="before every source")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    lines = Path(options.texts).read_text(encoding="utf-8").splitlines()[: options.rows]
    for beams in options.beams:
        view = {"path": options.model, "beams": beams, "max_new_tokens": options.max_new_tokens}
        tier = load_tier(view, "tier", ["*"])
        tokeniser = Tokeniser(tier)
        rows = sorted(tokeniser([options.prefix + line for line in lines]), key=lambda row: len(row.ids))
        size = options.batch_size
        bench(tier, [tokeniser.collate(rows[i : i + size]) for i in range(0, len(rows), size)], beams, options.repeats)


if __name__ == "__main__":
    main()
