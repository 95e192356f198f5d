"""Pure mathematics of adaptive inference: scores, rules, metrics, costs, tables, trade-offs, calibration, figures.

Nothing here needs Lightning or transformers, and importing this package imports nothing heavy.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Curve": "tradeoff",
    "Events": "rules",
    "Quantiles": "quantiles",
    "Stage": "table",
    "StageTable": "table",
    "concat": "tradeoff",
    "curve": "tradeoff",
    "normalised_area": "tradeoff",
    "oracle_events": "rules",
    "patience_events": "rules",
    "replay": "rules",
    "thin": "thinning",
    "threshold_events": "rules",
    "to_frame": "tradeoff",
    "trade_off": "tradeoff",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import the module of a name on first use."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
