"""The loop of `dial test` over tiers that write, against generating with each of them once: at most 1.10 times it.

The reference takes its turn inside a callback after every batch: transformers' `generate` of either tier on the same
batch, and the same texts are asserted. Reading the head, scores of the finished answers, matching of texts and the
loader are thus what the loop adds. Random weights write up to the limit.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from bench_energy_head import save_model  # type: ignore[import-not-found]  # the script's folder is on the path
from lightning.pytorch import Callback, LightningModule, Trainer
from measure import Turns, clocks, machine, write_texts  # type: ignore[import-not-found]

from dial.cli.main import main as dial

TARGET = 1.10
LAST_BATCH = (0.0, 0.0)  # clocks when the loop was done
HEAD_ROWS = 64


class BareTiers(Callback):
    """Lets transformers write after every batch, and prints the ratio."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.tiers: list[Any] = list(pl_module.network.tiers)  # type: ignore[union-attr, arg-type]
        self.turns = Turns(self._write, warm_up=2)
        self.same = self.rows = 0

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
        self.encodings = batch["encodings"]
        self.turns.step()
        for stage, texts in enumerate(self.texts):
            self.same += sum(ours == theirs for ours, theirs in zip(outputs["texts"][:, stage], texts, strict=True))
            self.rows += len(texts)
        global LAST_BATCH
        LAST_BATCH = clocks()

    @torch.inference_mode()
    def _write(self) -> None:
        self.texts = []
        for tier in self.tiers:
            encoding = self.encodings[tier.encoding_key]
            inputs = {name: encoding[name] for name in ("input_ids", "attention_mask")}
            tokens = tier.model.generate(**inputs, max_new_tokens=tier.generation.max_new_tokens, do_sample=False)
            self.texts.append(tier.tokenizer.batch_decode(tokens, skip_special_tokens=True))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print."""
        print(self.turns.report("test loop, per batch", TARGET))
        print(f"{self.rows - self.same} of {self.rows} answers differ")


def run(*arguments: str) -> None:
    """One command of `dial`; leaves with its code where it fails."""
    if code := dial(list(arguments)):
        raise SystemExit(code)


def main() -> None:
    """Train a head for a few steps and run `dial test` with transformers beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--layers", type=int, nargs=2, default=[2, 8])
    parser.add_argument("--max-new-tokens", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        roles = {"train": HEAD_ROWS, "validation": HEAD_ROWS, "calibration": options.calibration, "test": options.rows}
        for seed, (role, rows) in enumerate(roles.items()):
            write_texts(folder / f"{role}.csv", rows, seed=seed)
        swift, super_ = (folder / f"layers{layers}" for layers in options.layers)
        for path, layers in zip((swift, super_), options.layers, strict=True):
            save_model(path, layers)
        files = [f"--data.{role}_file={folder}/{role}.csv" for role in roles]
        shared = ("--data=TextToTextDataModule", "--data.source_column=text", "--data.target_column=label", *files)
        shared += (f"--data.batch_size={options.batch}", f"--data.cache_dir={folder}/cache")
        shared += tuple(f"--trainer.enable_{what}=false" for what in ("progress_bar", "model_summary"))
        shared += ("--trainer.accelerator=cpu",)
        head = ("--config=configs/model/energy_head.yaml", "--model.kind=vocabulary", "--model.bottleneck=32")
        run("fit", *head, f"--model.path={swift}", "--trainer.max_epochs=1", *shared, f"--run={folder}/head")
        view = f"max_new_tokens: {options.max_new_tokens}"
        tiers = f"[{{path: {folder}/head/tier, {view}}}, {{path: {super_}, {view}}}]"
        callback = "--trainer.callbacks=[{class_path: __main__.BareTiers}]"
        run("test", "--model=Cascade", f"--model.tiers={tiers}", *shared, f"--run={folder}/run", callback)
        wall, processor = (b - a for a, b in zip(LAST_BATCH, clocks(), strict=True))
        print(f"counting, statistics and figures: {wall:.1f} s ({processor:.1f} s of processor time)")


if __name__ == "__main__":
    main()
