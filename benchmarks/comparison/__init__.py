"""Comparisons of backends on the same episodes and the same prompts: closed loop, paired replay, summary."""
