"""A step of general distillation against its parts apart: the target is a ratio of at most 1.1.

The parts are the teacher's forward pass and a plain training step of the student, on the same batches; what is above
them are the losses of embeddings, hidden states and attention, with the projections that these learn.
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
from measure import Turns, machine  # type: ignore[import-not-found]  # the script's folder is on the path
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from lightning_modules import TransformerDistillation

WORDS, WARM_UP = 1000, 3
STUDENT = {"model_type": "bert", "num_hidden_layers": 4, "hidden_size": 312, "num_attention_heads": 12,
           "intermediate_size": 1200}  # fmt: skip


def write_teacher(folder: Path, width: int, layers: int) -> None:
    """A BERT with random weights, and a tokenizer of words."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{word}" for word in range(WORDS))]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=512, **special).save_pretrained(folder)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    BertModel(BertConfig(vocab_size=30522, num_attention_heads=12, **sizes)).save_pretrained(folder)


def batch(rows: int, length: int) -> dict[str, Tensor]:
    """An encoding ``(B, T)`` of rows that fill three quarters to all of the longest."""
    lengths = torch.randint(3 * length // 4, length + 1, (rows,))
    lengths[0] = length
    ids = torch.randint(5, WORDS, (rows, length))
    return {"input_ids": ids, "attention_mask": (torch.arange(length) < lengths[:, None]).long()}


class Steps:
    """A step of distillation, and the same work apart.

    Args:
        module: the student with its teacher.
        encoding: what each step reads.
    """

    def __init__(self, module: Any, encoding: dict[str, Tensor]) -> None:
        self.module, self.encoding, self.student = module, encoding, module.tier
        module.log = lambda *arguments, **settings: None
        rows = torch.arange(len(encoding["input_ids"]))
        self.batch = {"encodings": {module.tier.encoding_key: encoding}, "label": rows, "sample_id": rows}
        parts = (module.learner, self.student)
        self.optimizers = [torch.optim.AdamW(part.parameters(), 1e-5, fused=True) for part in parts]

    def distil(self) -> None:
        """Teacher, student, losses of the layers, and the optimiser."""
        self._learn(self.module.training_step(self.batch, 0), 0)

    def apart(self) -> None:
        """Teacher, student with a loss of its logits, and the optimiser."""
        with torch.no_grad():
            self.module.teacher(self.encoding)
        self._learn(self.student(self.encoding).float().square().mean(), 1)

    def _learn(self, loss: Tensor, number: int) -> None:
        optimizer = self.optimizers[number]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()


def main() -> None:
    """Take both in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--width", type=int, default=768, help="of the teacher")
    parser.add_argument("--layers", type=int, default=12, help="of the teacher")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        write_teacher(Path(folder), options.width, options.layers)
        given: dict[str, Any] = {"tokenizer": folder, "teacher": folder, "config": STUDENT, "max_length": 128}
        module = TransformerDistillation(distillation_weight=0.0, label_names=[], **given).train()
        steps = Steps(module, batch(options.batch, options.length))
        turns = Turns(steps.apart, WARM_UP)
        for _ in range(options.steps + WARM_UP + 1):
            steps.distil()
            turns.step()
    print(turns.report(f"distillation step from a teacher {options.width} wide", target=1.1))


if __name__ == "__main__":
    main()
