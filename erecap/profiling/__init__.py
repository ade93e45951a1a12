"""Timings, memory and decode rates of the engine on one machine: ``python -m erecap.profiling``.

Needs only torch, transformers, tokenizers, safetensors and numpy, so it runs on a machine without the rest of E-RECAP's
dependencies.
"""
