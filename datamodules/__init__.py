"""Data modules: from raw text to padded batches in four roles."""

from datamodules.base import SequenceDataModule
from datamodules.glue import GLUEDataModule
from datamodules.graded import GradedSentimentDataModule
from datamodules.text import TextDataModule

__all__ = ["GLUEDataModule", "GradedSentimentDataModule", "SequenceDataModule", "TextDataModule"]
