"""Suites: named sets of episodes.

Suites use held-out seeds, from ``HELD_OUT`` on. Seeds below it are for training: the planner's recipe uses those below
``RECORDED``, and recordings to train on (``training=True``) those from ``RECORDED`` on.
"""

from dataclasses import dataclass
from typing import Literal

from agents.families import make_world
from agents.job import EpisodeJob
from envs import HELD_OUT, LEVELS, SCIENCE_WORLD, TEXTWORLD_EXPRESS, verbosity_of
from planner import Horizon

RECORDED = 500_000
SEEDS_PER_RUN = 10_000
BABYAI_LEVELS = tuple(LEVELS.values())


@dataclass(frozen=True)
class Case:
    """One episode of a suite, the same for all backends.

    Attributes
    ----------
    env_id : str
        Gymnasium id of the environment.
    seed : int
        Seed of the episode.
    """

    env_id: str
    seed: int


@dataclass(frozen=True)
class Suite:
    """A named set of episodes. Episode i is played in environment ``env_ids[i % len(env_ids)]``.

    Attributes
    ----------
    name : str
        Name on the command line.
    summary : str
        Description for ``erecap suites``.
    env_ids : tuple of str
        Gymnasium ids of the environments.
    verbosity : {"terse", "verbose"}
        Length of the observation text.
    episodes : int
        Episodes per backend by default.
    horizon : {"subgoal", "task"}
        How far plans reach, unless the run says otherwise.
    step_limit_factor : float or None
        Limits an episode to ``ceil(factor * expert's steps)`` steps; ``None`` is the environment's own limit.
    """

    name: str
    summary: str
    env_ids: tuple[str, ...]
    verbosity: Literal["terse", "verbose"] = "terse"
    episodes: int = 50
    step_limit_factor: float | None = None
    horizon: Horizon = "subgoal"

    def cases(self, episodes: int, seed: int, training: bool = False) -> list[Case]:
        """Return the first episodes of a run.

        Parameters
        ----------
        episodes : int
            Number of episodes.
        seed : int
            Number of the run; each run has its own block of ``SEEDS_PER_RUN`` seeds.
        training : bool
            Whether to use seeds that may be trained on.

        Returns
        -------
        list of Case
            The episodes. A larger number begins with the same episodes.

        Raises
        ------
        ValueError
            If ``episodes`` or ``seed`` is out of range.
        """
        if not 1 <= episodes <= SEEDS_PER_RUN:
            raise ValueError(f"episodes={episodes} must be from 1 to {SEEDS_PER_RUN}: use another --seed for more")
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative: 0 is the default")
        if training and seed * SEEDS_PER_RUN >= HELD_OUT - RECORDED:
            raise ValueError(f"seed={seed} with training seeds must be below {(HELD_OUT - RECORDED) // SEEDS_PER_RUN}")
        base = (RECORDED if training else HELD_OUT) + seed * SEEDS_PER_RUN
        return [Case(self.env_ids[i % len(self.env_ids)], base + i) for i in range(episodes)]


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("smoke", "four small households, about a minute on 2 cores", ("ERecap/HouseholdSmall-v0",), episodes=4),
        Suite("household-small", "three subgoals, disturbances on", ("ERecap/HouseholdSmall-v0",)),
        Suite(
            "household-long",
            "nine rooms, twelve subgoals, verbose text, disturbances on",
            ("ERecap/HouseholdLong-v0",),
            verbosity="verbose",
            episodes=10,
        ),
        Suite(
            "household-recall",
            "what later subgoals need was seen many replans ago; 1.3 times the expert's steps at most",
            ("ERecap/HouseholdRecall-v0",),
            step_limit_factor=1.3,
        ),
        Suite(
            "household-replan",
            "plans for the whole task from an inventory, partly out of date; twelve subgoals, verbose text, many disturbances",
            ("ERecap/HouseholdReplan-v0",),
            verbosity="verbose",
            episodes=20,
            horizon="task",
        ),
        Suite("babyai", "seven levels of minigrid's BabyAI in turn", BABYAI_LEVELS, episodes=70),
        Suite(
            "textworld",
            "the eight kinds of games of TextWorld-Express in turn; its test games (extra worlds, Java)",
            tuple(TEXTWORLD_EXPRESS),
            episodes=80,
        ),
        Suite(
            "scienceworld",
            "the thirty tasks of ScienceWorld in turn; its test variations (extra worlds, Java)",
            tuple(SCIENCE_WORLD),
            episodes=30,
        ),
    )
}


def find_suite(name: str) -> Suite:
    """Return the suite called ``name``. Raise ``ValueError`` for an unknown name."""
    if name not in SUITES:
        raise ValueError(f"suite {name!r} is unknown: choose from {', '.join(SUITES)}")
    return SUITES[name]


def suite_of_env(env_id: str) -> Suite:
    """Make a suite of one environment.

    Parameters
    ----------
    env_id : str
        Gymnasium id, or the short name of a BabyAI level.

    Returns
    -------
    Suite
        The suite; its name is the gymnasium id.

    Raises
    ------
    ValueError
        For an environment that is unknown or that no family of worlds can play.
    """
    env_id = LEVELS.get(env_id, env_id)
    make_world(EpisodeJob("", env_id, 0)).close()
    return Suite(env_id, "one environment", (env_id,), verbosity=verbosity_of(env_id))
