"""The expert as a planner backend: it answers with the plan of the world's own expert. It is the upper row of every table."""

import time
from contextlib import closing

from agents.families import make_world
from agents.job import EpisodeJob
from agents.world import World
from agents.world_extras import expert_of
from planner import Generation, LineCallback, Prompt, Sampling


class ExpertBackend:
    """The world's expert behind the interface of a planner backend. It reads no prompt."""

    def plan(self, world: World, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Ask the world's expert.

        Parameters
        ----------
        world
            The world to plan for.
        prompt
            Not read.
        sampling
            Only ``avoid`` is read: beginnings that the plan must not have.
        on_line
            Called with each line of the plan.

        Raises
        ------
        ValueError
            For a world without an expert.
        """
        start = time.perf_counter()
        text = expert_of(world, sampling.avoid)
        if text is None:
            raise ValueError(
                "this environment has no expert: give it a method expert_plan() that returns the lines of a plan, or choose "
                "another backend than 'expert'"
            )
        if on_line is not None:
            for line in text.splitlines():
                on_line(line)
        spent = time.perf_counter() - start
        return Generation(text=text, ttft_s=spent, first_skill_s=spent, total_s=spent)

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Raise ``ValueError``: the expert needs a world, a prompt is not enough."""
        raise ValueError("the expert plans from a world, not from a prompt: play it with agents.run_episode")


def has_expert(job: EpisodeJob) -> bool:
    """Tell whether the world of an episode has an expert. The world is made, reset and closed.

    Raises
    ------
    ValueError
        For an environment that is unknown or that no family can play.
    """
    world = make_world(job)
    with closing(world):
        world.reset(job.seed)
        world.describe([])
        return world.expert() is not None
