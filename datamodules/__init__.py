"""Data modules: from raw text to padded batches in four roles."""

from datamodules.base import SequenceDataModule
from datamodules.glue import GLUEDataModule

__all__ = ["GLUEDataModule", "SequenceDataModule"]
