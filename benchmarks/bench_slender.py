"""Time and memory of slenderisation at the size of BERT-base: the aims stand beside the figures.

Ratios come from turns: what is compared runs in alternation, and the median of the pairs' ratios is printed with the
quartiles.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig

from dial.models.multi_exit import MultiExitForSequenceClassification
from dial.models.multi_exit_config import MultiExitConfig
from dial.models.slender.embeddings import factorise_embeddings
from dial.models.slender.encoder import cut, shape_model
from dial.models.slender.importance import TaylorImportance
from dial.models.slender.structures import attach_masks, masks

WORDS, WIDTH, RANK = 30_522, 768, 128


class Shape:
    """The slender shape of COST-EFF's Table 2 at 8 times: 2 heads, 256 neurons, rank 128."""

    heads, intermediate, embedding_rank = [2] * 12, [256] * 12, RANK


def seconds(work: Callable[[], object]) -> float:
    """Seconds on the wall that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(work: Callable[[], object]) -> str:
    """Seconds by the clock and of the processor, which differ on a machine that does other things as well."""
    processor = time.process_time()
    elapsed = seconds(work)
    return f"{elapsed:.2f} s, {time.process_time() - processor:.2f} s of processor"


def in_turns(first: Callable[[], object], second: Callable[[], object], repeats: int) -> str:
    """Median and quartiles of the time of ``first`` over that of ``second``, and both medians."""
    first(), second()
    pairs = np.array([(seconds(first), seconds(second)) for _ in range(repeats)])
    low, middle, high = np.quantile(pairs[:, 0] / pairs[:, 1], (0.25, 0.5, 0.75))
    times = np.median(pairs, axis=0) * 1000
    return f"{middle:5.2f} ({low:.2f} to {high:.2f}); {times[0]:.1f} ms and {times[1]:.1f} ms"


def decompose() -> None:
    """In a process of its own, for the peak of its memory: the matrix itself is not counted."""
    weight = torch.randn(WORDS, WIDTH)
    factorise_embeddings(weight[:500], 10)  # what the linear algebra library allocates once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    elapsed = timed(lambda: factorise_embeddings(weight, RANK))
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"thin SVD {WORDS:,} x {WIDTH}: {elapsed} (10 s), {megabytes:.0f} MB (1,000 MB)")


def time_cut() -> None:
    """Print the time of cutting two heads and 256 neurons per layer out of BERT-base."""
    model = AutoModel.from_config(BertConfig(), add_pooling_layer=False)
    attach_masks(model)
    for mask in masks(model):
        mask[2 if len(mask) == 12 else 256 :] = 0
    print(f"cut of BERT-base: {timed(lambda: cut(model))} (2 s)")


def time_inference(repeats: int) -> None:
    """Print how much faster the slender encoder is than BERT-base, one row at a time."""
    full, slender = (AutoModel.from_config(BertConfig(), add_pooling_layer=False).eval() for _ in range(2))
    shape_model(slender, Shape)
    batch = {"input_ids": torch.randint(1, WORDS, (1, 128)), "attention_mask": torch.ones(1, 128, dtype=torch.long)}
    counts = [sum(p.numel() for p in model.parameters()) for model in (full, slender)]
    with torch.inference_mode():
        ratio = in_turns(lambda: full(**batch), lambda: slender(**batch), repeats)
    print(f"BERT-base over slender ({counts[0]:,} and {counts[1]:,} parameters), 128 tokens, batch 1: {ratio} (5.5)")


def time_taylor(repeats: int, layers: int, rows: int) -> None:
    """Print how much longer a pass for Taylor importance takes than a training step."""
    encoder = {"model_type": "bert", "num_hidden_layers": layers}
    model = MultiExitForSequenceClassification(MultiExitConfig(encoder=encoder))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids, labels = torch.randint(1, WORDS, (rows, 64)), torch.randint(0, 2, (rows,))
    taylor = TaylorImportance(model)

    def losses() -> list[Tensor]:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return [nn.functional.cross_entropy(logits[:, i], labels) for i in range(logits.shape[1])]

    def train() -> None:
        optimizer.zero_grad()
        torch.stack(losses()).sum().backward()
        optimizer.step()

    ratio = in_turns(lambda: taylor.update(losses()), train, repeats)
    print(f"Taylor pass over training pass, {layers} layers of BERT-base, {rows} x 64 tokens: {ratio} (1.3)")


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--layers", type=int, default=12, help="of the Taylor pass")
    parser.add_argument("--rows", type=int, default=8, help="of the Taylor pass")
    parser.add_argument("--only-svd", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.only_svd:
        decompose()
        return
    subprocess.run([sys.executable, __file__, "--only-svd"], check=True)
    time_cut()
    time_inference(options.repeats)
    time_taylor(max(3, options.repeats // 3), options.layers, options.rows)


if __name__ == "__main__":
    main()
