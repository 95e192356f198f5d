"""A stage table of texts at hand: what every stage of loaded tiers says of them, without a trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dial.costs.counting import network_costs, padded_lengths
from dial.costs.functions import ModelCosts
from dial.inference.staged import StagedModel
from dial.stages.metrics.metrics import AGREEMENT
from dial.stages.table import StageTable
from dial.stages.task import task_of
from dial.tiers.tier import Tier
from dial.tiers.tokens import Unit


def rows_table(
    network: StagedModel,
    units: Sequence[Unit],
    label: np.ndarray | None,
    label_names: Sequence[str],
    metrics: Sequence[str],
    settings: Mapping[str, Any],
    batch_sizes: Mapping[str, int],
    costs: ModelCosts,
    progress: Callable[[str, int], None] = lambda tier, rows: None,
    split: str = "calibration",
    group: np.ndarray | None = None,
) -> StageTable:
    """Run every stage over every row.

    Args:
        network: the tiers, in eval mode.
        units: texts, or pairs of texts.
        label: ``(N,)``, of free text a reference each; None where there are none: then the Super's answers take their
            place, and the only metric is the agreement with it.
        label_names: the classes; empty for regression.
        metrics: of the labels, the primary first.
        settings: of the sweep whose points these rows are to choose: temperatures, length convention, reference, seed,
            tiers.
        batch_sizes: rows per batch, by tier.
        costs: cost functions of the sweep; counted anew where they do not know a length.
        progress: told how many rows a tier has done.
        split: what the rows are called.
        group: ``(N,)`` names of what rows belong to, which is drawn and promised together; None where each stands
            alone.

    Raises:
        ValueError: no labels for a regression, where answers agree or not at all; an output that is not finite.
    """
    task = task_of(label_names)
    if label is None and not task.exact:
        what = "references of free text" if task.written else "labels of a regression"
        raise ValueError(f"`--label-column` must name the {what}, whose answers hardly ever agree exactly.")
    late = tuple(name for name in settings.get("late", ()) if name in network.late_scores)
    columns = [_tier_columns(network, tier, units, batch_sizes[tier.name], progress, late) for tier in network.tiers]
    outputs = np.concatenate([each["outputs"] for each in columns], axis=1)
    tiers = [tier.name for tier in network.tiers]
    lengths = {name: each["length"] for name, each in zip(tiers, columns, strict=True)}
    padded = {name: each["padded"] for name, each in zip(tiers, columns, strict=True)}
    written, cut_off = (
        {name: each[what] for name, each in zip(tiers, columns, strict=True) if what in each}
        for what in ("written", "cut_off")
    )
    convention, reference = settings.get("length", "true"), settings.get("reference")
    try:
        spent = costs.columns(network.stages, lengths, padded, convention, reference, written)
    except ValueError:  # a cost that is no quadratic in the length, at a length that the test rows did not have
        costs = network_costs(network.tiers, lengths, padded, convention)
        spent = costs.columns(network.stages, lengths, padded, convention, reference, written)
    predictions = task.read(outputs) if network.writes else task.predict(outputs)
    references = None if label is None or not task.written else label
    own = {
        name: np.concatenate([each["own"].get(name, np.full(each["shape"], np.nan)) for each in columns], axis=1)
        for name in (*network.routing_scores, *late)
    }
    table = StageTable(
        split=np.full(len(units), split),
        sample_id=np.arange(len(units)),
        label=predictions[:, -1] if label is None else label if references is None else np.arange(len(units)),
        stages=tuple(network.stages),
        **({"texts": outputs, "references": references} if network.writes else {"outputs": outputs}),
        predictions=predictions,
        scores=own,
        **spent,
        lengths=lengths,
        padded=padded,
        written=written,
        cut_off=cut_off,
        metrics=(AGREEMENT,) if label is None else tuple(metrics),
        label_names=tuple(label_names),
        group=group,
        settings={**settings, "truncated": {}, "partial": False, "calibration": split},
    )
    computed = task.scores[-1:] if network.writes else task.scores
    return table.with_scores([name for name in computed if name not in own], seed=int(settings.get("seed") or 0))


@torch.inference_mode()
def _tier_columns(
    network: StagedModel,
    tier: Tier,
    units: Sequence[Unit],
    size: int,
    progress: Callable[[str, int], None],
    late: Sequence[str] = (),
) -> dict[str, Any]:
    """Outputs ``(N, E, C)``, own scores ``(N, E)`` and lengths ``(N,)`` of one tier, in batches of like length.

    Where decoders write the outputs are texts ``(N, E)``, and with them there is what they wrote.
    """
    tokeniser, device = tier.tokeniser(), next(tier.parameters()).device
    tokens = tokeniser(units)
    length = np.array([len(row.ids) for row in tokens], dtype=np.int64)
    order, padded = np.argsort(length, kind="stable"), np.zeros_like(length)
    outputs: np.ndarray | None = None
    own: dict[str, np.ndarray] = {}
    written: dict[str, np.ndarray] = {}
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        encoding = tokeniser.collate([tokens[row] for row in rows], device)
        if network.writes:
            answered = network.answered_by(tier, encoding, late)
            values, scores = answered.texts, answered.scores
            for what, of_tier in (("written", answered.generated), ("cut_off", answered.limited)):
                for steps in of_tier.values():
                    written.setdefault(what, np.zeros_like(length))[rows] = steps.cpu().numpy()
        else:
            logits, scores = tier.decide(encoding)
            values = logits.float().cpu().numpy()
        if outputs is None:
            outputs = np.zeros((len(order), *values.shape[1:]), dtype=values.dtype)
        outputs[rows], padded[rows] = values, padded_lengths(length[rows], tier.window)
        for name, score in scores.items():
            own.setdefault(name, np.zeros(outputs.shape[:2]))[rows] = score.double().cpu().numpy()
        progress(tier.name, start + len(rows))
    assert outputs is not None
    about = {"outputs": outputs, "own": own, "length": length, "padded": padded, "shape": outputs.shape[:2]}
    return about | written
