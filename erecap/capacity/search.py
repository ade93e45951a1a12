"""The number of agents that fit: by memory, and by latency."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np

from erecap.capacity.prices import PricedReplan
from erecap.capacity.server import Outcome, Server, requests_of, simulate

MOST_AGENTS = 4096
"""Most agents that are tried."""
_LEAST_REPLANS, _EACH, _WARM_UP_EACH = 1000, 6, 2
"""Replans that are summed up: so many, and so many for each agent; and those of each agent before."""


@dataclass(frozen=True)
class Load:
    """Agents of one kind on one server.

    Attributes
    ----------
    server
        The server.
    episodes
        Priced episodes that the agents play.
    seed
        Seed of the draws.
    """

    server: Server
    episodes: Sequence[Sequence[PricedReplan]]
    seed: int = 0
    _found: dict[int, Outcome] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def mean_bytes(self) -> float:
        """Mean bytes of a session, over all replans."""
        return float(np.mean([replan.kv_bytes for replan in chain(*self.episodes)]))

    @property
    def agents_by_memory(self) -> int:
        """Agents whose sessions fit into the budget: budget / mean bytes."""
        return int(self.server.budget_bytes // self.mean_bytes)

    def outcome(self, agents: int) -> Outcome:
        """Simulate a number of agents, once."""
        if agents not in self._found:
            requests = [requests_of(number, self.episodes, self.seed) for number in range(agents)]
            replans = max(_LEAST_REPLANS, _EACH * agents)
            self._found[agents] = simulate(self.server, requests, replans, _WARM_UP_EACH * agents)
        return self._found[agents]

    def most_agents(self, limit_s: float, most: int = MOST_AGENTS) -> int:
        """Find the largest number of agents, up to ``most``, whose 95th percentile of latency is at most ``limit_s`` seconds."""
        return largest(lambda agents: self.outcome(agents).p95_s <= limit_s, most)

    @property
    def found(self) -> list[Outcome]:
        """The outcomes simulated so far, by number of agents."""
        return [self._found[agents] for agents in sorted(self._found)]


def largest(holds: Callable[[int], bool], most: int) -> int:
    """Find the largest number up to ``most`` for which ``holds``, by doubling and halving; 0 where it fails for 1.

    ``holds`` is taken to fail for all numbers above one for which it fails.
    """
    below, above = 0, 1
    while above <= most and holds(above):
        below, above = above, 2 * above
    above = min(above, most + 1)
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if holds(middle) else (below, middle)
    return below
