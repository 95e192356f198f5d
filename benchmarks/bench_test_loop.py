"""The loop of `dial test` over a two-tier cascade against running each tier once: the target is at most 1.10 times it.

The reference takes its turn inside a callback after every batch: the same length-grouped batches, collated once, each
tier called once. Counting, statistics and figures follow the loop; their target is 20 s together.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measure import Turns, clocks, machine, write_texts  # type: ignore[import-not-found]  # the script's folder is on the path
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification

from datamodules import TextDataModule
from dial.cli.main import main as dial
from dial.tiers.loading import build_tier, save_tier

LABELS = ["0", "1"]
LAST_BATCH = (0.0, 0.0)  # clocks when the loop was done


class BareLoop:
    """Calls plain models on plain batches, longest first."""

    def __init__(self, trainer: Trainer, module: Any) -> None:
        self.models = [AutoModelForSequenceClassification.from_pretrained(t.view.path) for t in module.network.tiers]
        self.batches = iter(self._batches(trainer.datamodule))  # type: ignore[attr-defined]
        self.logits: list[list[torch.Tensor]] = []

    @staticmethod
    def _batches(data: Any) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches as a bare loop would make them, long rows first."""
        for role in data.test_splits:
            tokens = next(iter(data.encoded(role).tokens.values()))
            bounds = zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
            examples = [torch.tensor(tokens.ids[a:b], dtype=torch.long) for a, b in bounds]
            order = np.argsort(-tokens.lengths, kind="stable").tolist()

            def collate(some: list[torch.Tensor], pad: int = tokens.padding.pad_id) -> tuple[torch.Tensor, ...]:
                mask = pad_sequence([torch.ones_like(ids) for ids in some], batch_first=True)
                return pad_sequence(some, batch_first=True, padding_value=pad), mask

            yield from DataLoader(examples, data.batch_size, sampler=order, collate_fn=collate)  # type: ignore[arg-type]

    def step(self) -> None:
        """Every tier on the next batch."""
        ids, mask = next(self.batches)
        with torch.inference_mode():
            self.logits.append([model(input_ids=ids, attention_mask=mask).logits for model in self.models])


class BareTiers(Callback):
    """Lets the bare loop take its turn after every batch, and prints the ratio."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load plain models."""
        self.loop = BareLoop(trainer, pl_module)
        self.turns = Turns(self.loop.step)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure."""
        self.turns.step()
        bare = torch.stack(self.loop.logits.pop(), dim=1)
        assert torch.allclose(outputs["logits"], bare, atol=1e-4), "both loops must give the same logits"
        global LAST_BATCH
        LAST_BATCH = clocks()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print."""
        print(self.turns.report("test loop, per batch", target=1.10))


def save_tiers(folder: Path, layers: list[int]) -> list[str]:
    """Random tiers at the width of MiniLM-L6, with one word-level tokenizer."""
    data = TextDataModule(train_file=str(folder / "train.csv"))
    saved = []
    for depth in layers:
        config = {"model_type": "bert", "vocab_size": 10_000, "hidden_size": 384, "num_hidden_layers": depth}
        config |= {"num_attention_heads": 12, "intermediate_size": 1536, "initializer_range": 0.1}
        tier = build_tier(config, "words", LABELS, max_length=64)
        tier.fit_tokenizer(data.train_texts())
        saved.append(str(save_tier(folder / f"layers{depth}", tier, {})))
    return saved


def main() -> None:
    """Run `dial test` with the bare loop beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--calibration", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--layers", type=int, nargs=2, default=[2, 6])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, (role, rows) in enumerate(
            {"train": 2000, "calibration": options.calibration, "test": options.rows}.items()
        ):
            write_texts(folder / f"{role}.csv", rows, seed=seed)
        files = [f"--data.{role}_file={folder}/{role}.csv" for role in ("train", "calibration", "test")]
        code = dial(
            [
                *("test", "--model=Cascade", f"--model.tiers={save_tiers(folder, options.layers)}"),
                *("--data=TextDataModule", *files, f"--data.batch_size={options.batch}"),
                *(f"--data.cache_dir={folder}/cache", f"--run={folder}/run", "--trainer.accelerator=cpu"),
                *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
                "--trainer.callbacks=[{class_path: __main__.BareTiers}]",
            ]
        )
        wall, processor = (b - a for a, b in zip(LAST_BATCH, clocks(), strict=True))
        print(f"counting, statistics and figures: {wall:.1f} s ({processor:.1f} s of processor time); target 20 s")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
