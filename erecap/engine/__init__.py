"""Prefill that drops tokens between layers, and decode from the cache that is left. Knows no selector, only their protocol."""
