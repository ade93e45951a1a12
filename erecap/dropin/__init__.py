"""Pruning inside a stock model's own ``generate``, the calls that are refused there, and the masked reference."""
