"""Tiers: a folder and how it is looked at, as a model with its tokenizer."""
