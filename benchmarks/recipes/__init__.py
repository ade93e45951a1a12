"""Recipes that make the bundled planner, its pruner and its thresholds."""
