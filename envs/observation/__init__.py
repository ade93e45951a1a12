"""The observation that all environments share, and its text."""
