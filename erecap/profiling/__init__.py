"""Timings, memory and decode rates of the engine on one machine: ``python -m erecap.profiling``.

Needs torch, transformers, tokenizers, safetensors and numpy alone, so that it runs on a bare GPU machine.
"""
