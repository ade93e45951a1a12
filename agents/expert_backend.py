"""The expert as a planner backend: the plan that the world's own expert makes. The upper row of every table."""

import time

from agents.world import World
from planner import Generation, LineCallback, Prompt, Sampling


class ExpertBackend:
    """The world's expert behind the interface of a planner backend. It reads no prompt."""

    def plan(self, world: World, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Ask the world's expert.

        Parameters
        ----------
        world
            The world to plan for.
        prompt, sampling
            Not read.
        on_line
            Called with each line of the plan.

        Raises
        ------
        ValueError
            For a world without an expert.
        """
        start = time.perf_counter()
        text = world.expert()
        if text is None:
            raise ValueError(
                "this environment has no expert, which backend 'expert' asks and SPL compares with: give the environment a method "
                "expert_plan() that returns the lines of a plan"
            )
        if on_line is not None:
            for line in text.splitlines():
                on_line(line)
        spent = time.perf_counter() - start
        return Generation(text=text, ttft_s=spent, first_skill_s=spent, total_s=spent)

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Refuse: a prompt alone says too little. Raises ``ValueError``."""
        raise ValueError("the expert plans from a world, not from a prompt: play it with agents.run_episode")
