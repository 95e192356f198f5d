"""AdamW whose learning rate follows from the width of the model where none is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch

RATE, WIDTH = 5.0e-5, 768  # what papers fine-tune a BERT-base with
HIGHEST = 3.0e-4


def rate_of_width(width: int) -> float:
    """Learning rate to fine-tune a pretrained model with: the narrower, the larger.

    5e-5 at BERT-base's 768, in inverse proportion to the width, up to 3e-4 at 128: the range that Turc et al. 2019
    (arXiv:1908.08962) search for models of these widths.

    Args:
        width: of the hidden states.

    >>> [rate_of_width(width) for width in (768, 384, 128, 16)]
    [5e-05, 0.0001, 0.0003, 0.0003]
    """
    return min(HIGHEST, RATE * WIDTH / width)


class SizedAdamW(torch.optim.AdamW):
    """AdamW that takes the rate of :func:`rate_of_width`, unless one is given.

    Args:
        params: parameters or groups of them.
        lr: learning rate; ``auto``: by the width of the model in training.
        betas: decay of the moments.
        eps: added to the denominator.
        weight_decay: of the groups that do not say otherwise.
        fused: update in one kernel.

    Attributes:
        by_width: whether no rate was given.

    Raises:
        ValueError: one of them is outside its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Literal["auto"] = "auto",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        fused: bool | None = None,
    ) -> None:
        self.by_width = lr == "auto"
        super().__init__(params, RATE if lr == "auto" else lr, betas, eps, weight_decay, fused=fused)

    def set_width(self, width: int | None) -> None:
        """Take the rate of a model of this width, if none was given.

        Raises:
            ValueError: none was given, and the width is not known.
        """
        if not self.by_width:
            return
        if width is None:
            raise ValueError(
                "`--model.optimizer.init_args.lr` must be a number for a model of unknown width (its configuration "
                "names no hidden_size), but got auto."
            )
        for group in self.param_groups:
            group["lr"] = rate_of_width(width)
