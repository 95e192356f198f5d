"""Fit and test the recorder in several CPU processes; each writes what it saw. Run by test_base."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from datamodules import TextDataModule
from tests.datamodules.stub import Recorder


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "film": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")


def main(folder: Path, processes: int) -> None:
    files = {f"{role}_file": str(folder / f"{role}.csv") for role in ("train", "validation", "calibration", "test")}
    data = TextDataModule(**files, batch_size=2, min_calibration=2, cache_dir=str(folder / "cache"))
    module = Recorder({"words": (tokenizer(), 16)})
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=DDPStrategy(process_group_backend="gloo"),
        use_distributed_sampler=False,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    torch.save({"steps": module.steps, "tested": module.tested}, folder / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main(Path(sys.argv[1]), int(sys.argv[2]))
