"""Backends that answer prompts with a model in this process."""
