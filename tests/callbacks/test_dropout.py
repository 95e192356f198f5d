"""A fit on a CPU draws cheaper masks, and leaves torch as it was, also where it fails."""

import gc

import lightning.pytorch as pl
import pytest
import torch

from callbacks import CheapDropout
from dial.models.dropout import bernoulli_from_bits_


class Dropped(pl.LightningModule):
    """Keeps what was drawn in each step; `fails` in the second."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.weight, self.fails = torch.nn.Parameter(torch.ones(1)), fails
        self.kept: list[torch.Tensor] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        torch.manual_seed(batch_idx)
        self.kept.append(torch.nn.functional.dropout(torch.ones(50) * self.weight, 0.5).detach() > 0)
        if self.fails and batch_idx == 1:
            raise ArithmeticError
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("fails", [False, True])
def test_masks_of_a_fit_come_from_bits_and_those_after_it_from_torch(fails, tmp_path) -> None:
    torch.manual_seed(0)
    own = torch.empty(50).bernoulli_()
    module = Dropped(fails)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[CheapDropout()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    rows = torch.utils.data.DataLoader(torch.zeros(3))
    if fails:
        with pytest.raises(ArithmeticError):
            trainer.fit(module, rows)
    else:
        trainer.fit(module, rows)
    for step, kept in enumerate(module.kept):
        torch.manual_seed(step)
        assert torch.equal(kept, bernoulli_from_bits_(torch.empty(50)) > 0)
    gc.collect()
    torch.manual_seed(0)
    assert torch.equal(own, torch.empty(50).bernoulli_())
