"""Going on with a slenderisation: what a checkpoint must have in common with the run, and what counts from there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dial.models.slender.masks import has_masks


def check_weights(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse a checkpoint of other shapes in one line; Lightning gives the weights before the callbacks' states.

    Args:
        module: has masks already.
        state: weights that it is about to load.
        prefix: unused, as the others: the arguments of a hook.

    Raises:
        ValueError: the checkpoint has no masks, or other shapes.
    """
    if not has_masks(state):
        raise ValueError(
            "`--ckpt_path` must be a checkpoint of a run with Slenderise, but this one has no masks; to make its "
            "model slender, name the tier folder of that run as `--model.path`."
        )
    own = module.state_dict()
    changed = [name for name, value in state.items() if name in own and own[name].shape != value.shape]
    if changed or state.keys() != own.keys():
        name = (changed or sorted(state.keys() ^ own.keys()))[0]
        raise ValueError(
            f"Slenderise must resume with the sizes of the checkpoint, but {name} differs; restore the rank "
            "of the embeddings and the model, or start a new run."
        )


def compare(what: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise a ValueError if a run does not go on as a checkpoint began.

    Args:
        what: the word for it.
        before: names and values of the checkpoint.
        now: those of the run; empty where it is not to make anything slender.
    """
    changed = [f"{key}={before.get(key)!r}, now {now.get(key)!r}" for key in before if before.get(key) != now.get(key)]
    if changed:
        raise ValueError(
            f"Slenderise must resume with the {what} of the checkpoint, but it has {'; '.join(changed)}; restore "
            "them, or start a new run."
        )


def sums_of(state: dict[str, Any], rank: int, world_size: int) -> tuple[list[Tensor], int]:
    """One process's share of the importance in a checkpoint: sums of every axis, and batches.

    Where their number is another than it was, the first process takes all, so that every batch counts once.
    """
    sums, counts = state["sums"], state["batches"]
    if len(sums) == world_size:
        return sums[rank], counts[rank]
    totals = [torch.stack(values).sum(dim=0) for values in zip(*sums, strict=True)]
    return (totals, sum(counts)) if rank == 0 else ([torch.zeros_like(value) for value in totals], 0)
