"""Cascades of tiers that were trained elsewhere, black boxes included (E-LANG, TangoBERT)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from dial.inference.staged import StagedModel
from dial.tiers.labels import check_targets_agree
from dial.tiers.loading import View, load_tier
from lightning_modules.base import Batch, StagedModule


class Cascade(StagedModule):
    """Two or more tiers, cheapest first: E-LANG's Swift and Super (Eq. 6), TangoBERT's first and second tier.

    Nothing is trained. ``dial test`` runs every tier over every row once, so that the sweep knows what each would have
    answered; the scores that decide, and their thresholds, belong to the sweep (``--sweep.scores``).

    Args:
        tiers: folder or hub id of each tier, or a view: ``path`` with any other argument of
            :class:`~dial.tiers.tier.View`, such as ``{path: runs/super, layers: 4, dtype: bfloat16}``.
        names: what the tiers are called in tables and figures. Default: ``swift`` and ``super``, or ``tier1``,
            ``tier2``, and so on.
        label_names: see :class:`StagedModule`.
        metrics: see :class:`StagedModule`.

    Raises:
        ValueError: fewer than two tiers, names that do not match, or a tier whose labels do not fit the data.
    """

    shares_weights = True

    def __init__(
        self,
        tiers: list[str | dict[str, Any]],
        names: list[str] | None = None,
        label_names: list[str] | None = None,
        metrics: list[str] | None = None,
    ) -> None:
        super().__init__(label_names, metrics)
        self.save_hyperparameters()
        if len(tiers) < 2:
            raise ValueError(
                f"`tiers` must hold at least two tiers, cheapest first, but got {len(tiers)}; "
                "test a single model with the class_path that trained it."
            )
        names = names or (["swift", "super"] if len(tiers) == 2 else [f"tier{i + 1}" for i in range(len(tiers))])
        if len(names) != len(tiers) or len(set(names)) != len(names):
            raise ValueError(f"`names` must give each of the {len(tiers)} tiers a name of its own, but got {names}.")
        views = [View.parse(spec, f"tiers[{i}]") for i, spec in enumerate(tiers)]
        loaded = [
            load_tier(view, name, self.label_names, f"tiers[{i}]")
            for i, (view, name) in enumerate(zip(views, names, strict=True))
        ]
        self.network = StagedModel(loaded)

    def setup(self, stage: str) -> None:
        """Refuse to be trained before anything is read, and tiers that write something else than the data holds."""
        if stage == "fit":
            raise ValueError(
                "`Cascade` is not trained: fit each tier by itself (class_path: Classifier, Seq2Seq or SpanQA), "
                "then `dial test` the cascade."
            )
        targets = {tier.name: tier.card.get("target") for tier in self.network.tiers if tier.generates}
        data = self.data
        check_targets_agree(targets, getattr(data, "target", None))
        allowed = getattr(data, "no_answer", None)
        for tier in self.network.tiers:
            own = getattr(tier, "no_answer", allowed)  # that of tiers that answer by spans
            if allowed is not None and own != allowed:
                rank_zero_warn(
                    f"`{tier.name}` {'may' if own else 'cannot'} say that a question has no answer, but the data "
                    f"has {'such' if allowed else 'no such'} questions; give the tier as {{path: "
                    f"{tier.view.path}, no_answer: {str(allowed).lower()}}}, best one that was trained so."
                )
        self._warn_of_equal_lengths()
        super().setup(stage)

    def _warn_of_equal_lengths(self) -> None:
        """Say which tiers are one and the same, as the front has nothing else within their shares of the MACs."""
        asked: dict[Any, Any] = {}
        for tier in self.network.tiers:
            if not isinstance(tier.view.lengths, int | float):
                continue
            assert tier.lengths is not None
            known = str(replace(tier.view, lengths=None)), tier.lengths.values
            first = asked.setdefault(known, tier)
            if first is not tier:
                rank_zero_warn(
                    f"`{tier.name}` is the same tier as `{first.name}`: of {tier.view.path} `lengths` "
                    f"{first.view.lengths:g} and {tier.view.lengths:g} are one configuration of the front; leave one "
                    "out, as it costs MACs and changes no answer, or search further with `dial lengths`."
                )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """A cascade has nothing to train."""
        raise NotImplementedError

    def configure_optimizers(self) -> None:
        """A cascade has nothing to train."""
