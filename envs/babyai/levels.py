"""BabyAI and MiniGrid levels with the household's observation and ``info``.

Progress comes from the level's own verifier. "The ball on your left" means left of the agent's first pose; the text says ``ball at
left``. What a level prints while it draws a mission goes to the log.
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

from envs.observation.ansi import MODE, draw_text, with_ansi
from envs.observation.arguments import check_action, check_seed, refuse_options
from envs.observation.embodied import Observation, embodied, embodied_space
from envs.observation.episode import EpisodeOverError, goal_info
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
"""Levels by their short names."""
_LOG = structlog.get_logger(__name__)


def describe_object(desc: ObjDesc) -> str:
    """Write a description as ``[color] type [at loc]``, such as ``red ball at left``; ``object`` stands for any type."""
    words = [desc.color, desc.type or "object", f"at {desc.loc}" if desc.loc else None]
    return " ".join(word for word in words if word)


def _text(instr: ActionInstr) -> str:
    """Write an atomic instruction as a subgoal."""
    if isinstance(instr, PutNextInstr):
        return f"put {describe_object(instr.desc_move)} next to {describe_object(instr.desc_fixed)}"
    verb = _VERBS.get(type(instr))
    if verb is None:
        known = ", ".join(sorted(kind.__name__ for kind in (*_VERBS, PutNextInstr)))
        raise ValueError(f"instruction {type(instr).__name__} has no text: use a level whose instructions are made of {known}")
    return f"{verb} {describe_object(instr.desc)}"


_VERBS: dict[type[Instr], str] = {GoToInstr: "go to", PickupInstr: "pick up", OpenInstr: "open"}


def flatten(instr: Instr, done: bool = False) -> list[tuple[str, bool]]:
    """List the atomic parts of an instruction in the order in which they are due.

    Parameters
    ----------
    instr
        The instruction of a level, which may be a sequence of others.
    done
        Whether it is done as a whole.

    Returns
    -------
    list of (str, bool)
        The text of each part and whether it is done.

    Raises
    ------
    ValueError
        For an instruction that has no text here.
    """
    if not isinstance(instr, SeqInstr):
        return [(_text(instr), done)]
    first = flatten(instr.instr_a, done or instr.a_done == "success")
    second = flatten(instr.instr_b, done or instr.b_done == "success")
    return second + first if isinstance(instr, AfterInstr) else first + second


class EmbodiedLevel(gym.Wrapper[Observation, Any, Observation, Any], RecordConstructorArgs):
    """A level of minigrid's ``RoomGrid`` family with pose, rooms and progress.

    ## Mission

    The level's own.

    ## Actions

    Minigrid's seven: left, right, forward, pickup, drop, toggle, done.

    ## Observation

    Minigrid's partial view (``image``, ``direction``, ``mission``), the agent's ``pose`` (column, row), and ``rooms``, the index of
    the room of each cell in view (-1 for walls, doorways and cells that are not visible).

    ## Rewards

    The level's own: 0 until success, then 1 - 0.9 * steps / max_steps.

    ## Termination

    The level's own: on success, and without success when its instruction can no longer be carried out.

    Parameters
    ----------
    env
        The level, as ``gymnasium.make`` returns it. With its render mode ``ansi``, ``render`` gives a text (see ``draw_text``).

    Raises
    ------
    ValueError
        For an environment that is not built on ``RoomGrid``.
    """

    unique_names = False
    """Two things of a level may share type and colour."""

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
        self.metadata = with_ansi(env.metadata)
        self.over = True

    def render(self) -> Any:
        """Draw the level in its render mode."""
        return draw_text(self.base, self.room_names) if self.render_mode == MODE else self.env.render()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Parameters
        ----------
        seed
            Decides the level; ``None`` draws on from the level's own generator.
        options
            Must be empty: minigrid's levels have none.

        Returns
        -------
        tuple
            The first observation and ``info`` (see ``goal_info``).

        Raises
        ------
        ValueError
            For a seed that is no integer of at least 0, and for any option.
        """
        refuse_options(options, "a level")
        with _quiet():
            observation, info = self.env.reset(seed=check_seed(seed))
        self.over = False
        return embodied(self.base, observation), {**info, **goal_info(self._goals(False), False, [])}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out an action.

        Parameters
        ----------
        action
            One of minigrid's seven actions.

        Returns
        -------
        tuple
            Observation, reward, terminated, truncated, and ``info`` (see ``goal_info``).

        Raises
        ------
        EpisodeOverError
            Before the first ``reset`` and after the end of an episode.
        ValueError
            For an unknown action.
        """
        if self.over:
            raise EpisodeOverError(f"action {action} while no episode is under way: call reset() first")
        action = check_action(action)
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
    """Send to the log what a level prints about the missions that it rejects."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield
    if printed.getvalue():
        _LOG.debug("level printed", text=printed.getvalue().strip())
