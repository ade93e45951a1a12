"""Prefill that drops tokens between layers, and decode from the cache that is left. Selectors are known by protocol only."""
