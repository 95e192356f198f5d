"""What a checkpoint must have in common with the run that goes on from it."""

from types import SimpleNamespace
from typing import Any

import pytest

from callbacks import Resume
from lightning_modules.policies import ExitPolicy, GradientEquilibrium, JointSum, TwoStage


def go_on(before: ExitPolicy | None, now: ExitPolicy | None, command: str = "fit") -> None:
    checkpoint: dict[str, Any] = {}
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn=command))
    made, goes_on = (
        SimpleNamespace() if policy is None else SimpleNamespace(policy=policy) for policy in (before, now)
    )
    Resume().on_save_checkpoint(trainer, made, checkpoint)
    if before is not None:
        before.enter(1)  # what a policy learns on the way does not count
    Resume().on_load_checkpoint(trainer, goes_on, checkpoint)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (TwoStage(0.5), TwoStage(0.25)),
        (JointSum(), TwoStage()),
        (GradientEquilibrium(), GradientEquilibrium("layers")),
    ],
)
def test_a_run_goes_on_with_the_same_policy_only(before: ExitPolicy, now: ExitPolicy) -> None:
    with pytest.raises(ValueError, match=r"`--model\.policy` must be that of the checkpoint, .* restore it") as error:
        go_on(before, now)
    assert "\n" not in str(error.value) and str(now.settings()) in str(error.value)
    go_on(before, type(before)(**{k: v for k, v in before.settings().items() if k != "class_path"}))
    go_on(before, now, command="test")


def test_modules_without_a_policy_go_on() -> None:
    go_on(None, None)
    go_on(None, JointSum())  # a checkpoint of before
