"""Recipes: how the bundled planner, its pruner and its thresholds are made."""
