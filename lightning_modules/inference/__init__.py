"""Tiers, staged models and what runs them."""

from lightning_modules.inference.labels import check_permutation, is_generic, match_labels
from lightning_modules.inference.multi_exit_tier import MultiExitTier
from lightning_modules.inference.staged import StagedModel, take_rows
from lightning_modules.inference.teacher import teacher_logits
from lightning_modules.inference.tiers import Tier, View, build_tier, encoding_key, load_tier, save_tier

__all__ = [
    "MultiExitTier",
    "StagedModel",
    "Tier",
    "View",
    "build_tier",
    "check_permutation",
    "encoding_key",
    "is_generic",
    "load_tier",
    "match_labels",
    "save_tier",
    "take_rows",
    "teacher_logits",
]
