"""BabyAI and MiniGrid levels of the minigrid package, seen through the same observation and the same ``info`` as the household.

Progress comes from the level's own verifier. A description such as "the ball on your left" refers to the pose at the start; it is
written ``ball at left``. What a level prints while it samples missions is sent to the log.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import structlog
from gymnasium.utils import RecordConstructorArgs
from minigrid.core.roomgrid import RoomGrid
from minigrid.envs.babyai.core.verifier import (
    ActionInstr,
    AfterInstr,
    GoToInstr,
    Instr,
    ObjDesc,
    OpenInstr,
    PickupInstr,
    PutNextInstr,
    SeqInstr,
)

from envs.household.env import EpisodeOverError
from envs.observation.embodied import Observation, embodied, embodied_space, goal_info
from envs.observation.names import room_name

LEVELS = {
    "GoTo": "BabyAI-GoTo-v0",
    "Pickup": "BabyAI-Pickup-v0",
    "Open": "BabyAI-Open-v0",
    "PutNext": "BabyAI-PutNextS5N2-v0",
    "GoToSeq": "BabyAI-GoToSeq-v0",
    "BossLevel": "BabyAI-BossLevel-v0",
    "KeyCorridor": "BabyAI-KeyCorridor-v0",
}
_LOG = structlog.get_logger(__name__)


def describe_object(desc: ObjDesc) -> str:
    """``[color] type [at loc]``, such as ``red ball at left``; ``object`` stands for any type."""
    words = [desc.color, desc.type or "object", f"at {desc.loc}" if desc.loc else None]
    return " ".join(word for word in words if word)


def _text(instr: ActionInstr) -> str:
    """An atomic instruction as a subgoal."""
    if isinstance(instr, PutNextInstr):
        return f"put {describe_object(instr.desc_move)} next to {describe_object(instr.desc_fixed)}"
    verb = _VERBS.get(type(instr))
    if verb is None:
        known = ", ".join(sorted(kind.__name__ for kind in (*_VERBS, PutNextInstr)))
        raise ValueError(f"instruction {type(instr).__name__} has no text: use a level whose instructions are made of {known}")
    return f"{verb} {describe_object(instr.desc)}"


_VERBS: dict[type[Instr], str] = {GoToInstr: "go to", PickupInstr: "pick up", OpenInstr: "open"}


def flatten(instr: Instr, done: bool = False) -> list[tuple[str, bool]]:
    """The instruction's atomic parts in the order in which they are due, each with whether it is done."""
    if not isinstance(instr, SeqInstr):
        return [(_text(instr), done)]
    first = flatten(instr.instr_a, done or instr.a_done == "success")
    second = flatten(instr.instr_b, done or instr.b_done == "success")
    return second + first if isinstance(instr, AfterInstr) else first + second


class EmbodiedLevel(gym.Wrapper[Observation, Any, Observation, Any], RecordConstructorArgs):
    """A level of minigrid's ``RoomGrid`` family with pose, rooms and progress. Raises ``ValueError`` for any other environment."""

    unique_names = False

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        base = env.unwrapped
        if not isinstance(base, RoomGrid):
            raise ValueError(f"{type(base).__name__} has no rooms: use a level that is built on minigrid's RoomGrid")
        self.base: Any = base
        self.room_names = tuple(room_name(i) for i in range(base.num_rows * base.num_cols))
        assert isinstance(env.observation_space, gym.spaces.Dict)
        self.observation_space = embodied_space(env.observation_space, base.agent_view_size, base.width, base.height)
        self.over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """A new mission."""
        with _quiet():
            observation, info = self.env.reset(seed=seed, options=options)
        self.over = False
        return embodied(self.base, observation), {**info, **goal_info(self._goals(False), False, [])}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step. Raises ``EpisodeOverError`` before the beginning and after the end."""
        if self.over:
            raise EpisodeOverError(f"action {action} while no episode is under way: call reset() first")
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.over = terminated or truncated
        success = bool(terminated and float(reward) > 0)
        info = {**info, **goal_info(self._goals(success), success, [])}
        return embodied(self.base, observation), float(reward), terminated, truncated, info

    def _goals(self, success: bool) -> list[tuple[str, bool]]:
        instr = getattr(self.base, "instrs", None)
        if instr is None:
            return [(" ".join(w for w in self.base.mission.split() if w not in ("the", "a")), success)]
        return [(text, done or success) for text, done in flatten(instr)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Levels print the missions that they reject."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield
    if printed.getvalue():
        _LOG.debug("level printed", text=printed.getvalue().strip())
