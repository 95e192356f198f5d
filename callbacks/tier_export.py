"""A tier folder beside the checkpoint: the best weights, loadable by transformers, with their card."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer

from lightning_modules.adaptive.files import read_json
from lightning_modules.inference.counting import tier_costs
from lightning_modules.inference.places import TIER
from lightning_modules.inference.sources import CARD
from lightning_modules.inference.tiers import Tier, save_tier
from lightning_modules.models.slender import compression, cut_in_place
from lightning_modules.models.slender_masks import has_masks
from lightning_modules.training import TierModule


class TierExport(Callback):
    """At the end of `dial fit` writes ``tier/`` into the run folder: model, tokenizer and ``card.json``.

    Args:
        card_length: tokens at which the card states the cost.
    """

    def __init__(self, card_length: int = 128) -> None:
        if card_length < 1:
            raise ValueError(f"`export.card_length` must be at least 1, but got {card_length}.")
        self.card_length = card_length

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
        """Load the best checkpoint's weights and save the tier; rank 0 writes."""
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by a connector
        if trial or not isinstance(pl_module, TierModule):
            return
        best = trainer.checkpoint_callback
        quality = None
        if isinstance(best, ModelCheckpoint) and best.best_model_path:
            quality = None if best.best_model_score is None else float(best.best_model_score)
            state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
            pl_module.load_state_dict(state)
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / TIER
        tier = exported(pl_module.tier)
        save_tier(folder, tier, self._card(trainer, pl_module, tier, quality), replace=True)
        slender = compression(tier.model)
        print(f"tier saved to {folder}{'' if slender is None else f': {in_words(slender)}'}")

    def _card(self, trainer: Trainer, module: TierModule, tier: Tier, quality: float | None) -> dict[str, Any]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        length = min(self.card_length, tier.max_length)
        macs = tier_costs(tier, [length])[len(tier.exits) - 1]([length])[0]
        slender = compression(tier.model)
        stopped = any(isinstance(c, Timer) and c.time_remaining() == 0 for c in trainer.callbacks)  # type: ignore[attr-defined]
        return {
            "task": getattr(data, "task", type(data).__name__),
            "label_names": module.label_names,
            "metrics": module.metric_names,
            "validation_quality": quality,
            "train_fingerprint": data.fingerprint("train"),
            "train_rows": len(data.rows("train")),
            "parameters": sum(p.numel() for p in tier.model.parameters()),
            **({} if slender is None else {"compression": slender}),
            "macs": {"length": length, "per_row": int(macs)},
            "steps": trainer.global_step,
            "finished": not stopped,
            "partial": is_partial(trainer),
        }


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
    card = folder / "card.json"
    return card.is_file() and bool(read_json(card, "run").get("finished"))


def is_partial(trainer: Trainer) -> bool:
    """Whether the trainer leaves rows out of any of its loops (1 is one batch, 1.0 is all)."""
    limits = [getattr(trainer, f"limit_{loop}_batches") for loop in ("train", "val", "test", "predict")]
    limited = any(limit != 1.0 or isinstance(limit, int) for limit in limits)
    return bool(trainer.fast_dev_run or trainer.overfit_batches or limited)  # type: ignore[attr-defined]
