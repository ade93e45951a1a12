"""Recipes that make a planner, its pruner and its thresholds."""
