"""A text environment as the loop sees it: a plan is a list of the environment's own actions.

Any gymnasium environment with text observations and text actions is played as it is. It may say more in ``info``:

- ``valid_actions``: the actions that it takes now. A line of a plan that is none of them is a failure.
- ``task``: what is to be done.
- ``success``: whether it is done; without it, an episode that ends with a reward above 0 has succeeded.
- ``progress``: (subgoals reached, subgoals of the task).
- ``disturbances``: what happened in this step without the agent's doing.

An environment with a method ``expert_plan()``, which returns the lines of a plan, has an expert.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agents.job import EpisodeJob
from agents.world import OK, Call, Outcome, Outcomes, Progress, Tick, failed
from planner import PlanParseError
from planner.plan import plan_line

SYSTEM = (
    "You act in a text world. Answer with a plan: one action per line, written as the world lists it. "
    "When the task is finished, write: done."
)
NOTHING = "wait"
"""The action of a step in which the agent does nothing."""
GIVE_UP = "done"
UNLIMITED = 200
"""Environment steps allowed where the environment sets no limit of its own."""


@dataclass(frozen=True)
class Action:
    """One line of a plan: an action of the world, word for word."""

    text: str


class TextWorld:
    """One episode of a text environment.

    Parameters
    ----------
    env
        A gymnasium environment whose observation is text, or a dictionary with one text in it, and whose actions are text.
    """

    system = SYSTEM

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        self.max_steps = _limit_of(env)
        self._steps = 0
        self._replies: list[str] = []

    @classmethod
    def plays(cls, env: gym.Env[Any, Any]) -> bool:
        """Whether ``env`` speaks and listens in text."""
        return isinstance(env.action_space, gym.spaces.Text) and _text_key(env.observation_space) is not None

    @classmethod
    def of_job(cls, env: gym.Env[Any, Any], job: EpisodeJob) -> "TextWorld":
        """Make the world; the limit of steps is in ``env`` already."""
        return cls(env)

    @property
    def place(self) -> str | None:
        """Nothing: the environment's text alone says where the agent is."""
        return None

    def reset(self, seed: int) -> Progress:
        """Begin the episode of this seed."""
        observation, self.info = self.env.reset(seed=seed)
        self._steps, self._said, self._replies = 0, self._text(observation), []
        return self._progress()

    def describe(self, outcomes: Outcomes) -> str:
        """Repeat what was tried and what the world said to it, what it takes now, and the task."""
        progress = self._progress()
        lines = [f"{line}: {outcome}." for line, outcome in outcomes if outcome != OK.text]
        lines += [reply for reply in (self._replies or [self._said]) if reply.strip()]
        if self._valid:
            lines.append(f"Valid actions: {', '.join(self._valid)}.")
        lines.append(f"Progress {progress.done}/{progress.total}. Goal: {progress.goal or 'all done'}")
        self._replies = []
        return "\n".join(lines)

    def parse(self, answer: str) -> Sequence[Action]:
        """Read one action per line, without numbering, bullets and quotes; case does not matter."""
        spelled = {action.lower(): action for action in self._valid}
        lines = [line for line in map(plan_line, answer.splitlines()) if line]
        if not lines:
            raise PlanParseError(1, answer[:80], "there is no action in the answer")
        return [Action(spelled.get(line, line)) for line in lines]

    def run(self, call: Call) -> Generator[Tick, None, Outcome]:
        """Take one action. One that the world does not list is tried all the same, so that its answer can be learned from."""
        if call.text == GIVE_UP and GIVE_UP not in self._valid:
            yield self.idle()
            return Outcome(True, gave_up=True)
        refused = bool(self._valid) and call.text not in self._valid
        yield self._step(call.text)
        return failed("the world does not take this action here") if refused else OK

    def idle(self) -> Tick:
        """Let one step pass with the action ``wait``, whatever the world makes of it."""
        return self._step(NOTHING)

    def touches(self, rest: Sequence[Call]) -> bool:
        """Answer no: what a text contradicts is not known."""
        return False

    def expert(self) -> str | None:
        """Ask the environment's own ``expert_plan``, if it has one."""
        make: Any = getattr(self.env.unwrapped, "expert_plan", None)
        return None if make is None else "\n".join(make()) or GIVE_UP

    def frame(self) -> NDArray[np.uint8] | None:
        """Draw the world, if the environment draws itself."""
        drawn = self.env.render() if self.env.render_mode == "rgb_array" else None
        return None if drawn is None else np.asarray(drawn, dtype=np.uint8)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    @property
    def _valid(self) -> list[str]:
        return list(self.info.get("valid_actions", ()))

    def _step(self, action: str) -> Tick:
        observation, reward, terminated, truncated, self.info = self.env.step(action)
        self._steps += 1
        self._said = self._text(observation)
        self._replies.append(f"> {action}\n{self._said}")
        success = bool(self.info.get("success", terminated and float(reward) > 0))
        truncated = truncated or self._steps >= self.max_steps
        return Tick(
            self._progress(success), float(reward), success, terminated, truncated, tuple(self.info.get("disturbances", ()))
        )

    def _progress(self, success: bool = False) -> Progress:
        task = str(self.info.get("task", "do what the text asks for"))
        done, total = self.info.get("progress", (int(success), 1))
        return Progress(f"Task: {task}", "" if success else task, int(done), int(total))

    def _text(self, observation: Any) -> str:
        key = _text_key(self.env.observation_space)
        return str(observation[key] if key else observation)


def _text_key(space: gym.Space[Any]) -> str | None:
    """Where an observation's text is: its key in a dictionary, or empty where the observation is the text; ``None`` without one."""
    if isinstance(space, gym.spaces.Text):
        return ""
    parts = space.spaces.items() if isinstance(space, gym.spaces.Dict) else ()
    texts = [key for key, part in parts if isinstance(part, gym.spaces.Text)]
    return next((key for key in ("text", "observation", "obs") if key in texts), texts[0] if texts else None)


def _limit_of(env: gym.Env[Any, Any]) -> int:
    own = None if env.spec is None else env.spec.max_episode_steps
    return int(own or getattr(env.unwrapped, "max_steps", None) or UNLIMITED)
