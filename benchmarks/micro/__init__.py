"""Timings on random tokens: prefill, the cost of pruning itself, and the measurements for the cost model."""
