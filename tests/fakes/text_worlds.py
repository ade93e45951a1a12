"""Text environments as a user would register them: importing this module registers them with gymnasium."""

import string
from typing import Any

import gymnasium as gym

TEXT = gym.spaces.Text(200, charset=string.printable)
ACTIONS = gym.spaces.Text(20, charset=string.printable)


class Corridor(gym.Env[Any, str]):
    """A corridor; ``walk`` often enough and the agent is out. Observes a text, or a dictionary with one."""

    action_space = ACTIONS

    def __init__(self, length: int = 50, as_dict: bool = False, render_mode: str | None = None) -> None:
        self.length, self.as_dict, self.render_mode = length, as_dict, render_mode
        self.observation_space = gym.spaces.Dict({"text": TEXT, "score": gym.spaces.Discrete(2)}) if as_dict else TEXT

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """At the beginning of the corridor."""
        super().reset(seed=seed)
        self.walked = 0
        return self._observe(), {}

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One action."""
        self.walked += action == "walk"
        out = self.walked >= self.length
        return self._observe(), float(out), out, False, {}

    def _observe(self) -> Any:
        text = f"You are in a corridor,\n{self.length - self.walked} steps from the door."
        return {"text": text, "score": 0} if self.as_dict else text


class Numbers(gym.Env[Any, int]):
    """A dictionary without a text."""

    observation_space = gym.spaces.Dict({"left": gym.spaces.Discrete(2), "right": gym.spaces.Discrete(2)})
    action_space = gym.spaces.Discrete(2)


gym.register("Corridor-v0", entry_point=Corridor)
gym.register("fakes/CorridorDict-v0", entry_point="text_worlds:Corridor", kwargs={"as_dict": True}, max_episode_steps=30)
gym.register("Numbers-v0", entry_point=Numbers)
gym.register("Orphan-v0", entry_point="no_such_module:Orphan")
