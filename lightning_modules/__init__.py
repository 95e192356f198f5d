"""LightningModules; the names that YAML uses."""

from typing import TYPE_CHECKING

__all__ = ["Cascade", "Classifier", "MultiExit", "StagedModule"]

if TYPE_CHECKING:
    from lightning_modules.base import StagedModule
    from lightning_modules.cascade import Cascade
    from lightning_modules.classifier import Classifier
    from lightning_modules.multi_exit import MultiExit


def __getattr__(name: str) -> object:
    """Import a module on first use: `dial sweep` needs `dial.tradeoff` alone, without Lightning."""
    if name == "StagedModule":
        from lightning_modules.base import StagedModule

        return StagedModule
    if name == "Cascade":
        from lightning_modules.cascade import Cascade

        return Cascade
    if name == "Classifier":
        from lightning_modules.classifier import Classifier

        return Classifier
    if name == "MultiExit":
        from lightning_modules.multi_exit import MultiExit

        return MultiExit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
