"""Pruning inside a stock model's own ``generate``, what is refused there, and the masked reference."""
