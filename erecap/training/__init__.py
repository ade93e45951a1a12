"""Training of the planner (behaviour cloning) and of its pruner. Imports neither the planner nor the environments."""
