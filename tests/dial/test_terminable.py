"""SIGTERM ends what trains nothing, and leaves a fit to Lightning, which saves where it is."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from dial.trainer import Terminable


@pytest.fixture(autouse=True)
def handler() -> Iterator[list[int]]:
    """A handler that only notes what it gets, as Lightning's does outside of a fit."""
    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
    yield noted
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("stage", ["test", "validate", "predict"])
def test_sigterm_ends_the_command(stage: str, handler: list[int]) -> None:
    nothing: Any = None
    Terminable().setup(nothing, nothing, stage)
    with pytest.raises(SystemExit) as ended:
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143
    assert handler == []


def test_a_fit_keeps_lightnings_handler(handler: list[int]) -> None:
    nothing: Any = None
    Terminable().setup(nothing, nothing, "fit")
    os.kill(os.getpid(), signal.SIGTERM)
    assert handler == [signal.SIGTERM]
