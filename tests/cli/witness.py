"""A callback that tests name on the command line: what each process saw, and a way to kill them all."""

import hashlib
import json
import os
import signal
from pathlib import Path

from lightning.pytorch import Callback


class Witness(Callback):
    """Writes ``<out>/rank<r>.json`` when a command ends.

    Args:
        out: folder.
        kill_at: SIGKILL for the whole process group after this many optimiser steps; 0 for never. ``DIAL_KILL=no``
            switches it off without changing the configuration.
    """

    def __init__(self, out: str, kill_at: int = 0) -> None:
        self.out, self.kill_at = Path(out), kill_at
        self.seen = {"train": [], "validation": [], "test": []}
        self.steps, self.validated = 0, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen["train"].append(batch["sample_id"].tolist())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.steps += 1
        if trainer.global_step == self.kill_at and os.environ.get("DIAL_KILL") != "no" and trainer.global_rank == 1:
            os.killpg(os.getpgid(0), signal.SIGKILL)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if not trainer.sanity_checking:
            self.seen["validation"].append(batch["sample_id"].tolist())

    def on_validation_end(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            self.validated.append({name: value.item() for name, value in trainer.callback_metrics.items()})

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if dataloader_idx == 1:
            self.seen["test"].append(batch["sample_id"].tolist())

    def on_train_end(self, trainer, pl_module) -> None:
        digest = hashlib.sha256()
        for name, value in sorted(pl_module.state_dict().items()):
            value = value.to_local() if hasattr(value, "to_local") else value  # of a model that ranks share: a part
            digest.update(name.encode() + value.numpy().tobytes())
        held = sum(p.to_local().numel() for p in pl_module.parameters() if hasattr(p, "to_local"))
        self.write(trainer, weights=digest.hexdigest(), held=held)

    def on_test_end(self, trainer, pl_module) -> None:
        self.write(trainer)

    def write(self, trainer, **more) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        facts = {"steps": self.steps, "global_step": trainer.global_step, "world_size": trainer.world_size}
        facts |= {"seen": self.seen, "validated": self.validated, **more}
        (self.out / f"rank{trainer.global_rank}.json").write_text(json.dumps(facts))
