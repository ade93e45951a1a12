"""Thresholds fitted before a run, FLOPs of a prefill, and a model of how many seconds a replan takes on a machine."""
