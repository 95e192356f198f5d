"""Predictions of one tier, written to a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from dial.files import atomic_write
from dial.stages.repeats import distinct
from dial.stages.task import Task
from lightning_modules.base import StagedModule
from lightning_modules.rows import RowGatherer, Rows, each_once


class PredictionWriter(Callback):
    """At the end of `dial predict` writes one JSON line a row.

    It holds ``split``, ``sample_id``, ``prediction`` and, for classification, ``label_name`` and ``probabilities``; of
    a tier that answers by texts ``text`` and the scores that it gives.
    Those of a trial run over a part of the rows have ``partial`` too; their file gives way to another, a whole one to
    none.

    Args:
        path: the file. Default: ``predictions.jsonl`` in the run folder.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._rows = RowGatherer()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to overwrite a file before any work is done."""
        self._rows.clear()
        assert isinstance(pl_module, StagedModule)
        if len(pl_module.network.tiers) > 1:
            names = ", ".join(tier.name for tier in pl_module.network.tiers)
            raise ValueError(
                f"`model` must be one tier for `dial predict`, but got a cascade of {names}; "
                "give --model=Classifier with the tier's folder as --model.path."
            )
        if self._target(trainer).exists() and not holds_trial(self._target(trainer)):
            raise ValueError(
                f"`predictions.path` {self._target(trainer)} exists already; name another file or remove it."
            )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the last stage's answer for each row of the batch."""
        assert isinstance(pl_module, StagedModule)
        split = trainer.datamodule.test_roles()[dataloader_idx]  # type: ignore[attr-defined]
        known = {name: outputs[name] for name in ("sample_id", "label")}
        if pl_module.network.writes:
            scores = {name: values[:, -1] for name, values in outputs["model_scores"].items()}
            self._rows.add({**known, "texts": outputs["texts"][:, -1], "scores": scores}, split)
            return
        logits = outputs["logits"][:, -1].double()
        if not logits.isfinite().all():
            row = int((~logits.isfinite().all(dim=1)).nonzero()[0])
            raise ValueError(
                f"`{pl_module.network.tiers[-1].name}` must give finite logits, but it does not for {split} row "
                f"{int(outputs['sample_id'][row])}; check its weights, or load it in float32."
            )
        self._rows.add({**known, "logits": logits}, split)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the processes' rows, drop repeats, and write them in the order of the data."""
        assert isinstance(pl_module, StagedModule)
        gathered, task = self._rows.gather(), pl_module.task
        splits = {split: list(_records(rows, task)) for split, rows in gathered.items()}
        if trainer.is_global_zero:
            limit = trainer.limit_predict_batches  # 1.0 is all rows; 1 is one batch, which `fast_dev_run` sets
            mark = {"partial": True} if limit != 1.0 or isinstance(limit, int) else {}
            with atomic_write(self._target(trainer)) as scratch, scratch.open("w", encoding="utf-8") as handle:
                for split, records in sorted(splits.items()):
                    for record in records:
                        handle.write(json.dumps({"split": split, **record, **mark}, ensure_ascii=False) + "\n")
            count = sum(map(len, splits.values()))
            print(f"{count:,} predictions written to {self._target(trainer)}")

    def _target(self, trainer: Trainer) -> Path:
        return Path(self.path) if self.path else Path(trainer.default_root_dir) / "predictions.jsonl"


def _records(rows: Rows, task: Task) -> Iterator[dict[str, Any]]:
    """What is written of each row, in the order of the data, repeats once."""
    if "logits" in rows:
        rows = each_once(rows)
        for sample_id, row in zip(rows["sample_id"].tolist(), rows["logits"], strict=True):
            yield {"sample_id": sample_id, **task.record(row)}
        return
    for index in distinct(rows["sample_id"])[0].tolist():
        scores = {name: float(values[index]) for name, values in rows["scores"].items()}
        yield {"sample_id": int(rows["sample_id"][index]), "text": rows["texts"][index], **scores}


def holds_trial(path: Path) -> bool:
    """Whether a file holds a trial run's predictions."""
    with path.open(encoding="utf-8") as handle:
        try:
            first = json.loads(handle.readline())
        except ValueError:  # somebody's own file
            return False
    return isinstance(first, dict) and first.get("partial") is True
