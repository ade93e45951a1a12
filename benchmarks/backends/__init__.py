"""Planner backends by spec string, and facts about their models for ``config.json``."""
