"""Data modules: from raw text to padded batches in four roles."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.base import SequenceDataModule as SequenceDataModule
    from datamodules.benchmarks_as_text import GLUEAsTextDataModule as GLUEAsTextDataModule
    from datamodules.benchmarks_as_text import SuperGLUEAsTextDataModule as SuperGLUEAsTextDataModule
    from datamodules.glue import GLUEDataModule as GLUEDataModule
    from datamodules.graded import GradedSentimentDataModule as GradedSentimentDataModule
    from datamodules.number_words import NumberWordsDataModule as NumberWordsDataModule
    from datamodules.squad import QuestionsDataModule as QuestionsDataModule
    from datamodules.squad import SQuADDataModule as SQuADDataModule
    from datamodules.superglue import SuperGLUEDataModule as SuperGLUEDataModule
    from datamodules.text import TextDataModule as TextDataModule
    from datamodules.text_to_text_files import TextToTextDataModule as TextToTextDataModule
    from datamodules.translation import TranslationDataModule as TranslationDataModule

_HOMES = {
    "GLUEAsTextDataModule": "benchmarks_as_text",
    "SuperGLUEAsTextDataModule": "benchmarks_as_text",
    "SuperGLUEDataModule": "superglue",
    "TranslationDataModule": "translation",
    "GLUEDataModule": "glue",
    "GradedSentimentDataModule": "graded",
    "NumberWordsDataModule": "number_words",
    "QuestionsDataModule": "squad",
    "SQuADDataModule": "squad",
    "SequenceDataModule": "base",
    "TextDataModule": "text",
    "TextToTextDataModule": "text_to_text_files",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a module on first use: readers of files and labels need no Lightning."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
