"""What every staged model shares on the trainer: batches in, rows out, metrics counted once per row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from dial.inference.staged import StagedModel
from dial.stages.metrics.metrics import check_metric
from dial.tiers.batching import batching_of
from dial.tiers.tier import Tier
from lightning_modules.rows import DistinctRows

Batch = dict[str, Any]


class StagedModule(LightningModule):
    """Trains and tests a :class:`StagedModel`; a method adds its ``training_step`` and says how the model is built.

    A batch holds ``sample_id`` ``(B,)``, ``label`` ``(B,)`` and ``encodings``: for each tokenizer's key the padded
    ``input_ids`` and ``attention_mask`` ``(B, T)``.

    Args:
        label_names: the data's classes in the order of their integers; empty for regression. The CLI links it.
        metrics: names of the task's metrics, the primary one first. Default: accuracy, for regression pearson. The CLI
            links it.

    Attributes:
        network: the staged model; set by the subclass.

    Raises:
        ValueError: a metric does not exist, or not for these classes.
    """

    network: StagedModel

    def __init__(self, label_names: list[str] | None, metrics: list[str] | None) -> None:
        super().__init__()
        self.label_names = list(label_names or [])
        self.metric_names = list(metrics or (["accuracy"] if self.label_names else ["pearson"]))
        for name in self.metric_names:  # now, not when the first epoch is over
            check_metric(name, len(self.label_names))
        self.width = max(1, len(self.label_names))
        self.validation_rows = DistinctRows(self.width)

    def tokenizers(self) -> Mapping[str, tuple[Any, int]]:
        """Tokenizer and maximum length by encoding key: what the data module has to encode for this module."""
        return {tier.encoding_key: (tier.tokenizer, tier.max_length) for tier in self.tiers_at_work}

    @property
    def tiers_at_work(self) -> list[Tier]:
        """Tiers that will read the data's rows."""
        return list(self.network.tiers)

    def setup(self, stage: str) -> None:
        """Refuse rows that are too short for a model before the first is computed; the data module is ready by now.

        Raises:
            ValueError: naming the first such row.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        for tier in self.tiers_at_work:
            needs = batching_of(tier)
            checked = needs.shortest > 1 and hasattr(data, "roles_of_stage")
            for role in data.roles_of_stage(stage) if checked else ():
                lengths = data.tokens(role, tier.encoding_key).lengths
                if lengths.min() < needs.shortest:
                    row = data.sample_ids(role)[lengths.argmin()]
                    raise needs.too_short(f"{role}: the row with sample_id {row}", int(lengths.min()), tier.name)

    def forward(self, encodings: dict[str, dict[str, Tensor]]) -> Tensor:
        """Logits of all stages, ``(B, S, C)`` in fp32; regression has ``C = 1``."""
        return self.network(encodings)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the last stage's outputs; the metric is computed over all rows at the end of the epoch."""
        self.validation_rows.update(batch["sample_id"], batch["label"], self(batch["encodings"])[:, -1])

    def on_validation_epoch_end(self) -> None:
        """Log ``validation/<metric>``, and ``validation/quality`` for the primary one, which checkpoints monitor."""
        self._check_finite()
        values = self.validation_rows.evaluate(self.metric_names)
        self.validation_rows.reset()
        values = {f"validation/{name}": value for name, value in values.items()}
        values["validation/quality"] = next(iter(values.values()))
        # Every rank computes the same numbers from the gathered rows; sync_dist only keeps Lightning from warning.
        self.log_dict({k: torch.tensor(v, dtype=torch.float32) for k, v in values.items()}, sync_dist=True)
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            quality = ", ".join(f"{name} {100 * value:.2f}" for name, value in values.items() if "quality" not in name)
            self.print(f"epoch {self.current_epoch}: {quality}")

    def _check_finite(self) -> None:
        """A diverged model would still have an argmax, and so an accuracy."""
        ids, _, outputs = self.validation_rows.compute()
        broken = ids[~np.isfinite(outputs).all(axis=1)]
        if len(broken):
            raise ValueError(
                f"`{self.network.tiers[-1].name}` must give finite logits, but it does not for {len(broken)} of "
                f"{len(ids)} validation rows, first sample_id {broken[0]}; lower the learning rate or clip gradients."
            )

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Outputs of all stages, and what their costs depend on; callbacks receive this as ``outputs``."""
        return self.rows_of(batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Like :meth:`test_step`; the label may be a placeholder."""
        return self.rows_of(batch)

    def rows_of(self, batch: Batch) -> dict[str, Any]:
        """Ids and labels ``(B,)``, ``logits`` ``(B, S, C)``, and per tier ``lengths`` and ``padded`` ``(B,)``.

        With them, by name, the scores ``decisions`` ``(B, S)`` that stages give themselves.
        """
        encodings = batch["encodings"]
        lengths, padded = {}, {}
        for tier in self.network.tiers:
            mask = encodings[tier.encoding_key]["attention_mask"]
            lengths[tier.name] = mask.sum(dim=1)
            alone = batching_of(tier).equal_length  # then nothing is padded, whatever the batch holds
            padded[tier.name] = lengths[tier.name] if alone else torch.full_like(lengths[tier.name], mask.shape[1])
        logits, decisions = self.network.decide(encodings)
        return {
            "sample_id": batch["sample_id"],
            "label": batch["label"],
            "logits": logits,
            "decisions": decisions,
            "lengths": lengths,
            "padded": padded,
        }
