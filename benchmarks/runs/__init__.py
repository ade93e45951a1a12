"""Runs: suites and episodes to play, progress, records, and the provenance of a run."""
