"""A simulation of one server that plans for many agents.

The agents are a closed loop: each asks, waits for its answer, acts, and asks again. The server answers one batch at a time, as
``generate_batch`` does: when it is free, it takes all requests that wait, in the order in which they came, up to ``most_rows`` and
as many as fit into the budget together. Their new tokens run one request after the other. Then all answers are decoded together
until the longest one ends, and all are given back. Sessions beyond the budget are evicted, those used least lately first, and
rebuilt at their next request.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from random import Random

import numpy as np

from erecap.calibration.cost_model import CostModel
from erecap.capacity.prices import PricedReplan

Requests = Iterator[tuple[float, PricedReplan]]
"""The requests of one agent: seconds since its last answer, and the replan."""


@dataclass(frozen=True)
class Server:
    """A server and its prices.

    Attributes
    ----------
    step_s
        Seconds of a forward pass of answers that do not depend on the batch.
    token_s
        Seconds of each token in it beyond the first, through all layers.
    cached_s
        Seconds per cached token that it reads in a layer.
    budget_bytes
        Most bytes of all sessions together. A single session may be larger.
    most_rows
        Most requests that are answered together.
    """

    step_s: float
    token_s: float
    cached_s: float
    budget_bytes: int
    most_rows: int

    def __post_init__(self) -> None:
        if self.budget_bytes < 1 or self.most_rows < 1:
            raise ValueError(
                f"a budget of {self.budget_bytes} bytes, batches of {self.most_rows}: give at least one byte and one request"
            )

    @classmethod
    def of(cls, cost: CostModel, budget_bytes: int, most_rows: int) -> "Server":
        """Make the server of a cost model."""
        token_s = cost.per_token_s * cost.setting.model.num_layers
        return cls(cost.step_s, token_s, cost.per_cached_s, budget_bytes, most_rows)

    def decode_s(self, rows: Sequence[PricedReplan]) -> float:
        """Compute the seconds of the forward passes behind the first ones, for all rows of a batch together."""
        tokens, cached = sum(row.tokens_a_pass for row in rows), sum(row.cached_tokens for row in rows)
        steps = max(row.passes for row in rows) - 1
        return steps * (self.step_s + self.token_s * (tokens - 1) + self.cached_s * cached)


@dataclass(frozen=True)
class Outcome:
    """What a simulation found.

    Attributes
    ----------
    agents
        Number of agents.
    replans_per_s
        Answers per second.
    p50_s, p95_s
        Median and 95th percentile of the seconds from a request to its answer.
    rebuilt_share
        Share of the replans whose session had been evicted.
    rows_mean
        Mean number of requests in a batch.
    busy_share
        Share of the time in which the server worked.
    """

    agents: int
    replans_per_s: float
    p50_s: float
    p95_s: float
    rebuilt_share: float
    rows_mean: float
    busy_share: float


@dataclass
class _Memory:
    """The sessions that are held, by agent, those used least lately first."""

    budget: int
    sizes: OrderedDict[int, int] = field(default_factory=OrderedDict)
    total: int = 0

    def put(self, agent: int, size: int) -> None:
        """Note that an agent's session was used and has a new size."""
        self.forget(agent)
        self.sizes[agent] = size
        self.total += size

    def forget(self, agent: int) -> None:
        """Free an agent's session."""
        self.total -= self.sizes.pop(agent, 0)

    def evict(self, in_use: set[int]) -> None:
        """Free sessions until the others fit, or all are in use."""
        while self.total > self.budget and (oldest := next(iter(self.sizes))) not in in_use:
            self.forget(oldest)


@dataclass(frozen=True, order=True)
class _Request:
    asked_s: float
    agent: int
    replan: PricedReplan = field(compare=False)


@dataclass(frozen=True)
class _Batch:
    """The latencies of a batch in seconds, and how many of its sessions were rebuilt."""

    end_s: float
    busy_s: float
    latencies: list[float]
    rebuilt: int


