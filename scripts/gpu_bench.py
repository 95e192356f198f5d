"""What the checks on a GPU work with: random models over a vocabulary written here, texts, and plain references."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAMES = ["negative", "positive"]
SMALL = {
    "model_type": "bert", "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 128, "initializer_range": 0.2,
}  # fmt: skip
"""The usual initializer_range of 0.02 gives logits that hardly differ between rows."""


@dataclass(frozen=True)
class Seen:
    """What a check saw.

    Attributes:
        text: for the table.
        passed: whether that is as it must be.
        figures: for the JSON file, as plain values.
    """

    text: str
    passed: bool = True
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """A row of the table.

    Attributes:
        name: in the table, and on the command line.
        run: looks, and says what it saw; what it raises is a failure.
        cuda: whether it means nothing without a GPU.
        packages: that it needs beside torch, transformers and lightning.
    """

    name: str
    run: Callable[[Bench], Seen]
    cuda: bool
    packages: tuple[str, ...]


CHECKS: dict[str, Check] = {}


def check(name: str, cuda: bool = False, packages: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Make a function a row of the table, in the order of the file.

    Args:
        name: see :class:`Check`.
        cuda: see :class:`Check`.
        packages: see :class:`Check`.
    """

    def add(function: Callable[[Bench], Seen]) -> Callable[[Bench], Seen]:
        CHECKS[name] = Check(name, function, cuda, packages)
        return function

    return add


class Bench:
    """Models, texts and a folder for checks on one device.

    Args:
        device: what is checked.
        folder: for files.
    """

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device, self.folder = device, folder

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    @cached_property
    def tokenizer(self) -> Path:
        """Folder of a word-piece tokenizer that knows every other word of the built-in sentences, and all letters."""
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words = sorted({word for text in self.texts(2000) for word in text.lower().split()})
        letters = sorted(set("".join(words)))
        entries = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *words[::2]])
        pieces = models.WordPiece({piece: i for i, piece in enumerate(entries)}, unk_token="[UNK]")
        tokenizer = Tokenizer(pieces)
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        roles = zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=128,
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
            **{f"{role}_token": token for role, token in roles},
        )
        fast.save_pretrained(self.folder / "tokenizer")
        return self.folder / "tokenizer"

    @staticmethod
    def texts(rows: int, seed: int = 0) -> list[str]:
        """Sentences of the built-in data, some of them joined, so that lengths differ."""
        from datamodules.sentences import draw

        one = [sentence.text for sentence in draw(rows, [0.4, 0.1, 0.25, 0.25], seed)]
        return [" ".join([text, *one[i + 1 : i + 1 + i % 4]]) for i, text in enumerate(one)]

    def tier(self, name: str, dtype: str = "float32") -> Any:
        """A tier of random weights, from a folder: `swift` and `super`, `exits` of eight layers, or `base`.

        Args:
            name: of the tier.
            dtype: of its view.
        """
        from dial.tiers.loading import build_tier, load_tier, save_tier
        from dial.tiers.tier import View

        folder = self.folder / name
        if not folder.exists():
            layers = {"swift": 1, "super": 3, "exits": 8, "base": 12}[name]
            size = {"model_type": "bert"} if name == "base" else SMALL
            torch.manual_seed(layers)
            if name == "exits":
                tier = self._multi_exit({**size, "num_hidden_layers": layers})
            else:
                settings = {**size, "num_hidden_layers": layers}
                tier = build_tier(settings, str(self.tokenizer), NAMES, max_length=128, name=name)
            save_tier(folder, tier.eval(), {})
        return load_tier(View(path=str(folder), dtype=dtype), name, NAMES)  # type: ignore[arg-type]

    def _multi_exit(self, encoder: dict[str, Any]) -> Any:
        """A random tier with an exit after every layer, whose exits differ."""
        from transformers import AutoTokenizer

        from dial.models import MultiExitConfig, MultiExitForSequenceClassification
        from dial.tiers.multi_exit import MultiExitTier
        from dial.tiers.tier import View

        tokenizer = AutoTokenizer.from_pretrained(self.tokenizer)
        encoder |= {"vocab_size": len(tokenizer), "pad_token_id": 0}
        exits = list(range(1, encoder["num_hidden_layers"] + 1))
        model: Any = MultiExitForSequenceClassification(
            MultiExitConfig(encoder=encoder, exits=exits, id2label=dict(enumerate(NAMES)))
        )
        with torch.no_grad():  # exits that differ, and logits that are not all alike
            for head in model.heads:
                head.linear.weight.normal_(std=0.6)
        return MultiExitTier("exits", View(path="exits"), model, tokenizer, 128, NAMES)

    def few(self, rows: int) -> int:
        """So many rows on a GPU, a quarter of them on a CPU."""
        return rows if self.cuda else rows // 4

    def networks(self, dtype: str = "float32") -> dict[str, Any]:
        """Staged models on the CPU by name: one encoder's exits, a cascade of two tiers, and a cascade of both."""
        from dial.inference.staged import StagedModel

        parts = {"exits": ["exits"], "cascade": ["swift", "super"], "exits, then a tier": ["exits", "super"]}
        return {name: StagedModel([self.tier(tier, dtype) for tier in tiers]).eval() for name, tiers in parts.items()}

    def moved(self, network: Any) -> Any:
        """A copy on the device."""
        return copy.deepcopy(network).to(self.device).eval()

    def fit(
        self,
        name: str,
        callbacks: list[Any],
        checkpoint: Path | None = None,
        dropout: float = 0.1,
        module: Any = None,
        **settings: Any,
    ) -> Any:
        """Train a small classifier, or another module, for two epochs of 20 steps; gives the trainer.

        Args:
            name: of the run's folder.
            callbacks: of the trainer.
            checkpoint: to go on from.
            dropout: of the classifier.
            module: what is trained instead.
            settings: of the trainer.
        """
        from lightning.pytorch import Trainer, seed_everything

        from datamodules import GradedSentimentDataModule
        from lightning_modules import Classifier

        seed_everything(0, verbose=False)
        data = GradedSentimentDataModule(640, 96, 1, 96, batch_size=32, cache_dir=str(self.folder / "cache"))
        module = module or Classifier(
            config={
                **SMALL,
                "num_hidden_layers": 2,
                "initializer_range": 0.02,
                "hidden_dropout_prob": dropout,
                "attention_probs_dropout_prob": dropout,
            },
            tokenizer=str(self.tokenizer),
            label_names=data.label_names,
            metrics=data.metrics,
            optimizer=partial(torch.optim.AdamW, lr=1e-3),
        )
        settings = {"accelerator": "gpu" if self.cuda else "cpu", "devices": 1, "max_epochs": 2, **settings}
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = Trainer(
            default_root_dir=self.folder / name,
            callbacks=callbacks,
            deterministic=True,
            use_distributed_sampler=False,
            **quiet,  # type: ignore[arg-type]
            **settings,
        )
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        return trainer


