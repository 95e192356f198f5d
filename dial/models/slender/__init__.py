"""Slender encoders (COST-EFF, Shen et al. 2022)."""
