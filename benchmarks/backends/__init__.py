"""Planner backends by name: the expert, the engine's, remote ones; and what is known of their models."""
