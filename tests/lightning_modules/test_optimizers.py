"""AdamW with the rate of the model's width, unless one is given."""

from functools import partial

import pytest
import torch
from torch import nn

from lightning_modules import Classifier, SizedAdamW
from lightning_modules.optimizers import rate_of_width

NAMES = ["negative", "positive"]


@pytest.mark.parametrize(
    ("width", "rate"),
    [(1, 3e-4), (128, 3e-4), (256, 1.5e-4), (384, 1e-4), (768, 5e-5), (1024, 3.75e-5), (4096, 9.375e-6)],
)
def test_rates_by_hand(width, rate) -> None:
    assert rate_of_width(width) == pytest.approx(rate, rel=1e-12)


def groups() -> list[dict]:
    layer = nn.Linear(2, 2)
    return [{"params": [layer.weight]}, {"params": [layer.bias], "weight_decay": 0.0}]


def test_width_sets_every_group() -> None:
    optimizer = SizedAdamW(groups(), weight_decay=0.2)
    optimizer.set_width(384)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(1e-4, 0.2), (1e-4, 0.0)]


def test_a_given_rate_wins() -> None:
    optimizer = SizedAdamW(groups(), lr=7e-3)
    optimizer.set_width(384)
    optimizer.set_width(None)
    assert {group["lr"] for group in optimizer.param_groups} == {7e-3}


def test_an_unknown_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`--model\.optimizer\.init_args\.lr` must be a number .* no hidden_size"):
        SizedAdamW(groups()).set_width(None)


def test_one_step_is_that_of_adamw() -> None:
    mine, theirs = groups(), groups()
    for a, b in zip(mine, theirs, strict=True):
        b["params"][0].data.copy_(a["params"][0].data)
    ours, stock = SizedAdamW(mine, weight_decay=0.1), torch.optim.AdamW(theirs, lr=1e-4, weight_decay=0.1)
    ours.set_width(384)
    for optimizer in (ours, stock):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, 0.3)
        optimizer.step()
    assert all(torch.equal(a["params"][0], b["params"][0]) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize(("given", "peak"), [({}, 3e-4), ({"lr": 0.02}, 0.02)])
def test_peak_of_a_fit(fit, tiny_bert, given, peak) -> None:
    """The tiny model is narrower than 128."""
    module = Classifier(
        path=str(tiny_bert), label_names=NAMES, max_length=32, warmup=0.0, optimizer=partial(SizedAdamW, **given)
    )
    (optimizer,) = fit(module, steps=2).optimizers
    assert {group["initial_lr"] for group in optimizer.param_groups} == {peak}
