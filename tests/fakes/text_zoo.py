"""Text environments, each odd in its own way, as users might write them."""

import string
from typing import Any

import gymnasium as gym
import numpy as np

TEXT = gym.spaces.Text(300, charset=string.printable)


class Odd(gym.Env[Any, str]):
    """Ends after the actions of ``way``, taken in this order; what it says in ``info`` is up to the subclass."""

    observation_space: gym.Space[Any] = TEXT
    action_space: gym.Space[Any] = TEXT
    way: tuple[str, ...] = ("Open (the) Door", 'say "hello, world"', "take a key, then go")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.taken = 0
        return self.shown("Here you are."), self.said()

    def step(self, action: str) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        right = not self.over and action == self.way[self.taken]
        self.taken += right
        return self.shown("Right." if right else "Wrong."), np.float32(right), np.bool_(self.over), np.bool_(False), self.said()

    @property
    def over(self) -> bool:
        return self.taken == len(self.way)

    def shown(self, text: str) -> Any:
        return text

    def said(self) -> dict[str, Any]:
        return {}


class Mute(Odd):
    """Says nothing in ``info``."""


class Listed(Odd):
    """Lists its actions, in capitals and with punctuation, progress as numpy's share, success as numpy's truth value."""

    def said(self) -> dict[str, Any]:
        listed = [self.way[self.taken], "Wait.", "Done (really)"] if not self.over else []
        share, success = np.float64(self.taken / len(self.way)), np.bool_(self.over)
        return {"valid_actions": np.array(listed), "progress": share, "success": success, "task": "get out"}

    def expert_plan(self) -> str:
        """The way that is left, as one text."""
        return "\n".join(self.way[self.taken :])


class Told(Odd):
    """Says in ``info`` how to act, what there is, and what it refuses, and lists no actions."""

    def step(self, action: str) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        text, reward, ended, cut, said = super().step(action)
        return text, reward, ended, cut, said | {"refused": "there is no map" if action == "read map" else None}

    def said(self) -> dict[str, Any]:
        return {
            "task": "get out",
            "progress": (self.taken, 3),
            "state": ["Here you are.", "You hold nothing."],
            "briefing": ["Speak", "and be heard."],
        }


class Forgetful(Odd):
    """Observes a dictionary, and names its task and progress at the beginning only."""

    observation_space = gym.spaces.Dict({"score": gym.spaces.Discrete(9), "note": TEXT, "obs": TEXT})

    def shown(self, text: str) -> Any:
        return {"score": self.taken, "note": "never read", "obs": text}

    def said(self) -> dict[str, Any]:
        begin = {"task": "get out", "progress": [0, 3], "disturbances": "a bell rings"}
        return begin if self.taken == 0 else {"task": None, "progress": None, "valid_actions": None}


class Painted(Odd):
    """Draws itself."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012  # as gymnasium has it

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.full((20, 30, 3), 50 * self.taken, np.uint8)


class Buttons(Odd):
    """Observes text, but is played by numbers."""

    action_space = gym.spaces.Discrete(4)


class Robot(gym.Env[Any, Any]):
    """Observes and acts in numbers."""

    observation_space = gym.spaces.Box(0, 1, (3,))
    action_space = gym.spaces.Discrete(4)


class Broken(Odd):
    """Raises at the second action."""

    closed = 0

    def step(self, action: str) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.taken:
            raise RuntimeError("the game has crashed")
        return super().step(action)

    def close(self) -> None:
        type(self).closed += 1


class Stillborn(Broken):
    """Raises at the beginning."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        raise RuntimeError("the game does not start")


for env in (Mute, Listed, Told, Forgetful, Painted, Buttons, Robot, Broken, Stillborn):
    gym.register(f"{env.__name__}-v0", entry_point=env)
