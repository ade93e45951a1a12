"""A gridworld as the loop sees it: the agent builds a belief from minigrid's partial view, and lines of a plan are skills."""

from collections.abc import Collection, Generator, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from minigrid.core.actions import Actions
from numpy.typing import NDArray

from agents.gridworld.belief import Belief
from agents.gridworld.briefing import briefing
from agents.gridworld.grammar import plan_grammar
from agents.gridworld.names import GridNames
from agents.gridworld.reports import news, report
from agents.gridworld.situation import sought, state_of
from agents.gridworld.skills import start_skill
from agents.gridworld.task_plan import plan_avoiding
from agents.job import EpisodeJob
from agents.world import Call, Outcome, Outcomes, Place, Progress, Scene, Tick
from envs import Verbosity, describe, note, task_text, verbosity_of
from planner import Horizon, PlanGrammar, SkillCall, first_skill, parse_plan, skill_guide, system_text

_GAP = 0.12  # cells between a name and a door
_LEGEND = "red triangle: the agent; lighter: what it sees"
GOAL_CHANGED = "goal changed"
"""The disturbance that replaces the open subgoal. It interrupts the skill during which it happens, and no later one."""


@dataclass(frozen=True)
class SkillReader:
    """Reads plans of skills (``agents.world_extras.Reader``)."""

    names: GridNames
    """The names that arguments may have."""

    def parse(self, answer: str) -> Sequence[SkillCall]:
        """Read one skill per line."""
        return parse_plan(answer, self.names).skills

    def first(self, so_far: str) -> SkillCall | None:
        """Read the first skill of an answer that is not complete yet."""
        return first_skill(so_far, self.names)


