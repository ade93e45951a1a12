"""A text environment as the loop sees it: lines of a plan are the environment's own actions.

Any gymnasium environment with text observations and text actions is played as it is. It may say more in ``info``:

- ``valid_actions``: the actions that it takes now. A line of a plan that is none of them is a failure.
- ``task``: what is to be done. It stands until the environment names another one.
- ``success``: whether it is done; without it, an episode that ends with a reward above 0 has succeeded.
- ``progress``: (subgoals reached, subgoals of the task), or the share of the task that is done, 0 to 1.
- ``disturbances``: what happened in this step without the agent's doing.
- ``state``: texts about what the agent sees and has now; each observation ends with those that were not just said.
- ``briefing``: what the agent is told before it sees anything, such as the forms of all actions.
- ``refused``: why the world did not carry out the action, where it lists no actions or does not take all that it lists.

An environment with a method ``expert_plan()``, which returns the lines of a plan, has an expert.
"""

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agents.job import EpisodeJob
from agents.textworld.actions import ActionList
from agents.textworld.info import read_actions, read_progress, read_texts
from agents.world import OK, Call, Outcome, Outcomes, Progress, Tick, failed
from envs.observation.text_space import text_key
from planner import PlanGrammar, PlanParseError
from planner.answer import answer_steps, first_step
from planner.grammar import whole_lines
from planner.lines import plan_line, spelled_line

SYSTEM = (
    "You act in a text world. Answer with a plan: one action per line, written as the world lists it. "
    "When the task is finished, write: done."
)
TASK = "do what the text asks for"
"""The task of an environment that does not name one."""
NOTHING = "wait"
"""The action of a step in which the agent does nothing."""
GIVE_UP = "done"
"""The line by which the planner declares the task finished, unless the world has an action of this name."""
NOT_TAKEN = "the world does not take this action here"
"""Why a line failed that is none of the actions that the world lists."""
DEFAULT_MAX_STEPS = 200
"""Environment steps allowed where the environment sets no limit of its own."""


@dataclass(frozen=True)
class Action:
    """One line of a plan."""

    text: str
    """The action in the world's own spelling. One that the world does not list: cleaned, or as written where it lists none."""