def simulate(server: Server, agents: Sequence[Requests], replans: int, warm_up: int = 0) -> Outcome:
    """Let a server answer the requests of agents.

    Parameters
    ----------
    server
        The server.
    agents
        The requests of each agent, at least one. At the beginning the agents' sessions are held as far as they fit.
    replans
        Answers to sum up; fewer where the agents ask for fewer.
    warm_up
        Answers before them, which are left out.

    Raises
    ------
    ValueError
        Where the agents ask for no more than ``warm_up`` answers.
    """
    waiting = sorted(chain.from_iterable(_ask(agents, number, 0.0) for number in range(len(agents))))
    memory = _filled(server, waiting)
    batches, answered, free_s, begun_s = list[_Batch](), 0, 0.0, 0.0
    while waiting and answered < warm_up + replans:
        if answered < warm_up or not batches:
            batches, begun_s = [], free_s
        rows = _take(server, waiting, max(free_s, waiting[0].asked_s))
        batch = _answer(server, memory, rows, max(free_s, rows[-1].asked_s))
        batches.append(batch)
        answered, free_s = answered + len(rows), batch.end_s
        for request in chain.from_iterable(_ask(agents, row.agent, free_s) for row in rows):
            heapq.heappush(waiting, request)
    if answered <= warm_up:
        raise ValueError(f"the agents asked for {answered} plans, {warm_up} of which are for warming up: give fewer of these")
    return _summed_up(len(agents), batches, free_s - begun_s)


def _ask(agents: Sequence[Requests], agent: int, since_s: float) -> list[_Request]:
    """Make the next request of an agent, as a list: empty where it asks no more."""
    return [_Request(since_s + acted_s, agent, replan) for acted_s, replan in islice(agents[agent], 1)]


def _filled(server: Server, waiting: Sequence[_Request]) -> _Memory:
    """Hold the sessions of the agents that go on with one, as far as they fit."""
    memory = _Memory(server.budget_bytes)
    for request in waiting:
        if not request.replan.starts and memory.total + request.replan.kv_bytes <= server.budget_bytes:
            memory.put(request.agent, request.replan.kv_bytes)
    return memory


def _take(server: Server, waiting: list[_Request], now: float) -> list[_Request]:
    """Take the requests of the next batch, at least one, out of those ``waiting``."""
    rows = [heapq.heappop(waiting)]
    size = rows[0].replan.kv_bytes
    while waiting and waiting[0].asked_s <= now and len(rows) < server.most_rows:
        size += waiting[0].replan.kv_bytes
        if size > server.budget_bytes:
            break
        rows.append(heapq.heappop(waiting))
    return rows


def _answer(server: Server, memory: _Memory, rows: Sequence[_Request], now: float) -> _Batch:
    """Answer a batch that begins at ``now``."""
    busy_s, rebuilt = server.decode_s([row.replan for row in rows]), 0
    for row in rows:
        held = row.agent in memory.sizes and not row.replan.starts
        busy_s += row.replan.extend_s if held else row.replan.rebuild_s
        rebuilt += not held and not row.replan.starts
        memory.put(row.agent, row.replan.kv_bytes)
    memory.evict({row.agent for row in rows})
    end_s = now + busy_s
    return _Batch(end_s, busy_s, [end_s - row.asked_s for row in rows], rebuilt)


def _summed_up(agents: int, batches: Sequence[_Batch], span_s: float) -> Outcome:
    latencies = np.array([latency for batch in batches for latency in batch.latencies])
    p50, p95 = np.percentile(latencies, [50, 95])
    return Outcome(
        agents=agents,
        replans_per_s=len(latencies) / span_s,
        p50_s=float(p50),
        p95_s=float(p95),
        rebuilt_share=sum(batch.rebuilt for batch in batches) / len(latencies),
        rows_mean=len(latencies) / len(batches),
        busy_share=sum(batch.busy_s for batch in batches) / span_s,
    )


def requests_of(
    number: int, episodes: Sequence[Sequence[PricedReplan]], seed: int, spread: float = 0.5
) -> Iterator[tuple[float, PricedReplan]]:
    """Make the requests of one agent, without end.

    It begins at a random place of a random episode, and goes on with random episodes. Agents of one number and seed do the same
    in any number of agents.

    Parameters
    ----------
    number
        Number of the agent.
    episodes
        The episodes to choose from.
    seed
        Seed of the draws.
    spread
        Each time of acting is drawn evenly from 1 - ``spread`` to 1 + ``spread`` times its value. Without it, agents whose
        replans are alike would ask in step.

    Yields
    ------
    tuple of float and PricedReplan
        Seconds since the last answer, and the replan.
    """
    draws = Random(f"{seed} {number}")
    episode = draws.choice(episodes)
    place, waited_s = draws.randrange(len(episode)), draws.random() * episode[0].acting_s
    while True:
        for replan in episode[place:]:
            yield waited_s, replan
            waited_s = replan.acting_s * draws.uniform(1 - spread, 1 + spread)
        episode, place = draws.choice(episodes), 0
