"""Timings on random tokens: the measurements for the cost model. Profiles of prefill and decode are in ``erecap.profiling``."""
