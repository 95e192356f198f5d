"""Metrics of a task, from sums over rows."""
