"""Models over several devices: the ranks of a launch by torchrun, tensor parallelism, and device maps.

It knows no engine and no planner. ``erecap.models.loading`` loads a model as it says.
"""
