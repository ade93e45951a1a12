"""Planner backends by spec string, and what the run's configuration says about their models."""
