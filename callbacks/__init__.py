"""Callbacks; the names that YAML uses."""

from callbacks.baseline import MajorityBaseline
from callbacks.dropout import CheapDropout
from callbacks.fit_length import FitLength
from callbacks.heap import TrimmedHeap
from callbacks.measured_study import MeasuredStudy
from callbacks.predictions import PredictionWriter
from callbacks.progress import LogProgress
from callbacks.resume import Resume
from callbacks.sharding import Sharded
from callbacks.slenderise import Slenderise
from callbacks.threshold_sweep import ThresholdSweep
from callbacks.tier_export import TierExport

__all__ = [
    "CheapDropout",
    "FitLength",
    "LogProgress",
    "MajorityBaseline",
    "MeasuredStudy",
    "PredictionWriter",
    "Resume",
    "Sharded",
    "Slenderise",
    "ThresholdSweep",
    "TierExport",
    "TrimmedHeap",
]
