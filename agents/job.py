"""What is to be run: one episode of one backend in one environment under one seed."""

from dataclasses import dataclass
from typing import Literal

EpisodeKey = tuple[str, str, int]


@dataclass(frozen=True)
class EpisodeJob:
    """One episode. ``backend`` is a spec string; ``verbosity`` is the environment's own where it is
    ``None``; ``max_steps`` replaces the environment's own limit of steps."""

    backend: str
    env_id: str
    seed: int
    verbosity: Literal["terse", "verbose"] | None = None
    max_steps: int | None = None

    @property
    def key(self) -> EpisodeKey:
        """What tells one episode of a run from another."""
        return self.backend, self.env_id, self.seed
