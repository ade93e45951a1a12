"""Suites: named sets of episodes.

Seeds are held out: a suite's seeds start at ``HELD_OUT``, training uses seeds below that. Of those, the planner's recipe uses the
lower half and recordings that may be trained on (``training=True``) the upper.
"""

from dataclasses import dataclass
from typing import Literal

from envs import LEVELS, make_env, verbosity_of

HELD_OUT = 1_000_000
RECORDED = 500_000
SEEDS_PER_RUN = 10_000
BABYAI_LEVELS = tuple(LEVELS.values())


@dataclass(frozen=True)
class Case:
    """One episode of a suite, for any backend."""

    env_id: str
    seed: int


@dataclass(frozen=True)
class Suite:
    """Episodes over ``env_ids`` in turn: episode i is played in the (i mod n)-th of them.

    ``step_limit_factor`` f limits an episode to ``ceil(f * expert's steps)``; ``None`` leaves the environment's own limit.
    """

    name: str
    summary: str
    env_ids: tuple[str, ...]
    verbosity: Literal["terse", "verbose"] = "terse"
    episodes: int = 50
    step_limit_factor: float | None = None

    def cases(self, episodes: int, seed: int, training: bool = False) -> list[Case]:
        """The first ``episodes`` episodes of run ``seed``. Raises ``ValueError`` for numbers out of range."""
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
        Suite("babyai", "seven levels of minigrid's BabyAI in turn", BABYAI_LEVELS, episodes=70),
    )
}


def find_suite(name: str) -> Suite:
    """The suite of that name. Raises ``ValueError`` for one that does not exist."""
    if name not in SUITES:
        raise ValueError(f"suite {name!r} is unknown: choose from {', '.join(SUITES)}")
    return SUITES[name]


def suite_of_env(env_id: str) -> Suite:
    """A suite of one environment, by gymnasium id or by a BabyAI level's short name. Raises ``ValueError`` for an unknown one."""
    env_id = LEVELS.get(env_id, env_id)
    make_env(env_id).close()
    return Suite(env_id, "one environment", (env_id,), verbosity=verbosity_of(env_id))
