"""Figures."""
def figures(report): return {}
