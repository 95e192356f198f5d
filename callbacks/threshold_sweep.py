"""The sweep over all thresholds, from one pass over the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.checks import is_partial
from dial.claims import check_sweep_files
from dial.costs.counting import check_countable, network_costs
from dial.costs.functions import Length, ModelCosts, macs_of
from dial.report.configuration import check_folder, configuration_of, rows_fingerprint
from dial.report.settings import SweepSettings
from dial.spelling import spelt
from dial.stages.repeats import distinct
from dial.stages.scores import MODEL_SCORES
from dial.stages.table import StageTable
from dial.stages.task import Classification
from dial.tiers.labels import check_permutation
from dial.tradeoff.rules import check_settings
from dial.tradeoff.taken import quality_at
from lightning_modules.base import StagedModule
from lightning_modules.rows import RowGatherer, Rows, concatenate, numbers


class ThresholdSweep(Callback):
    """On `dial test`: stage table, exact curve of every score, operating points, statistics, figures.

    The models run once over the calibration and the test rows; every threshold after that is arithmetic on the table.
    fvcore counts each stage's path once per tier. Written to ``sweep/`` in the run folder; rank 0 writes, atomically.

    Args:
        scores: which scores route; default: all that the task admits. Those of finished answers (``decoder_energy``,
            ``answer_log_probability``, ...) are for comparison: each tier writes before it decides, and is charged so.
        targets: qualities, as shares of the Super's, to choose operating points for.
        confidence: of the one-sided bound that a ``confident`` operating point rests on.
        budgets: mean cost per row to choose operating points for: MACs such as 2e9, or FLOPs such as 4e9flop.
        length: tokens at which a row is charged: its own (``true``; the padding of its batch is not charged), those of
            its ``padded`` batch, or a fixed number.
        reference: tier whose cost is the reference of every speed-up; default: the last. Of a multi-exit model it is
            that of its encoder unpruned, with one classifier behind the last layer.
        bootstrap: resamples behind each interval.
        seed: of random routing and of the bootstrap.
        folds: of cross-fitting, where the data has no calibration rows.
        patience: numbers of agreeing exits (PABEE) to report as they are; for the targets patience is chosen anyway.
        tolerance: for regression, where two exits agree if their answers differ by less; without it no patience.
        out: folder. Default: ``sweep`` in the run folder.
    """

    def __init__(
        self,
        scores: list[str] | None = None,
        targets: list[float] = [1.0, 0.995, 0.99, 0.98],  # noqa: B006  (a list, so that the command line can extend it)
        confidence: float = 0.9,
        budgets: list[float | str] = [],  # noqa: B006
        length: Length = "true",
        reference: str | None = None,
        bootstrap: int = 1000,
        seed: int = 0,
        folds: int = 5,
        patience: list[int] | None = None,
        tolerance: float | None = None,
        out: str | None = None,
    ) -> None:
        self.scores, self.length, self.reference, self.seed, self.out = scores, length, reference, seed, out
        for name in scores or []:
            Classification().check_score(name, "sweep.scores", given=tuple(MODEL_SCORES))
        if isinstance(length, int) and length < 1:
            raise ValueError(f"`sweep.length` must be true, padded or a number of tokens from 1, but got {length}.")
        with spelt({each.name: f"sweep.{each.name}" for each in dataclasses.fields(SweepSettings)}):
            macs = [macs_of(str(budget)) for budget in budgets]
            numbers: dict[str, Any] = {"bootstrap": bootstrap, "seed": seed, "folds": folds, "tolerance": tolerance}
            self.choices = SweepSettings(scores or (), targets, confidence, macs, patience=patience or (), **numbers)
        self._rows = RowGatherer()
        self._costs: ModelCosts | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what the task admits, before any model runs."""
        self._rows.clear()
        module = staged(pl_module)
        given = (*module.network.routing_scores, *module.network.late_scores)
        module.late_scores = self._late(module)
        for name in self.scores or []:
            module.task.check_score(name, "sweep.scores", given)
            if module.network.writes and name not in (*given, "random"):
                raise ValueError(
                    f"`sweep.scores` for these tiers must be one of: {', '.join([*given, 'random'])}; but got "
                    f"{name!r}, which not every tier before the last gives; train energy heads for them."
                )
        settings, stages = self.choices, module.network.stages
        check_settings(settings, len(stages), not module.task.exact, "sweep.")
        names = [tier.name for tier in module.network.tiers]
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"`sweep.reference` must be one of the tiers {names}, but got {self.reference!r}.")
        self._check_folder(trainer, module)
        for tier in module.whole_tiers:
            check_countable(tier, f"model: {tier.name}" if len(names) > 1 else "model")

    def _check_folder(self, trainer: Trainer, module: StagedModule) -> None:
        """Refuse a folder that holds results of another configuration, which is known before the models run."""
        folder, argument = self.folder(trainer), "--sweep.out" if self.out else "--run"
        check_sweep_files(folder, argument)
        if not (folder / "summary.json").is_file():
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        parts = {split: data.rows(split) for split in data.test_splits}
        rows = {
            split: rows_fingerprint(
                part.sample_id,
                module.task.labels(part.label),
                getattr(part, "group", None),
                part.targets if module.task.written else None,
            )
            for split, part in parts.items()
        }
        if not getattr(data, "labelled", True):
            rows = {split: rows_fingerprint(part.sample_id, group=part.group) for split, part in parts.items()}
        about = self.settings(trainer, module)
        partial = about.pop("partial")
        if self.choices.tolerance is not None:
            about["tolerance"] = self.choices.tolerance
        settings, stages = self._choices(module, data.test_splits), module.network.stages
        wanted = configuration_of(settings, module.metric_names, stages, about, None if partial else rows)
        check_folder(folder, wanted, partial, argument)

    def folder(self, trainer: Trainer) -> Path:
        """Where the results go."""
        return Path(self.out) if self.out else Path(trainer.default_root_dir) / "sweep"

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep one batch's rows, on the CPU."""
        split = trainer.datamodule.test_splits[dataloader_idx]  # type: ignore[attr-defined]
        self._rows.add(outputs, split)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather all processes' rows; log each stage's quality; rank 0 builds and writes the report."""
        module = staged(pl_module)
        table = self.table(trainer, module, self._rows.gather())
        for split in table.splits:
            rows = table.of_split(split)
            logged = {
                f"{split}/{name}/{stage.name}": quality_at(rows, name, np.full(len(rows), s))
                for name in module.metric_names
                for s, stage in enumerate(table.stages)
            }
            pl_module.log_dict(numbers(logged, pl_module.device), sync_dist=True)
        if trainer.is_global_zero:
            self.write(trainer, module, table)

    def table(self, trainer: Trainer, module: StagedModule, rows: dict[str, dict[str, Any]]) -> StageTable:
        """The stage table of all splits, without scores' costs counted twice and without repeated rows."""
        splits = list(rows)
        joined = concatenate([rows[split] for split in splits])
        lengths, padded = joined["lengths"], joined["padded"]
        costs = self._costs = network_costs(module.whole_tiers, lengths, padded, self.length)
        answers = answers_of(module, trainer.datamodule, rows, joined)  # type: ignore[attr-defined]
        split = np.repeat(np.array(splits), [len(rows[s]["sample_id"]) for s in splits])
        label = module.task.labels(joined["label"])
        if not getattr(trainer.datamodule, "labelled", True):  # type: ignore[attr-defined]
            label = answers["predictions"][:, -1].copy()  # quality is the agreement with the last stage
            _, repeats, originals = distinct(joined["sample_id"], split)
            label[repeats] = label[originals]
        table = StageTable(
            split=split,
            sample_id=joined["sample_id"],
            label=label,
            stages=tuple(module.network.stages),
            **answers,
            scores={
                name: joined["model_scores"][name] for name in (*module.network.routing_scores, *self._late(module))
            },
            statistics={},
            **costs.columns(module.network.stages, lengths, padded, self.length, self.reference, joined.get("written")),
            lengths=lengths,
            padded=padded,
            group=group_of(trainer.datamodule, rows),  # type: ignore[attr-defined]
            metrics=tuple(module.metric_names),
            label_names=tuple(module.label_names),
            settings=self.settings(trainer, module),
        ).without_repeats(sampled=True)
        self._check_labels(module, table)
        return table.with_scores([n for n in self.score_names(module) if n not in table.scores], seed=self.seed)

    def score_names(self, module: StagedModule) -> list[str]:
        """Scores to analyse: those asked for, or all that the task admits and the model gives."""
        if self.scores:
            return list(self.scores)
        *computed, last = module.task.scores
        return [*(computed if not module.network.writes else ()), *module.network.routing_scores, last]

    def _late(self, module: StagedModule) -> list[str]:
        """Scores asked for that only finished answers tell."""
        return [name for name in self.scores or [] if name in module.network.late_scores]

    def settings(self, trainer: Trainer, module: StagedModule) -> dict[str, Any]:
        """What the table's numbers depend on, as plain values."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        reference = self.reference or module.network.tiers[-1].name
        tiers = {tier.name: tier.describe() for tier in module.whole_tiers}
        # Only where it applies: the settings are part of a report's fingerprint.
        plain: dict[str, Any] = {"reference_without_exits": True} if "unpruned" in tiers[reference] else {}
        hidden = getattr(data, "hidden", None)  # rows left out, by role
        if module.network.writes and getattr(data, "source_form", None) is not None:
            plain["source_form"] = data.source_form
        if late := self._late(module):
            plain["late"] = late
        return (
            plain
            | ({"hidden": dict(hidden)} if hidden else {})
            | {
                "task": getattr(data, "task", type(data).__name__),
                "calibration": data.calibration,
                "temperatures": {
                    name: tier.view.temperature for tier in module.network.tiers for name in tier.stage_names
                },
                "length": self.length,
                "reference": reference,
                "seed": self.seed,
                "tiers": tiers,
                "truncated": {key: dict(value) for key, value in getattr(data, "truncated", {}).items()},
                "partial": is_partial(trainer),
            }
        )

    def _check_labels(self, module: StagedModule, table: StageTable) -> None:
        """Generic label names count as the data's order; held-out rows must not contradict that."""
        rows = table.of_split("calibration") if "calibration" in table.splits else table
        if not module.task.exact or table.settings["partial"]:
            return
        for tier in module.network.tiers:
            if tier.labels_assumed:
                stage = max(s for s, stage in enumerate(table.stages) if stage.tier == tier.name)
                check_permutation(rows.predictions[:, stage], rows.label, module.label_names, f"tier {tier.name}")

    def write(self, trainer: Trainer, module: StagedModule, table: StageTable) -> None:
        """Build the report, write it and print its table."""
        from dial.report.report import build_report  # matplotlib: only when it is needed

        report = build_report(table, self._choices(module, table.splits), costs=self._costs)
        folder = self.folder(trainer)
        report.write(folder)
        print(report.text())
        print(f"written to {folder}")

    def _choices(self, module: StagedModule, splits: Sequence[str]) -> SweepSettings:
        """What to choose from a table with these splits."""
        calibration = "split" if "calibration" in splits else "crossfit"
        return dataclasses.replace(self.choices, scores=tuple(self.score_names(module)), calibration=calibration)


