"""The majority baseline is said at the start of a fit."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest

from callbacks import MajorityBaseline
from lightning_modules.base import StagedModule


def trainer_of(train: list[Any], validation: list[Any]) -> Any:
    labels = {"train": np.array(train), "validation": np.array(validation)}
    data = types.SimpleNamespace(rows=lambda role: types.SimpleNamespace(label=labels[role]))
    return types.SimpleNamespace(is_global_zero=True, datamodule=data)


def test_the_largest_class_and_its_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    module = StagedModule(["no", "maybe", "yes"], ["accuracy", "macro_f1"])
    MajorityBaseline().on_fit_start(trainer_of([2, 2, 2, 1, 0], [2, 2, 1, 0]), module)
    # always "yes": right on 2 of 4; F1 of "yes" is 2 * 2 / (4 + 2), of the others 0
    assert capsys.readouterr().out == (
        "majority baseline: yes is 60.0 % of the training rows; always answering it has "
        f"accuracy 50.00, macro_f1 {100 * (2 * 2 / (4 + 2)) / 3:.2f} on the validation rows\n"
    )


def test_a_regression_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    MajorityBaseline().on_fit_start(trainer_of([0.5, 2.0], [1.0]), StagedModule([], None))
    assert capsys.readouterr().out == ""
