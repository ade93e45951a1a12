"""What is measured or fitted before a run: thresholds, counted work, and what a replan costs on a machine."""
