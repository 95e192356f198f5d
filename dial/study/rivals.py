"""What a cascade has to beat: its Super as the papers run it, and its Super in lower precision."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from dial.study.timing import Contender
from dial.tiers.spec import View
from dial.tiers.tier import Tier
from dial.tiers.tiers import load_tier

DTYPES = ("float32", "bfloat16", "int8")
logger = logging.getLogger(__name__)


def check_names(tiers: Sequence[Tier], exits: bool = False) -> None:
    """Refuse a tier that is called what a rival is called: times are kept by name, so the two would be mixed.

    Args:
        tiers: of the cascade.
        exits: whether another model with exits, called ``exits``, takes part.

    Raises:
        ValueError: there is one; names ``names``.
    """
    last = tiers[-1]
    taken = [f"{last.name}-padded", *(f"{last.name}-{dtype}" for dtype in DTYPES if dtype != last.view.dtype)]
    taken += ["exits"] if exits else []
    clash = [tier.name for tier in tiers if tier.name in taken]
    if clash:
        raise ValueError(
            f"`names` must differ from what the study calls its rivals ({', '.join(taken)}), but got "
            f"{', '.join(clash)}; call the tiers otherwise."
        )


def rivals(tier: Tier, units: Sequence[Any], pad_to: int) -> tuple[list[Contender], dict[str, str]]:
    """The Super padded to its maximum length, called ``<tier>-padded``, and in every other precision.

    Args:
        tier: the Super, on its device.
        units: texts or pairs to time on.
        pad_to: tokens to pad to; no more than the tier keeps.

    Returns:
        The rivals, and why others could not take part, by name.
    """
    made = [Contender(f"{tier.name}-padded", tier, units, min(pad_to, tier.max_length))]
    missing: dict[str, str] = {}
    device = next(tier.parameters()).device
    for dtype in DTYPES:
        name = f"{tier.name}-{dtype}"
        if tier.view.dtype == dtype:
            continue
        try:
            view = View.parse(vars(tier.view) | {"dtype": dtype}, name)
            rival = Contender(name, load_tier(view, name, tier.label_names, name).to(device), units)
            rival.time([0])  # where a device lacks the precision, it says so here
            made.append(rival)
        except (ValueError, RuntimeError) as error:  # torch says so in errors of the second kind
            missing[name] = str(error)
            logger.warning("The study goes without %s: %s", name, error)
    return made, missing
