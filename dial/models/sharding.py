"""Weights of one model shared among ranks (FSDP): each holds a part, and a layer is whole only while it is computed.

Ranks that share weights must compute the same layers in the same order, or they wait for each other for ever.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The layers that are gathered one by one: members of the outermost lists of modules.

    Example:
        >>> layers = nn.ModuleList([nn.Sequential(nn.ModuleList([nn.Linear(1, 1)])), nn.Identity()])
        >>> [type(layer).__name__ for layer in layers_of(nn.Sequential(layers, nn.Linear(1, 1)))]
        ['Sequential', 'Identity']
    """
    if isinstance(module, nn.ModuleList):
        return list(module)
    return [layer for child in module.children() for layer in layers_of(child)]


def share(
    module: nn.Module,
    mesh: Any,
    methods: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    apart: Iterable[nn.Parameter] = (),
) -> None:
    """Leave each rank its part of a module's weights, in place.

    Args:
        module: whose layers are gathered one by one, and whatever is beside them at each call.
        mesh: the ranks, of one dimension.
        methods: beside ``forward``, those by which the module is called from outside.
        dtype: numbers that layers are gathered and computed in; sums of gradients, and the parts that the optimiser
            moves, stay as they are. Default: the same.
        apart: weights that each rank keeps whole.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    # What is computed and what the layers say of it, not what goes in: a cast of a row's mask is no cast of numbers.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32 if dtype is not None else None)
    # A layer's output may be a view, of which torch warns, as it must not be changed in place; no model here does so.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for layer in layers_of(module):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=set(apart), reshard_after_forward=False)
    for name in methods:
        register_fsdp_forward_method(module, name)


def recompute_layers(model: Any) -> None:
    """Have a model of transformers keep what enters each layer alone, and compute it anew in the backward pass."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # older versions have the other name
    (enable or model.gradient_checkpointing_enable)()


def without_weights(module: Module) -> Module:
    """A copy on the meta device: all that a model is but the values of its weights, without memory for them."""
    known: dict[int, Any] = {
        id(x): nn.Parameter(torch.empty_like(x, device="meta"), requires_grad=x.requires_grad)
        for x in module.parameters()
    }
    known |= {id(x): torch.empty_like(x, device="meta") for x in module.buffers()}
    return copy.deepcopy(module, known)


def whole_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """All weights of a module that ranks share, in rank 0's memory; empty on the others. Collective."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state: Any = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return dict(state)


def load_shards(module: nn.Module, folder: Path) -> None:
    """Each rank takes its part of the weights in a checkpoint of which each rank wrote one. Collective.

    Args:
        module: that ranks share.
        folder: of the checkpoint, with the weights under ``state_dict``.
    """
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    state = {"state_dict": get_model_state_dict(module)}
    checkpoint.load(state, checkpoint_id=folder)
    module.load_state_dict(state["state_dict"])
