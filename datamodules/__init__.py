"""Data modules: from raw text to padded batches in four roles."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.base import SequenceDataModule
    from datamodules.glue import GLUEDataModule
    from datamodules.graded import GradedSentimentDataModule
    from datamodules.number_words import NumberWordsDataModule
    from datamodules.text import TextDataModule
    from datamodules.text_to_text_files import TextToTextDataModule

__all__ = [
    "GLUEDataModule",
    "GradedSentimentDataModule",
    "NumberWordsDataModule",
    "SequenceDataModule",
    "TextDataModule",
    "TextToTextDataModule",
]

_HOMES = {
    "GLUEDataModule": "glue",
    "GradedSentimentDataModule": "graded",
    "NumberWordsDataModule": "number_words",
    "SequenceDataModule": "base",
    "TextDataModule": "text",
    "TextToTextDataModule": "text_to_text_files",
}


def __getattr__(name: str) -> Any:
    """Import a module on first use: readers of files and labels need no Lightning."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
