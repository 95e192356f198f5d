"""Arguments in error messages, spelt as the user types them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

NAME = re.compile(r"`(\w+)(?:\.([^`]+))?`")


@contextmanager
def spelt(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors that are raised within this context spell arguments as they are typed.

    Functions name their own parameters in errors, in backticks; whoever knows how these are typed enters this context.

    Args:
        names: spelling of each parameter; what is not among them stays. ``tiers.small``, an entry of ``tiers``, becomes
            ``--tiers small=...``.

    Raises:
        ValueError: the error with its arguments spelt.

    >>> with spelt({"heads": "slenderise.heads", "targets": "--targets"}):
    ...     raise ValueError("`heads` must be at least 1, but got 0.")
    Traceback (most recent call last):
    ValueError: `slenderise.heads` must be at least 1, but got 0.
    """

    def spell(found: re.Match[str]) -> str:
        name, entry = names.get(found[1]), found[2]
        return found[0] if name is None else f"`{name}`" if entry is None else f"`{name} {entry}=...`"

    try:
        yield
    except ValueError as error:
        raise ValueError(NAME.sub(spell, str(error))) from error