@dataclass(frozen=True)
class ActionReader:
    """Reads plans of actions (``agents.world_extras.Reader``)."""

    actions: ActionList
    """The actions that the world lists."""

    def parse(self, answer: str) -> Sequence[Action]:
        """Read one action per line."""
        steps = answer_steps(answer, self._is_listed)
        found = [Action(text) for text in (self._text_of(line) for _, line in steps) if text]
        if not found:
            raise PlanParseError(1, answer[:80], "there is no action in the answer", "write one action per line")
        return found

    def first(self, so_far: str) -> Action | None:
        """Read the first action of an answer that is not complete yet: one that the world lists. Other lines may be mere talk."""
        line = first_step(so_far, self._is_listed)
        return None if line is None else Action(self._text_of(line))

    def reads(self, action: str) -> bool:
        """Tell whether an action, written as a plan of one line, is read as itself."""
        try:
            return [call.text for call in self.parse(action)] == [action]
        except PlanParseError:
            return False

    def _is_listed(self, line: str) -> bool:
        return self.actions.find(line) is not None

    def _text_of(self, line: str) -> str:
        """Return the action that a line means; empty for a line without one."""
        return self.actions.find(line) or (plan_line(line) if self.actions else spelled_line(line))


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
        self.briefing: str | None = None
        self.max_steps = _limit_of(env)

    @classmethod
    def plays(cls, env: gym.Env[Any, Any]) -> bool:
        """Tell whether ``env`` observes text and takes text as actions."""
        return isinstance(env.action_space, gym.spaces.Text) and text_key(env.observation_space) is not None

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
        self._steps, self._task = 0, TASK
        self._replies: list[str] = []
        self._reached = (0, 1)
        observation, info = self.env.reset(seed=seed)
        self.briefing = "\n".join(read_texts(info, "briefing")) or None
        return self._take_in(observation, info)

    def note(self, line: str, outcome: str) -> str:
        """Write what the world said to an action, and why it failed if it did."""
        lines = [f"{line}: {outcome}."] if outcome != OK.text or not self._replies else []
        lines += [reply for reply in self._replies if reply.strip()]
        self._replies = []
        return "\n".join(lines)

    def describe(self, outcomes: Outcomes) -> str:
        """Repeat what failed and what the world said to each action; say what there is and what can be done; end with the task.

        What the world said last stands in every observation, even if an entry after a line has told it: pruning keeps observations.
        """
        lines = [f"{line}: {outcome}." for line, outcome in outcomes if outcome != OK.text]
        lines += [reply for reply in (self._replies or [self._said]) if reply.strip()]
        lines += [text for text in self._now if text and text not in self._said]
        if self.actions:
            lines.append(self.actions.sentence)
        progress = self._progress
        lines.append(f"Progress {progress.done}/{progress.total}. Goal: {progress.goal or 'all done'}")
        self._replies = []
        return "\n".join(lines)

    def parse(self, answer: str) -> Sequence[Action]:
        """Read one action per line.

        What models write around a plan makes no difference (``answer_steps``); quotes and case make none where the world lists its
        actions.
        """
        return self.reader().parse(answer)

    def reader(self) -> "ActionReader":
        """Return what reads answers by the actions that the world lists now, whatever it lists later."""
        return ActionReader(self.actions)

    def grammar(self) -> PlanGrammar | None:
        """Return the actions that the world lists now, and ``done``; ``None`` where it lists none.

        An action that cannot be read back from a line, such as one of two lines, cannot be planned.
        """
        reader = self.reader()
        actions = tuple(dict.fromkeys(action for action in (*self.actions.actions, GIVE_UP) if reader.reads(action)))
        return PlanGrammar((whole_lines(*actions),), choices=actions) if self.actions else None

    def run(self, call: Call) -> Generator[Tick, None, Outcome]:
        """Take one action. One that the world does not list is tried all the same, so that its answer can be learned from."""
        action = self.actions.find(call.text)  # the list may have changed since the plan was read
        if action is None and plan_line(call.text) == GIVE_UP:
            yield self.idle()
            return Outcome(True, gave_up=True)
        unlisted = bool(self.actions) and action is None
        yield self._step(call.text if action is None else action)
        reason = self._refused or (NOT_TAKEN if unlisted else "")
        return failed(reason) if reason else OK

    def idle(self) -> Tick:
        """Let one step pass with the action ``wait``, whether the world knows it or not."""
        return self._step(self.actions.find(NOTHING) or NOTHING)

    def touches(self, rest: Sequence[Call]) -> bool:
        """Answer no: which text would contradict a plan is not known."""
        return False

    def state(self) -> Hashable:
        """Return what the world said last, the actions that it takes now, and the progress."""
        return self._said, self.actions.sentence, self._progress

    def expert(self) -> str | None:
        """Ask the environment's own ``expert_plan``, if it has one; an empty plan is ``done``.

        Raises
        ------
        ValueError
            Where the method returns neither lines nor a text.
        """
        if not self.env.has_wrapper_attr("expert_plan"):
            return None
        plan = self.env.get_wrapper_attr("expert_plan")()
        if plan is None:
            raise ValueError("expert_plan() returned None: return a list of lines, which is empty when nothing is left to do")
        return (plan if isinstance(plan, str) else "\n".join(plan)) or GIVE_UP

    def frame(self) -> NDArray[np.uint8] | None:
        """Draw the world, if the environment draws itself."""
        drawn = self.env.render() if self.env.render_mode == "rgb_array" else None
        return None if drawn is None else np.asarray(drawn, dtype=np.uint8)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _step(self, action: str) -> Tick:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        success = bool(info.get("success", terminated and float(reward) > 0))
        progress = self._take_in(observation, info, success)
        self._replies.append(f"> {action}\n{self._said}")
        over = bool(truncated) or self._steps >= self.max_steps
        return Tick(progress, float(reward), success, bool(terminated), over, read_texts(info, "disturbances"))

    def _take_in(self, observation: Any, info: dict[str, Any], success: bool = False) -> Progress:
        """Remember what the environment says, and what it has said before and does not repeat."""
        key = text_key(self.env.observation_space)
        self._said = str(observation[key] if key else observation)
        self.actions = read_actions(info)
        self._now = [text.strip() for text in read_texts(info, "state")]
        self._refused = str(info.get("refused") or "")
        self._task = str(info.get("task") or self._task)
        total = self._reached[1]
        self._reached = read_progress(info) or ((total, total) if success else self._reached)
        self._progress = Progress(f"Task: {self._task}", "" if success else self._task, *self._reached)
        return self._progress


def _limit_of(env: gym.Env[Any, Any]) -> int:
    own = None if env.spec is None else env.spec.max_episode_steps
    return int(own or getattr(env.unwrapped, "max_steps", None) or DEFAULT_MAX_STEPS)
