"""Pruning inside the ``generate`` of a stock model, the calls that it refuses, and the masked reference."""