def answers_of(module: StagedModule, data: Any, rows: dict[str, Rows], joined: Rows) -> dict[str, Any]:
    """What stages answered, as a table's columns: logits, or texts with what they are compared with.

    Args:
        module: whose stages they are.
        data: the data module.
        rows: by split.
        joined: the rows of all splits.
    """
    if not module.network.writes:
        logits = joined["logits"].astype(np.float32)
        return {"outputs": logits, "predictions": module.task.predict(logits)}
    written = {name: joined[name] for name in ("texts", "written", "cut_off")}
    references = None
    if module.task.written:  # a row's label is its position
        known = {split: data.references(split) for split in rows}
        references = [known[split][position] for split, part in rows.items() for position in part["label"].tolist()]
    return {**written, "predictions": module.task.read(written["texts"]), "references": references}


def group_of(data: Any, rows: dict[str, dict[str, Any]]) -> np.ndarray | None:
    """What each row of the splits belongs to, ``(N,)``; None where the data has no groups.

    Args:
        data: the data module.
        rows: by split, with ``sample_id``.
    """
    groups = []
    for split, part in rows.items():
        known = data.rows(split)
        if getattr(known, "group", None) is None:
            return None
        order = np.argsort(known.sample_id)
        place = order[np.searchsorted(known.sample_id, part["sample_id"], sorter=order)]
        groups.append(known.group[place])
    return np.concatenate(groups)


def staged(module: LightningModule) -> StagedModule:
    """The module, if it is staged.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(module, StagedModule):
        raise ValueError(
            "`model.class_path` must be a StagedModule (Classifier, Distillation, MultiExit, Cascade), "
            f"but got {type(module).__name__}."
        )
    return module
