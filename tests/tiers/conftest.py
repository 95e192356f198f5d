"""What tests of tiers share beyond those of the whole code."""

from collections.abc import Iterator

import pytest

from dial.tiers.backends import attach


@pytest.fixture
def said_anew() -> Iterator[None]:
    """What is said once per process of tiers that torch computes after all is said again."""
    attach._say.cache_clear()
    yield
    attach._say.cache_clear()
