"""What tests of tiers share beyond those of the whole code."""

from collections.abc import Iterator

import pytest

from dial.tiers.backends import attach, lowered


@pytest.fixture
def said_anew() -> Iterator[None]:
    """What is said once per process of tiers that are computed otherwise than asked is said again."""
    for module in (attach, lowered):
        module._say.cache_clear()
    yield
    for module in (attach, lowered):
        module._say.cache_clear()
