"""LightningModules; the names that YAML uses."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_modules.base import StagedModule as StagedModule
    from lightning_modules.cascade import Cascade as Cascade
    from lightning_modules.classifier import Classifier as Classifier
    from lightning_modules.distillation import Distillation as Distillation
    from lightning_modules.dynabert import DynaBERT as DynaBERT
    from lightning_modules.energy_head import EnergyHead as EnergyHead
    from lightning_modules.length_adaptive import LengthAdaptive as LengthAdaptive
    from lightning_modules.length_adaptive import LengthAdaptiveSpanQA as LengthAdaptiveSpanQA
    from lightning_modules.multi_exit import MultiExit as MultiExit
    from lightning_modules.optimizers import SizedAdamW as SizedAdamW
    from lightning_modules.seq2seq import Seq2Seq as Seq2Seq
    from lightning_modules.seq2seq_distillation import Seq2SeqDistillation as Seq2SeqDistillation
    from lightning_modules.span_qa import SpanDistillation as SpanDistillation
    from lightning_modules.span_qa import SpanQA as SpanQA
    from lightning_modules.transformer_distillation import TransformerDistillation as TransformerDistillation

PLACES = {
    "Cascade": "cascade",
    "Classifier": "classifier",
    "Distillation": "distillation",
    "DynaBERT": "dynabert",
    "EnergyHead": "energy_head",
    "LengthAdaptive": "length_adaptive",
    "LengthAdaptiveSpanQA": "length_adaptive",
    "MultiExit": "multi_exit",
    "Seq2Seq": "seq2seq",
    "Seq2SeqDistillation": "seq2seq_distillation",
    "SizedAdamW": "optimizers",
    "SpanDistillation": "span_qa",
    "SpanQA": "span_qa",
    "StagedModule": "base",
    "TransformerDistillation": "transformer_distillation",
}
__all__ = list(PLACES)


def __getattr__(name: str) -> object:
    """Import a module on first use: `dial sweep` needs `dial.tradeoff` alone, without Lightning."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
