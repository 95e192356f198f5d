"""What every staged model shares on the trainer: batches in, rows out, metrics counted once per row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from dial.inference.staged import StagedModel
from dial.models.sharding import recompute_layers, without_weights
from dial.stages.metrics.metrics import METRICS, evaluate
from dial.stages.task import task_of
from dial.tiers.backends.comparison import Comparison
from dial.tiers.spans import window_readers
from dial.tiers.tier import Tier
from lightning_modules.rows import RowGatherer, Rows, each_once, numbers

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
        late_scores: of finished answers, which are wanted of the rows that are tested.
        shares_weights: whether ranks can share the weights of tiers that write, as all of them then call the same
            layers in the same order.

    Raises:
        ValueError: a metric does not exist, or not for these classes.
    """

    network: StagedModel
    shares_weights: ClassVar[bool] = False

    def __init__(self, label_names: list[str] | None, metrics: list[str] | None) -> None:
        super().__init__()
        self.label_names = list(label_names or [])
        self.task = task_of(label_names)
        self.metric_names = list(metrics or self.task.metrics)
        for name in self.metric_names:  # now, not when the first epoch is over
            self.task.check_metric(name)
        self.validation_rows = RowGatherer()
        self.late_scores: list[str] = []
        self._comparisons: dict[str, Comparison] = {}
        self._whole: list[Tier] = []  # tiers without weights, where ranks share these

    @property
    def data(self) -> Any:
        """The data module of the run; None where the trainer has none."""
        return getattr(self.trainer, "datamodule", None)

    @property
    def metrics_of_rows(self) -> list[str]:
        """Metrics that a row's label and answer tell; the others, of whole groups, are measured where these are known.

        At validation no batch says which group a row is of.
        """
        return [name for name in self.metric_names if not METRICS[name].grouped]

    def tokenizers(self) -> Mapping[str, tuple[Any, int]]:
        """Tokenizer and maximum length by encoding key: what the data module has to encode for this module."""
        return {tier.encoding_key: (tier.tokenizer, tier.max_length) for tier in self.tiers_at_work}

    @property
    def plain_keys(self) -> set[str]:
        """Encoding keys of the tiers that read texts and pairs as they are, not in the form for models that write."""
        return {tier.encoding_key for tier in self.tiers_at_work if not tier.generates}

    @property
    def strides(self) -> dict[str, int]:
        """Tokens that neighbouring windows share, by the encoding key of the tiers that read long rows in windows."""
        return {tier.encoding_key: tier.stride for tier in self.tiers_at_work if tier.window is not None}

    @property
    def window_readers(self) -> dict[str, str]:
        """What errors call the tiers that read long rows in windows, by their encoding key."""
        return window_readers(self.tiers_at_work)

    @property
    def tiers_at_work(self) -> list[Tier]:
        """Tiers that will read the data's rows."""
        return list(self.network.tiers)

    @property
    def whole_tiers(self) -> list[Tier]:
        """Tiers to describe and to count; where ranks share weights they have none, but their fingerprints."""
        return self._whole or list(self.network.tiers)

    def configure_model(self) -> None:
        """Share the weights of tiers that write among the ranks, where the strategy is :class:`callbacks.Sharded`.

        Raises:
            ValueError: ranks may call other layers than each other.
        """
        mesh, strategy = self.device_mesh, self.trainer.strategy if self._trainer is not None else None
        if mesh is None or self._whole:
            return
        writers: list[Any] = [tier for tier in self.network.tiers if tier.generates]
        if not self.shares_weights or not writers:
            raise ValueError(
                f"`trainer.strategy` must not share weights in {self.trainer.state.fn} of {type(self).__name__} "
                f"with {', '.join(tier.name for tier in self.network.tiers)}; that is for Seq2Seq, and for tests of "
                "cascades with tiers that write. Take --trainer.strategy ddp."
            )
        self._whole = [without_weights(tier) for tier in self.network.tiers]
        if self.trainer.state.fn != "fit":  # in which weights change
            for whole, tier in zip(self._whole, self.network.tiers, strict=True):
                whole.known_fingerprint = tier.fingerprint
        dtype = torch.bfloat16 if "bf16" in str(self.trainer.precision) else None
        for tier in writers:
            if getattr(strategy, "recompute", False):
                recompute_layers(tier.model)
            tier.share(mesh["data_parallel"], dtype)

    def setup(self, stage: str) -> None:
        """Refuse rows that are too short for a model before the first is computed; the data module is ready by now.

        What ``backend: auto`` chose is said.

        Raises:
            ValueError: naming the first such row.
        """
        data = self.data
        for tier in self.tiers_at_work:
            if tier.view.backend == "auto":
                self.print(f"{tier.name} is computed by {tier.computed_by}")
            needs = tier.batching
            checked = needs.shortest > 1 and hasattr(data, "roles_of_stage")
            for role in data.roles_of_stage(stage) if checked else ():
                lengths = data.tokens(role, tier.encoding_key).lengths
                if lengths.min() < needs.shortest:
                    row = data.sample_ids(role)[lengths.argmin()]
                    raise needs.too_short(f"{role}: the row with sample_id {row}", int(lengths.min()), tier.name)

    def forward(self, encodings: dict[str, dict[str, Tensor]]) -> Tensor:
        """Logits of all stages, ``(B, S, C)`` in fp32; regression has ``C = 1``."""
        return self.network(encodings)

    @property
    def exit_names(self) -> list[str]:
        """Exits whose quality is told at the end of an epoch, beside the chosen one."""
        return []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the outputs of the last stage, or of all exits; metrics are computed over all rows at the end."""
        logits = self(batch["encodings"])[:, -max(1, len(self.exit_names)) :]
        self.validation_rows.add({"sample_id": batch["sample_id"], "label": batch["label"], "logits": logits.float()})

    def on_validation_epoch_end(self) -> None:
        """Log ``validation/<metric>``, and what :meth:`monitored` says of the primary one."""
        table = self.quality_of_validation()
        chosen = {name: self.choose(values) for name, values in table.items()}
        logged = {f"validation/{name}": value for name, value in chosen.items()}
        logged |= self.monitored(next(iter(chosen.values())))
        words = {}
        for name, values in table.items():
            exits = dict(zip(self.exit_names, values, strict=False))
            logged |= {f"validation/{name}/{exit_name}": value for exit_name, value in exits.items()}
            each = ", ".join(f"{exit_name} {100 * value:.2f}" for exit_name, value in exits.items())
            shown = f"{100 * chosen[name]:.2f}"
            words[name] = f"{name} {shown} ({each})" if each else f"validation/{name} {shown}"
        self.tell_quality(logged, words.values() if self.exit_names else [", ".join(words.values())])

    def monitored(self, quality: float) -> dict[str, float]:
        """What is logged beside the metrics: ``validation/quality``, by which checkpoints are chosen and fits end.

        Args:
            quality: primary metric of the validation rows.
        """
        return {"validation/quality": quality}

    def tell_quality(self, logged: Mapping[str, float], lines: Iterable[str]) -> None:
        """Log what validation found, and print it, a line each.

        Args:
            logged: numbers that every rank computed from the rows of all.
            lines: what is printed of them, once.
        """
        self.log_dict(numbers(logged, self.device), sync_dist=True)  # which only keeps Lightning from warning
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            for line in lines:
                self.print(f"epoch {self.current_epoch}: {line}")

    def quality_of_validation(self) -> dict[str, list[float]]:
        """Each metric of each exit's answers to the validation rows, from all processes."""
        return self.quality_of_exits(each_once(self.validation_rows.gather()[""]))

    def quality_of_exits(self, rows: Rows) -> dict[str, list[float]]:
        """Each metric of each exit's answers.

        Args:
            rows: ``label`` ``(N,)`` and ``logits`` ``(N, E, C)`` by ``sample_id``, each row once.

        Raises:
            ValueError: a logit is not finite: a diverged model would still have an argmax, and so an accuracy.
        """
        broken = rows["sample_id"][~np.isfinite(rows["logits"]).all(axis=(1, 2))]
        if len(broken):
            raise ValueError(
                f"`{self.network.tiers[-1].name}` must give finite logits, but it does not for {len(broken)} of "
                f"{len(rows['label'])} validation rows, first sample_id {broken[0]}; lower the learning rate or clip "
                "gradients."
            )
        label, predictions = self.task.labels(rows["label"]), self.task.predict(rows["logits"])
        names = self.metrics_of_rows
        return {name: [evaluate(name, label, column) for column in predictions.T] for name in names}

    def choose(self, values: list[float]) -> float:
        """The quality by which checkpoints are chosen, from that of each exit, first to last."""
        return values[-1]

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Outputs of all stages, and what their costs depend on; callbacks receive this as ``outputs``."""
        return self.rows_of(batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Like :meth:`test_step`; the label may be a placeholder."""
        return self.rows_of(batch)

    def on_test_batch_end(self, *args: Any) -> None:
        """Conclude with the last batch, before callbacks write what they make of the epoch."""
        self._conclude_comparisons(self.trainer.test_loop)

    def on_predict_batch_end(self, *args: Any) -> None:
        """Like :meth:`on_test_batch_end`."""
        self._conclude_comparisons(self.trainer.predict_loop)

    def _conclude_comparisons(self, loop: Any) -> None:
        """Say what was seen, and refuse int8 that changes too much, where there were fewer rows than wanted, too."""
        if loop.batch_progress.is_last_batch:
            comparisons, self._comparisons = self._comparisons, {}
            for comparison in comparisons.values():
                comparison.finish()

    def rows_of(self, batch: Batch) -> dict[str, Any]:
        """Ids and labels ``(B,)``, ``logits`` ``(B, S, C)``, and per tier ``lengths`` and ``padded`` ``(B,)``.

        With them, by name, the scores ``model_scores`` ``(B, S)`` that stages give themselves. Where decoders write
        there are ``texts`` ``(B, S)`` in place of logits, and per tier ``written`` and ``cut_off`` ``(B,)``.
        """
        encodings = batch["encodings"]
        read = {tier.name: tier.reading(encodings[tier.encoding_key]) for tier in self.network.tiers}
        lengths, padded = ({name: each[which] for name, each in read.items()} for which in (0, 1))
        rows = {"sample_id": batch["sample_id"], "label": batch["label"], "lengths": lengths, "padded": padded}
        if self.network.writes:
            answered = self.network.answered(encodings, self.late_scores)
            written = {"texts": answered.texts, "written": answered.generated, "cut_off": answered.limited}
            return rows | {"model_scores": answered.scores} | written
        logits, scores = self.network.decide(encodings)
        tiers = list(self.network.tiers)
        for tier, outputs in zip(tiers, logits.split([len(tier.exits) for tier in tiers], dim=1), strict=True):
            if tier.name not in self._comparisons:
                self._comparisons[tier.name] = Comparison(tier, self.print)
            self._comparisons[tier.name].see(encodings[tier.encoding_key], outputs)
        return rows | {"logits": logits, "model_scores": scores}
