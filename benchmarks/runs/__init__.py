"""Runs: what is played, how far it is, what it recorded, and where it was made."""
