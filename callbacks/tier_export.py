"""A tier folder beside the checkpoint: the best weights, loadable by transformers, with their card."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer

from callbacks.fit_length import fit_numbers
from datamodules.checks import is_partial
from dial.costs.counting import check_countable
from dial.files import read_json, write_json
from dial.models.sharding import load_shards
from dial.models.slender.encoder import compression, cut_in_place
from dial.models.slender.structures import has_masks
from dial.tiers.loading import CARD, Tier, save_tier
from dial.tiers.places import TIER
from lightning_modules.training import TierModule

logger = logging.getLogger(__name__)


class TierExport(Callback):
    """At the end of `dial fit` writes ``tier/`` into the run folder: model, tokenizer and ``card.json``.

    Its cost is counted before the first step: a model that cannot be counted is refused then. What can only be measured
    of the trained model is measured when it is saved.

    Args:
        card_length: tokens at which the card states the cost.
    """

    def __init__(self, card_length: int = 128) -> None:
        if card_length < 1:
            raise ValueError(f"`export.card_length` must be at least 1, but got {card_length}.")
        self.card_length = card_length
        self._macs: int | None = None

    def count(self, module: LightningModule) -> None:
        """Count the model's MACs, once; the command line does so before the data is read.

        Raises:
            ValueError: they cannot be counted.
        """
        if self._macs is None and isinstance(module, TierModule):
            self._macs = check_countable(module.tier, "model", self._length(module.tier))

    def _length(self, tier: Tier) -> int:
        return min(self.card_length, tier.max_length)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the MACs, if that is still to be done, and see that all is there that the tier's saving needs.

        Raises:
            ValueError: the model cannot be counted, or the best checkpoint of a run that goes on is gone.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            return
        self.count(pl_module)
        best = trainer.checkpoint_callback
        if isinstance(best, ModelCheckpoint) and best.best_model_path and not Path(best.best_model_path).exists():
            raise ValueError(
                f"`--ckpt_path` must be a checkpoint whose run still has its best one, but {best.best_model_path} is "
                "gone; put it back, or train anew in another folder."
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a fit where something lies in the tier's place that no fit left.

        Raises:
            ValueError: naming it.
        """
        folder = Path(trainer.default_root_dir) / TIER
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]
        if stage == "fit" and not trial and folder.exists() and not (folder / CARD).is_file():
            raise ValueError(
                f"`--run` must be a folder whose {TIER}/ is new or of `dial fit`, but {folder} holds something else; "
                "name another folder, or move it."
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the best checkpoint's weights, save the tier, and measure what became of it; rank 0 writes."""
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by a connector
        if trial or not isinstance(pl_module, TierModule):
            return
        best = trainer.checkpoint_callback
        quality = None
        if isinstance(best, ModelCheckpoint) and best.best_model_path:
            quality = None if best.best_model_score is None else float(best.best_model_score)
            load_weights(pl_module, Path(best.best_model_path))
        whole = pl_module.whole_tier()
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / TIER
        tier = exported(whole)
        card = self._card(trainer, pl_module, tier, quality)
        cut = tier is not whole
        save_tier(folder, tier, card if cut else {**card, "macs": self._cost(tier, self._macs)}, replace=True)
        slender = self._measure(folder, tier, cut)
        print(f"tier saved to {folder}{'' if slender is None else f': {in_words(slender)}'}")

    def _card(self, trainer: Trainer, module: TierModule, tier: Tier, quality: float | None) -> dict[str, Any]:
        """What is known of a tier without another look at its model."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        stopped = any(isinstance(c, Timer) and c.time_remaining() == 0 for c in trainer.callbacks)  # type: ignore[attr-defined]
        return {
            "task": getattr(data, "task", type(data).__name__),
            "label_names": module.label_names,
            **({} if getattr(data, "target", None) is None else {"target": data.target}),
            "metrics": module.metric_names,
            **tier.kept_settings,
            **self._qualities(module, tier, quality),
            "train_fingerprint": data.fingerprint("train"),
            "train_rows": len(data.rows("train")),
            "parameters": sum(p.numel() for p in tier.model.parameters()),
            "steps": trainer.global_step,
            "fit": fit_numbers(trainer, module),
            "finished": not stopped,
            "partial": is_partial(trainer),
        }

    def _qualities(self, module: TierModule, tier: Tier, quality: float | None) -> dict[str, float | None]:
        """What was measured in training: of the tier, or of a head on it, which leaves the tier's own as it is."""
        if not module.trains_head:
            return {"validation_quality": quality}
        return {"head_quality": quality, "validation_quality": tier.card.get("validation_quality")}

    def _cost(self, tier: Tier, macs: int | None) -> dict[str, int | None]:
        return {"length": self._length(tier), "per_row": macs}

    def _measure(self, folder: Path, tier: Tier, cut: bool) -> dict[str, Any] | None:
        """Add to the card of a saved tier what its slenderisation came to; None where it is not slender.

        Nothing that fails here may cost the tier.
        """
        found: dict[str, Any] = {}
        try:
            slender = compression(tier.model)
            found = {} if slender is None else {"compression": slender}
            if cut:
                found["macs"] = self._cost(tier, check_countable(tier, "model", self._length(tier)))
        except Exception as error:
            logger.warning("%s: the tier is saved, but could not be measured: %s", folder, " ".join(str(error).split()))
        if found:
            write_json(folder / CARD, {**read_json(folder / CARD, "run"), **found})
        return found.get("compression")


def load_weights(module: LightningModule, checkpoint: Path) -> None:
    """Take the weights of a checkpoint: of a file, or of a folder that ranks which share them have written."""
    if checkpoint.is_dir():
        load_shards(module, checkpoint)
    else:
        module.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])


def exported(tier: Tier) -> Tier:
    """The tier, or a copy without the structures that slenderisation masked."""
    if not has_masks(tier.model.state_dict()):
        return tier
    tier = copy.deepcopy(tier)
    cut_in_place(tier.model)
    return tier


def in_words(slender: dict[str, Any]) -> str:
    """What :func:`compression` found, in one line.

    >>> sizes = {"all": {"before": 400, "after": 100}, "without_embeddings": {"before": 300, "after": 50}}
    >>> in_words({"parameters": sizes, "factor": {"all": 4.0, "without_embeddings": 6.0}})
    '400 to 100 parameters, 4 times fewer (6 times without word embeddings)'
    """
    sizes, factor = slender["parameters"]["all"], slender["factor"]
    return (
        f"{sizes['before']:,} to {sizes['after']:,} parameters, {factor['all']:g} times fewer "
        f"({factor['without_embeddings']:g} times without word embeddings)"
    )


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a tier whose training came to its end, and was not stopped by ``trainer.max_time``."""
    card = folder / CARD
    return card.is_file() and bool(read_json(card, "run").get("finished"))
