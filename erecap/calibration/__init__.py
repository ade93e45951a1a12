"""Measurements and fits that come before a run: thresholds, FLOPs, and the seconds of a replan on a machine."""
