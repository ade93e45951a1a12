"""Training: the planner by behaviour cloning, saliency, the pruner. Imports neither the planner nor the environments."""