class GridWorld:
    """One episode of a household or of a level of the minigrid package.

    Parameters
    ----------
    env
        An environment of ``envs.make_env`` with rooms: its observation has ``image``, ``pose`` and ``rooms``.
    verbosity
        How much an observation's text says.
    horizon
        How far a plan reaches.
    """

    def __init__(self, env: gym.Env[Any, Any], verbosity: Verbosity, horizon: Horizon = "subgoal") -> None:
        self.env, self._verbosity, self._horizon = env, verbosity, horizon
        self._rooms: Any = env if hasattr(env, "room_names") else env.unwrapped
        unwrapped: Any = env.unwrapped
        self._unwrapped = unwrapped
        self.system, self.max_steps = system_text(horizon), int(unwrapped.max_steps)
        self._planned = Progress("", "", 0, 0)
        self._first_gap, self._looked_for = "", frozenset[str]()
        self._briefing: str | None = None

    @classmethod
    def plays(cls, env: gym.Env[Any, Any]) -> bool:
        """Tell whether ``env`` observes what a belief is built from."""
        space = env.observation_space
        return isinstance(space, gym.spaces.Dict) and {"image", "pose", "rooms"} <= set(space.spaces)

    @classmethod
    def of_job(cls, env: gym.Env[Any, Any], job: EpisodeJob) -> "GridWorld":
        """Make the world of a job, with the job's verbosity or else the environment's own."""
        return cls(env, job.verbosity or verbosity_of(job.env_id), job.horizon)

    @property
    def explanation(self) -> str:
        """What each skill does."""
        return skill_guide()

    @property
    def place(self) -> str | None:
        """Name of the agent's room."""
        return self.belief.here_name

    def reset(self, seed: int) -> Progress:
        """Begin the episode of this seed."""
        observation, self.info = self.env.reset(seed=seed)
        self.max_steps = int(self._unwrapped.max_steps)  # a BabyAI level sets its limit when it is drawn
        self.belief = Belief(self._rooms.room_names, self._rooms.unique_names)  # a household names its rooms anew at each reset
        if "inventory" in self.info:
            self.belief.take_inventory(**self.info["inventory"])
            self._briefing = briefing(self.belief)
        self.belief.update(observation)
        return self._progress()

    @property
    def briefing(self) -> str | None:
        """The inventory of the house, where the agent is given one."""
        return self._briefing

    def note(self, line: str, outcome: str) -> str:
        """Write the outcome of a skill and what is new since the last entry, and clear the news."""
        seen = news(self.belief, line, outcome, self.info["subgoals_done"], self.info["subgoals_total"])
        self.belief.clear_news()
        return note(seen, self._verbosity)

    def describe(self, outcomes: Outcomes) -> str:
        """Write what is new since the last observation, and clear the news."""
        progress = self._progress()
        goals = progress.goals if self._horizon == "task" else ()
        numbered = zip(progress.numbers, goals, strict=False)
        seen = report(self.belief, list(outcomes), progress.goal, progress.done, progress.total, numbered)
        self.belief.clear_news()
        self.belief.surprises.clear()
        self._planned = progress
        self._first_gap = next((goal for goal in goals if sought(self.belief, goal)), "")
        self._looked_for = self._sought(self._first_gap)
        return describe(seen, self._verbosity)

    def parse(self, answer: str) -> Sequence[SkillCall]:
        """Read one skill per line. The arguments are names that something in this world could have."""
        return self.reader().parse(answer)

    def reader(self) -> "SkillReader":
        """Return what reads answers: the same at any time, since the names of the rooms do not change."""
        return SkillReader(GridNames(self.belief.room_names))

    def grammar(self) -> PlanGrammar:
        """Return the skills with the names that the agent knows, for the subgoals that the last observation named."""
        goals, numbers = self._planned.goals, self._planned.numbers
        return plan_grammar(self.belief, goals, numbers) if self._horizon == "task" else plan_grammar(self.belief, goals[:1])

    def run(self, call: Call) -> Generator[Tick, None, Outcome]:
        """Carry out one skill until it ends or is interrupted."""
        assert isinstance(call, SkillCall), "parse gives nothing else"
        outcome = yield from self._run(call)
        return replace(outcome, gave_up=call.name == "done")

    def _run(self, call: SkillCall) -> Generator[Tick, None, Outcome]:
        skill = start_skill(self.belief, call)
        goal = self._progress().goal
        looked_for = self._sought(goal) if call.text == "explore" else frozenset()
        try:
            action = next(skill)
            while True:
                held = self.belief.held
                tick = self._step(action)
                yield tick
                if held is not None and self.belief.held is None and action != Actions.drop:
                    return Outcome(False, "interrupted, the held thing fell from the hand")
                if GOAL_CHANGED in tick.disturbances and tick.progress.replaces(self._planned, self._horizon):
                    return Outcome(False, "interrupted, the goal changed", goal_changed=True)
                if looked_for and (found := looked_for - self._sought(goal)):
                    return Outcome(True, f"ok, found {', '.join(sorted(found))}")
                action = next(skill)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome

    def idle(self) -> Tick:
        """Let one step pass with minigrid's action ``done``, which does nothing."""
        return self._step(int(Actions.done))

    def touches(self, rest: Sequence[Call]) -> bool:
        """Tell whether the open subgoal or the rest of the plan names a thing that was not where the agent believed it to be.

        A plan for the whole task is also out of date where it would look for something that has been found.
        """
        if rest[0].text == "explore" and self._looked_for and self._looked_for != self._sought(self._first_gap):
            return True
        text = " ".join([self._planned.goal, *(call.text for call in rest)])
        return any(name in text for name in self.belief.surprises)

    def _sought(self, goal: str) -> frozenset[str]:
        """Return what must be found for a subgoal: nothing where it is reached, or where plans cover one subgoal."""
        is_open = self._horizon == "task" and goal in self.info["subgoals_open"]
        return sought(self.belief, goal) if is_open else frozenset()

    def state(self) -> Hashable:
        """Return the open subgoals, and what the agent believes of itself and of the things that it has seen."""
        return self._progress().goals, state_of(self.belief)

    def expert(self) -> str | None:
        """Plan from the belief for the subgoals that the last observation named."""
        return self.expert_avoiding(())

    def expert_avoiding(self, avoid: Collection[str]) -> str | None:
        """Plan as ``expert`` does, with something else where that has led nowhere."""
        return plan_avoiding(self.belief, self._planned.goals, self._planned.numbers, self._horizon, avoid)

    def frame(self) -> NDArray[np.uint8] | None:
        """Draw the grid."""
        return np.asarray(self.env.render(), dtype=np.uint8)

    def scene(self) -> Scene:
        """Return the rooms, all subgoals, and what the agent holds."""
        held = self._unwrapped.carrying
        name = f"{held.color} {held.type}" if held is not None else ""
        return Scene(tuple(_places(self._unwrapped, self._rooms.room_names)), tuple(self.info["subgoals"]), name, _LEGEND)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _step(self, action: int) -> Tick:
        observation, reward, terminated, truncated, self.info = self.env.step(action)
        self.belief.update(observation, action)
        events = tuple(self.info["disturbances"])
        return Tick(self._progress(), float(reward), self.info["success"], terminated, truncated, events)

    def _progress(self) -> Progress:
        info = self.info
        done, total, goals = info["subgoals_done"], info["subgoals_total"], tuple(info["subgoals_open"])
        return Progress(task_text(info["subgoals"]), info["subgoal"], done, total, goals, tuple(info["numbers_open"]))


def _places(base: Any, room_names: Sequence[str]) -> list[Place]:
    """Return where the name of each room is written: on the longest piece of the wall above it, so that no door is covered."""
    pitch = base.room_size - 1
    places = []
    for index, name in enumerate(room_names):
        x, y = index % base.num_cols * pitch, index // base.num_cols * pitch
        doors = [i for i in range(x + 1, x + pitch) if not _is_wall(base, i, y)]
        pieces = zip([x, *(door + 1 for door in doors)], [*doors, x + pitch], strict=True)
        left, right = max(pieces, key=lambda piece: piece[1] - piece[0])
        inner = max(left + _GAP, x + 1 - _GAP)  # on the corner the name would stand left of its room
        places.append(Place(name, inner / base.width, (right - _GAP) / base.width, (y + 1) / base.height))
    return places


def _is_wall(base: Any, x: int, y: int) -> bool:
    thing = base.grid.get(x, y)
    return thing is not None and thing.type == "wall"
