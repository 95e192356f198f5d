"""Staged models, and what runs them: rows stop where the rule says."""
