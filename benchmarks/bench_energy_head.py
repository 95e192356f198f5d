"""Energy heads at the size of T5-small v1.1: their training, and what deciding costs, against the frozen encoder.

Training a head of classes is to take at most 1.05 times the encoder's forward pass over the same batches in the first
epoch, and at most 0.05 times in each further one, when pooled states are kept. Deciding (head and scores) is to take at
most 2 % of the encoder's time at batch 32. Heads over the vocabulary, whose states are not kept, are reported.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measure import Turns, clocks, machine, write_texts  # type: ignore[import-not-found]  # the script's folder
from transformers import T5Config, T5ForConditionalGeneration

from dial.cli.main import main as dial
from dial.models.encoder_decoder import encoder_of, encoder_states
from dial.models.energy_head import HeadConfig, build_head
from dial.models.pieces import build_piece_tokenizer

SIZES = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 6, "num_layers": 8}
VOCABULARY = 32_128
WARM_UP = 2
FIRST, LATER = 1.05, 0.05  # targets of epochs of a head of classes


class EncoderSteps(Callback):
    """Lets the bare encoder read each batch after the head's step, and prints the ratio of each epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self.turns = Turns(self._read, WARM_UP)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure."""
        (encoding,) = batch["encodings"].values()
        self.encoder: Any = encoder_of(pl_module.tier.model)  # type: ignore[union-attr]
        self.inputs = encoding["input_ids"], encoding["attention_mask"]
        self.turns.step()

    @torch.no_grad()
    def _read(self) -> None:
        encoder_states(self.encoder, *self.inputs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print."""
        epoch, module = trainer.current_epoch, pl_module
        kind = module.tier.head.config.kind  # type: ignore[union-attr]
        target = None if kind == "vocabulary" else LATER if epoch else FIRST
        print(self.turns.report(f"head of {kind}, epoch {epoch}, a step against the encoder alone", target))


def save_model(folder: Path, layers: int) -> None:
    """A T5 of random weights, with a tokenizer of the benchmark's words."""
    words = [f"w{word}" for word in range(10_000)]
    tokenizer = build_piece_tokenizer([*words, "0", "1"], "pieces", 8_000, 128)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0, "decoder_start_token_id": 0}
    gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    config = T5Config(vocab_size=VOCABULARY, **{**SIZES, "num_layers": layers}, **gated, **ends)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(folder: Path, options: argparse.Namespace, kind: str) -> None:
    """Run `dial fit` of a head with the encoder beside it."""
    rows = (options.steps + WARM_UP) * options.batch
    write_texts(folder / "train.csv", rows)
    write_texts(folder / "validation.csv", options.batch, seed=1)
    module, target = "TextDataModule", []
    if kind == "vocabulary":
        module, target = "TextToTextDataModule", ["--data.source_column=text", "--data.target_column=text"]
    epochs = options.epochs if kind == "classes" else 1
    code = dial(
        [
            *("fit", "--config=configs/model/energy_head.yaml", f"--model.path={folder}/model", f"--model.kind={kind}"),
            *(f"--data={module}", f"--data.train_file={folder}/train.csv"),
            *(f"--data.validation_file={folder}/validation.csv", *target, "--data.calibration_fraction=0"),
            *(f"--data.batch_size={options.batch}", f"--data.cache_dir={folder}/cache", f"--run={folder}/{kind}"),
            *(f"--trainer.max_epochs={epochs}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
            *("--trainer.enable_model_summary=false", "--trainer.callbacks=[{class_path: __main__.EncoderSteps}]"),
        ]
    )
    if code:
        raise SystemExit(code)


@torch.inference_mode()
def decide(folder: Path, options: argparse.Namespace) -> None:
    """Print the share of the encoder's time that head and scores take, in turns with it."""
    encoder = encoder_of(T5ForConditionalGeneration.from_pretrained(folder / "model").eval())
    width = SIZES["d_model"]
    heads = {
        "2 classes": HeadConfig("classes", width, 2),
        "vocabulary": HeadConfig("vocabulary", width, VOCABULARY),
        "vocabulary, bottleneck 32": HeadConfig("vocabulary", width, VOCABULARY, bottleneck=32),
    }
    for batch in (options.batch, 1):
        ids = torch.randint(3, 8_000, (batch, options.length))
        mask = torch.ones_like(ids)
        for name, config in heads.items():
            head, shares = build_head(config).eval(), []
            for _ in range(options.repeats):
                start = clocks()[0]
                states = encoder_states(encoder, ids, mask)
                read = clocks()[0]
                head.scores(states, mask)
                shares.append((clocks()[0] - read) / (read - start))
            target = " (target 2 %)" if config.kind == "classes" and batch > 1 else ""
            share = 100 * float(np.median(shares))
            print(
                f"deciding, batch {batch}, {options.length} tokens, {name}: {share:.2f} % of the encoder's time{target}"
            )


def main() -> None:
    """Print ratios of training and of deciding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=64, help="tokens of rows that are decided")
    parser.add_argument("--layers", type=int, default=SIZES["num_layers"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model", options.layers)
        decide(folder, options)
        for kind in ("classes", "vocabulary"):
            train(folder, options, kind)


if __name__ == "__main__":
    main()
