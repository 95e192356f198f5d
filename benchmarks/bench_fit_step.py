"""A step of `dial fit` at the size of MiniLM-L6 against a bare PyTorch loop: the target is a ratio of at most 1.05.

Both train the same model (random weights) on the same batches with the same optimiser, schedule, clipping and
precision. The bare loop takes its turn inside a callback, after every step of `dial fit`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measure import Turns, machine, write_texts  # type: ignore[import-not-found]  # the script's folder is on the path
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification

from datamodules.loading import EpochSampler
from dial.cli.main import main as dial

MINILM = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
WARM_UP = 5


class BareLoop:
    """Trains a copy of the model with nothing but PyTorch."""

    def __init__(self, trainer: Trainer, module: Any, autocast: bool) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.autocast = autocast
        self.model = AutoModelForSequenceClassification.from_config(module.tier.model.config).train()
        self.model.load_state_dict(module.tier.model.state_dict())
        groups = [
            {"params": [p for p in self.model.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in self.model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=5e-5, fused=bool(trainer.optimizers[0].defaults.get("fused")))
        total = trainer.estimated_stepping_batches
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 - step / total)
        self.batches = self._batches(data)

    @staticmethod
    def _batches(data: Any) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches as a bare loop would make them, of the rows and in the order of the data module."""
        rows = data.encoded("train")
        tokens = next(iter(rows.tokens.values()))
        examples = [
            (torch.tensor(tokens.ids[a:b], dtype=torch.long), int(label))
            for a, b, label in zip(tokens.offsets[:-1], tokens.offsets[1:], rows.rows.label, strict=True)
        ]

        def collate(some: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, ...]:
            ids = pad_sequence([ids for ids, _ in some], batch_first=True, padding_value=tokens.padding.pad_id)
            mask = pad_sequence([torch.ones_like(ids) for ids, _ in some], batch_first=True)
            return ids, mask, torch.tensor([label for _, label in some])

        sampler = EpochSampler(tokens.lengths, data.batch_size, data.seed)
        return iter(DataLoader(examples, data.batch_size, sampler=sampler, collate_fn=collate))  # type: ignore[arg-type]

    def step(self) -> None:
        """One optimiser step on the next batch; `dial` sets deterministic algorithms, a bare loop does not."""
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)
        self._step()
        torch.use_deterministic_algorithms(deterministic)

    def _step(self) -> None:
        """One optimiser step of the bare loop."""
        ids, mask, label = next(self.batches)
        self.shape = ids.shape
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            logits = self.model(input_ids=ids, attention_mask=mask).logits
        loss = torch.nn.functional.cross_entropy(logits.float(), label)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()


class BareSteps(Callback):
    """Lets the bare loop take its turn after every step, and prints the ratio."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the model."""
        self.loop = BareLoop(trainer, pl_module, autocast="bf16" in str(trainer.precision))
        self.turns = Turns(self.loop.step, WARM_UP)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure."""
        self.turns.step()
        (encoding,) = batch["encodings"].values()
        assert encoding["input_ids"].shape == self.loop.shape, "both loops must read the same batches"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print; a checkpoint to resume from is no part of a step, so it stands on a line of its own."""
        print(self.turns.report(f"fit step ({trainer.precision})", target=1.05))
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            trainer.save_checkpoint(Path(folder) / "last.ckpt")
            print(f"checkpoint to resume from: {time.perf_counter() - start:.2f} s, by default every 200 steps")


def main() -> None:
    """Run `dial fit` with the bare loop beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--layers", type=int, default=MINILM["num_hidden_layers"])
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        rows = (options.steps + WARM_UP + 1) * options.batch
        write_texts(Path(folder) / "train.csv", rows)
        write_texts(Path(folder) / "validation.csv", options.batch, seed=1)
        config = {**MINILM, "num_hidden_layers": options.layers}
        code = dial(
            [
                *("fit", "--config=configs/model/finetune.yaml", f"--model.config={config}", "--model.tokenizer=words"),
                *("--data=TextDataModule", f"--data.train_file={folder}/train.csv"),
                *(f"--data.validation_file={folder}/validation.csv", "--data.calibration_fraction=0"),
                *(f"--data.batch_size={options.batch}", f"--data.cache_dir={folder}/cache", f"--run={folder}/run"),
                *("--trainer.max_epochs=1", "--trainer.accelerator=cpu", f"--trainer.precision={options.precision}"),
                *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
                "--trainer.callbacks=[{class_path: __main__.BareSteps}]",
            ]
        )
    raise SystemExit(code)


if __name__ == "__main__":
    main()
