"""A training step with an exit after every layer against one with a single exit: the target is a ratio of at most 1.15.

Both train an encoder of the size of MiniLM-L6 (random weights) by the module of `dial fit`, with loss, policy, clipping
and AdamW, on the same batches: 32 rows as long as those of SST-2, rows of similar length together.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from measure import Turns, machine  # type: ignore[import-not-found]  # the script's folder is on the path
from torch import nn
from transformers import AutoModel, BertConfig

from dial.models import build_word_tokenizer
from lightning_modules import MultiExit
from lightning_modules.policies import GradientEquilibrium, JointSum, LayerWeighted

MINILM = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
LABELS = ["negative", "positive"]
POLICIES = {"equilibrium": GradientEquilibrium, "joint": JointSum, "pabee": LayerWeighted}
POOL = 50  # batches whose rows are sorted by length together


class Loop:
    """Optimiser steps of one module, without a trainer around it.

    Args:
        module: with a tier in training mode.
        precision: ``32-true`` or ``bf16-mixed``.
    """

    def __init__(self, module: MultiExit, precision: str) -> None:
        self.module, self.mixed = module.train(), precision == "bf16-mixed"
        module._trainer = SimpleNamespace(world_size=1, datamodule=None, callbacks=[])  # type: ignore[assignment]
        module.log = lambda *_, **__: None  # type: ignore[method-assign]
        module.on_fit_start()
        groups = [
            {"params": [p for p in module.network.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in module.network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=5e-5, fused=True)

    def step(self, batch: dict[str, Any]) -> None:
        """Forward, backward, clipping, optimiser."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            loss = self.module.training_step(batch, 0)
        self.optimizer.zero_grad()
        loss.backward()
        self.module.on_before_optimizer_step(self.optimizer)
        nn.utils.clip_grad_norm_(self.module.network.parameters(), 1.0)
        self.optimizer.step()


def make(folder: str, exits: list[int], policy: Any, certainty: bool) -> MultiExit:
    """A module with exits at the given layers; the same encoder for all."""
    return MultiExit(
        path=folder, exits=exits, label_names=LABELS, policy=policy(), certainty="joint" if certainty else None
    )


def batches(key: str, steps: int, rows: int, vocabulary: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random words: 3 to 40 of them, 13 on average, and two special tokens."""
    rng = np.random.default_rng(seed)
    found = []
    for begin in range(0, steps, POOL):
        count = min(POOL, steps - begin)
        lengths = np.sort(np.clip(rng.lognormal(2.4, 0.55, count * rows).round(), 3, 40).astype(int) + 2)
        for own in rng.permutation(lengths.reshape(count, rows)):
            mask = torch.arange(own.max()) < torch.from_numpy(own)[:, None]
            ids = torch.from_numpy(rng.integers(5, vocabulary, mask.shape)) * mask
            encoding = {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": torch.zeros_like(ids)}
            label = torch.from_numpy(rng.integers(0, len(LABELS), rows))
            found.append({"sample_id": torch.arange(rows), "label": label, "encodings": {key: encoding}})
    return found


def main() -> None:
    """Step both in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--layers", type=int, default=MINILM["num_hidden_layers"])
    parser.add_argument("--precision", default="bf16-mixed", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--policy", default="equilibrium", choices=POLICIES)
    parser.add_argument("--certainty", action="store_true", help="let the exits learn to exit, too (BERxiT)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    config = BertConfig(**{**MINILM, "num_hidden_layers": options.layers})
    with tempfile.TemporaryDirectory() as folder:
        AutoModel.from_config(config, add_pooling_layer=False).save_pretrained(folder)
        build_word_tokenizer(["a b c"], config.vocab_size, 64, True).save_pretrained(folder)
        every = list(range(1, options.layers + 1))
        several = Loop(make(folder, every, POLICIES[options.policy], options.certainty), options.precision)
        single = Loop(make(folder, every[-1:], JointSum, False), options.precision)
    given = batches(several.module.tier.encoding_key, options.steps + 6, options.batch, config.vocab_size)
    taken: list[dict[str, Any]] = []
    turns = Turns(lambda: single.step(taken[-1]))
    for batch in given:
        taken.append(batch)
        several.step(batch)
        turns.step()
    what = f"{options.policy}{' with certainty' if options.certainty else ''}, {len(every)} exits ({options.precision})"
    print(turns.report(what, target=1.15))


if __name__ == "__main__":
    main()
