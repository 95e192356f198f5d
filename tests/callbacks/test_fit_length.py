"""The length of a fit that nobody gave: enough steps in small sets, few passes in large ones."""

from types import SimpleNamespace

import pytest

from callbacks import FitLength
from callbacks.fit_length import Length


def by_trial(epochs: int, min_steps: int, most: int, steps: int) -> tuple[int, int]:
    """Add one pass to each validation's share until the steps suffice or the next would be too many; plain loops."""
    every = 1
    while epochs * every * steps < min_steps and epochs * (every + 1) <= most:
        every += 1
    return epochs * every, every


@pytest.mark.parametrize("epochs", [1, 3, 5, 6, 40])
@pytest.mark.parametrize("min_steps", [1, 299, 300, 301, 5000])
@pytest.mark.parametrize("most", [1, 5, 30])
def test_choice_is_that_of_a_plain_loop(epochs, min_steps, most) -> None:
    length = FitLength(epochs, min_steps, most)
    for steps in (1, 2, 14, 15, 33, 99, 100, 101, 150, 301, 15_625):
        chosen = length.choose(steps)
        assert (chosen.epochs, chosen.every) == by_trial(epochs, min_steps, most, steps)
        assert chosen.epochs % chosen.every == 0 and chosen.epochs // chosen.every == epochs


def test_large_sets_are_passed_three_times() -> None:
    assert FitLength().choose(-(-500_000 // 32)) == Length(3, 1)


def test_one_batch_has_the_most_epochs() -> None:
    length = FitLength()
    assert length.choose(1) == Length(length.most_epochs, length.most_epochs // length.epochs)


def trainer_of(batches: int, **settings) -> SimpleNamespace:
    usual = {
        "max_epochs": -1, "max_steps": -1, "check_val_every_n_epoch": 1, "val_check_interval": 1.0,
        "limit_train_batches": 1.0, "overfit_batches": 0.0, "accumulate_grad_batches": 1,
    }  # fmt: skip
    loop, data = SimpleNamespace(max_epochs=None), SimpleNamespace(train_batches=lambda: batches)
    state = SimpleNamespace(fn="fit")
    return SimpleNamespace(**{**usual, "fit_loop": loop, "datamodule": data, "state": state, **settings})


@pytest.mark.parametrize(
    ("settings", "epochs", "every"),
    [
        ({}, 30, 10),
        ({"max_epochs": None}, 30, 10),
        ({"accumulate_grad_batches": 10}, 90, 30),
        ({"limit_train_batches": 5}, 60, 20),
        ({"max_epochs": 2}, None, 1),
        ({"max_steps": 7}, None, 1),
        ({"check_val_every_n_epoch": 4}, 30, 4),
        ({"val_check_interval": 0.5}, 30, 1),
        ({"val_check_interval": 1}, 30, 1),
    ],
)
def test_only_what_is_not_given_is_chosen(settings, epochs, every) -> None:
    trainer = trainer_of(10, **settings)
    FitLength(3, 300, 90).setup(trainer, None, "fit")
    assert (trainer.fit_loop.max_epochs, trainer.check_val_every_n_epoch) == (epochs, every)


def test_nothing_is_chosen_for_a_test() -> None:
    trainer = trainer_of(10)
    FitLength().setup(trainer, None, "test")
    assert trainer.fit_loop.max_epochs is None and trainer.check_val_every_n_epoch == 1


def test_a_run_that_goes_on_keeps_its_length() -> None:
    """As with another number of processes, which have other batches."""
    first, checkpoint = FitLength(3, 300, 90), {}
    first.setup(trainer_of(10), None, "fit")
    first.on_save_checkpoint(None, None, checkpoint)
    later, trainer = FitLength(3, 300, 90), trainer_of(5)
    later.setup(trainer, None, "fit")
    assert trainer.fit_loop.max_epochs == 60
    later.on_load_checkpoint(trainer, None, checkpoint)
    assert (trainer.fit_loop.max_epochs, trainer.check_val_every_n_epoch) == (30, 10)


@pytest.mark.parametrize(("settings", "epochs"), [({"max_epochs": 7}, None), ({}, 60)])
def test_what_is_given_now_wins_over_a_checkpoint(settings, epochs) -> None:
    first, checkpoint = FitLength(3, 300, 90), {}
    first.setup(trainer_of(10), None, "fit")
    first.on_save_checkpoint(None, None, checkpoint)
    later, trainer = FitLength(3, 600, 90), trainer_of(10, **settings)
    later.setup(trainer, None, "fit")
    later.on_load_checkpoint(trainer, None, checkpoint)
    assert trainer.fit_loop.max_epochs == epochs


@pytest.mark.parametrize("name", ["epochs", "min_steps", "most_epochs"])
def test_less_than_one_is_refused(name) -> None:
    with pytest.raises(ValueError, match=rf"`length\.{name}` must be at least 1, but got 0"):
        FitLength(**{name: 0})
