"""The description of one episode to play: which backend, which environment, which seed."""

from dataclasses import dataclass
from typing import Literal

from planner.horizon import Horizon
from planner.redaction import redact

EpisodeKey = tuple[str, str, int]
"""Backend spec string, environment id and seed. They identify an episode within a run."""


@dataclass(frozen=True)
class EpisodeJob:
    """One episode to play.

    Attributes
    ----------
    backend : str
        Spec string of the planner backend, such as ``erecap?keep=0.7``.
    env_id : str
        Gymnasium id of the environment.
    seed : int
        Seed of the episode.
    verbosity : {"terse", "verbose"} or None
        Length of the observation text; ``None`` is the environment's own default.
    max_steps : int or None
        Limit in environment steps; ``None`` is the environment's own limit.
    horizon : {"subgoal", "task"}
        How far a plan reaches.
    guide : str
        What the planner reads behind the world's own system text (``agents.guides``); empty for a planner that was trained.
    """

    backend: str
    env_id: str
    seed: int
    verbosity: Literal["terse", "verbose"] | None = None
    max_steps: int | None = None
    horizon: Horizon = "subgoal"
    guide: str = ""

    @property
    def key(self) -> EpisodeKey:
        """What identifies the episode within a run. Secrets in the spec string are hidden."""
        return redact(self.backend), self.env_id, self.seed

    def __str__(self) -> str:
        return f"the episode of {self.key[0]} in {self.env_id}, seed {self.seed}"

    def __repr__(self) -> str:
        return f"EpisodeJob({self.key[0]!r}, {self.env_id!r}, {self.seed}, {self.verbosity!r}, {self.max_steps}, {self.horizon!r})"
