"""The family of text worlds: environments that observe text and take text as actions."""
