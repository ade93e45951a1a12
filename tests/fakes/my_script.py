"""A backend of a user's own that follows a script: it opens whatever is closed. And a kitchen that is over soon."""

from typing import Any

import gymnasium as gym
from my_kitchen import Kitchen

from planner import Generation


class OpenEverything:
    """Plans to open all that the world says can be opened, else the first thing that can be done."""

    def __init__(self, spec: Any = None) -> None:
        self.spec = spec

    def generate(self, prompt: Any, sampling: Any, on_line: Any = None) -> Generation:
        said = next(s.text for s in reversed(prompt.segments) if "Valid actions: " in s.text)
        valid = said.partition("Valid actions: ")[2].partition(".")[0].split(", ")
        return Generation(text="\n".join(action for action in valid if action.startswith("open")) or valid[0])


gym.register("SmallKitchen-v0", entry_point=Kitchen, max_episode_steps=10, kwargs={"dishes": 1, "goes_out": 0.0})
