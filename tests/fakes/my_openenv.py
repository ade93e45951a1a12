"""A text environment on an OpenEnv server, as a gymnasium environment."""

import string
from typing import Any

import gymnasium as gym

SENTENCE = gym.spaces.Text(max_length=100_000, charset=string.printable)
SAID_MORE = ("task", "valid_actions", "success", "progress")


def connect(url: str) -> Any:
    """Make OpenEnv's own client, which keeps one session: it has reset, step, state and close."""
    from openenv.core import GenericEnvClient  # pip install openenv

    return GenericEnvClient(base_url=url).sync()


class OpenEnvText(gym.Env[str, str]):
    """A server whose observations have a text called ``said``, and whose actions have one called ``asked``."""

    observation_space = SENTENCE
    action_space = SENTENCE

    def __init__(
        self, url: str = "http://localhost:8000", said: str = "prompt", asked: str = "message", client: Any = None
    ) -> None:
        self.url, self.said, self.asked, self.client = url, said, asked, client

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.client = self.client or connect(self.url)
        result = self.client.reset(seed=seed)
        return str(result.observation[self.said]), self._info(result)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        result = self.client.step({self.asked: action})
        return str(result.observation[self.said]), float(result.reward or 0), bool(result.done), False, self._info(result)

    def close(self) -> None:
        if self.client is not None:
            self.client.close()

    def _info(self, result: Any) -> dict[str, Any]:
        told = {**self.client.state(), **result.observation, **(getattr(result, "metadata", None) or {})}
        return {key: told[key] for key in SAID_MORE if key in told}


gym.register("OpenEnvText-v0", entry_point=OpenEnvText, max_episode_steps=50)
