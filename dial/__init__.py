"""DIAL: dynamic inference across language models. The names that Python users take, each imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING

from dial.threads import wait_passively

if TYPE_CHECKING:
    from dial.cli.main import main
    from dial.inference.classifier import AdaptiveClassifier, AdaptiveModel, Prediction
    from dial.stages.stage import Stage
    from dial.stages.table import StageTable
    from dial.tradeoff.curve import Curve
    from dial.tradeoff.rules import curve

__all__ = ["AdaptiveClassifier", "AdaptiveModel", "Curve", "Prediction", "Stage", "StageTable", "curve", "main"]

_HOMES = {
    "AdaptiveClassifier": "inference.classifier",
    "AdaptiveModel": "inference.classifier",
    "Curve": "tradeoff.curve",
    "Prediction": "inference.classifier",
    "Stage": "stages.stage",
    "StageTable": "stages.table",
    "curve": "tradeoff.rules",
    "main": "cli.main",
}


def __getattr__(name: str) -> object:
    """Import the module of a name on first use: the command itself must start quickly."""
    if name in _HOMES:
        wait_passively()
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
