"""LightningModules; the names that YAML uses."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_modules.base import StagedModule
    from lightning_modules.cascade import Cascade
    from lightning_modules.classifier import Classifier
    from lightning_modules.distillation import Distillation
    from lightning_modules.dynabert import DynaBERT
    from lightning_modules.energy_head import EnergyHead
    from lightning_modules.length_adaptive import LengthAdaptive, LengthAdaptiveSpanQA
    from lightning_modules.multi_exit import MultiExit
    from lightning_modules.optimizers import SizedAdamW
    from lightning_modules.seq2seq import Seq2Seq
    from lightning_modules.seq2seq_distillation import Seq2SeqDistillation
    from lightning_modules.span_qa import SpanDistillation, SpanQA
    from lightning_modules.transformer_distillation import TransformerDistillation

__all__ = [
    "Cascade",
    "Classifier",
    "Distillation",
    "DynaBERT",
    "EnergyHead",
    "LengthAdaptive",
    "LengthAdaptiveSpanQA",
    "MultiExit",
    "Seq2Seq",
    "Seq2SeqDistillation",
    "SizedAdamW",
    "SpanDistillation",
    "SpanQA",
    "StagedModule",
    "TransformerDistillation",
]
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


def __getattr__(name: str) -> object:
    """Import a module on first use: `dial sweep` needs `dial.tradeoff` alone, without Lightning."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