def alone(network: Any, units: list[str]) -> np.ndarray:
    """Logits ``(N, S, C)`` of every stage where each row is computed alone and unpadded, in a plain loop."""
    rows = []
    device = next(network.parameters()).device
    for unit in units:
        encodings = {}
        for tier in network.tiers:
            encoding = tier.tokenizer(unit, truncation=True, max_length=tier.max_length, return_tensors="pt")
            encodings[tier.encoding_key] = {key: value.to(device) for key, value in encoding.items()}
        with torch.inference_mode():
            rows.append(network(encodings)[0].float().cpu().numpy())
    return np.stack(rows)


def largest_probability(logits: np.ndarray) -> np.ndarray:
    """The score `softmax` of logits ``(..., C)`` in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return 1 / np.exp(shifted).sum(axis=-1)


def stage_by_hand(scores: np.ndarray, thresholds: list[float]) -> int:
    """The first stage whose score reaches its threshold, else the last."""
    for stage, threshold in enumerate(thresholds):
        if scores[stage] >= threshold:
            return stage
    return len(thresholds)


def halving_thresholds(scores: np.ndarray) -> list[float]:
    """Thresholds of all stages but the last, midway between two rows' scores, so that half of those left stay."""
    left, thresholds = np.ones(len(scores), dtype=bool), []
    for stage in range(scores.shape[1] - 1):
        values = np.unique(scores[left, stage])
        middle = len(values) // 2
        near = values[max(0, middle - 1) : middle + 1]
        thresholds.append(float(near.mean()) if len(near) else 0.5)
        left &= scores[:, stage] < thresholds[-1]
    return thresholds


def rows_apart(network: Any, units: list[str], outputs: np.ndarray, dtype_noise: float, batch: int) -> dict[str, Any]:
    """Run the executor, and count rows that it answers otherwise than the outputs say.

    Args:
        network: on the device.
        units: texts.
        outputs: ``(N, S, C)`` logits of another computation.
        dtype_noise: how far scores may differ; rows with a score that near to its threshold are not compared.
        batch: rows per batch.

    Returns:
        Numbers of rows ``compared``, ``inside`` the noise and answered ``otherwise``, how many ``stages`` answered, and
        the number of ``batches``.
    """
    from dial.inference.executor import Executor
    from dial.tradeoff.rules import rule_named

    scores = largest_probability(outputs)
    thresholds = halving_thresholds(scores)
    names = tuple(stage.name for stage in network.stages)
    executor = Executor(
        network,
        rule_named("per_stage", "softmax", stages=names, thresholds=tuple(thresholds)),
        batch,
        compaction="measured",
    )
    inside = otherwise = 0
    answered = set()
    for answer, row, logits in zip(executor.run(units), scores, outputs, strict=True):
        wanted = stage_by_hand(row, thresholds)
        near = any(abs(row[i] - thresholds[i]) <= dtype_noise for i in range(min(wanted + 1, len(thresholds))))
        tied = row[wanted] - 1 / logits.shape[-1] <= dtype_noise
        inside += near
        answered.add(answer.stage)
        wrong_class = answer.prediction != logits[wanted].argmax() and not tied
        otherwise += not near and (answer.stage != wanted or wrong_class)
    batches = sum(work.batches for work in executor.work.values())
    return {
        "compared": len(units) - inside, "inside": inside, "otherwise": otherwise,
        "stages": len(answered), "batches": batches,
    }  # fmt: skip
