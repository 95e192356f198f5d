"""Models larger than one device: ranks share their weights, and write checkpoints of which each holds a part."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy

from callbacks.checkpoints import LAST, OLDER, remove


class Sharded(ModelParallelStrategy):
    """Each rank holds a part of the weights, gradients and optimiser's state, and computes rows of its own (FSDP).

    A checkpoint is a folder with a file of each rank. It is whole or absent, and the last one but one is kept, as of
    the checkpoints that are files.

    Args:
        recompute: keep only what enters each layer, and compute the layer anew in the backward pass, which costs a
            third more time and saves most of the memory of activations.
        process_group_backend: ``nccl`` or ``gloo``; default: what fits the device.
        timeout: seconds that ranks wait for each other.

    Raises:
        ValueError: the timeout is not above 0.
    """

    def __init__(
        self, recompute: bool = False, process_group_backend: str | None = None, timeout: float = 1800.0
    ) -> None:
        if not timeout > 0:
            raise ValueError(f"`trainer.strategy.timeout` must be a number of seconds above 0, but got {timeout}.")
        super().__init__(
            tensor_parallel_size=1, process_group_backend=process_group_backend, timeout=timedelta(seconds=timeout)
        )
        self.recompute = recompute

    def setup_environment(self) -> None:
        """All ranks share the weights of one model."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a folder beside its place and rename it when all ranks are done."""
        path = Path(self.broadcast(filepath))
        scratch = path.with_name(f".{path.name}.part")
        if self.is_global_zero:
            remove(scratch)
        self.barrier()
        super().save_checkpoint(checkpoint, scratch, storage_options)
        self.barrier()
        if self.is_global_zero:
            older = path.with_name(OLDER)
            if path.name == LAST and path.exists():
                remove(older)
                path.rename(older)
            remove(path)
            scratch.rename(path)
        self.barrier()
