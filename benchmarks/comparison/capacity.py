"""How many agents one server can plan for: recorded episodes as work for the model, and the content of ``capacity.json``."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from agents.records import PlannerCall
from benchmarks.runs.clock_sources import stretched
from benchmarks.runs.records import BackendRecords, EpisodeRecords
from erecap.capacity.replans import Replan
from erecap.capacity.search import MOST_AGENTS, Load
from erecap.capacity.server import Outcome

CAPACITY_FILE = "capacity.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackendCapacity(_Part):
    """The capacity of one backend."""

    backend: str
    """Spec string of the backend."""
    kv_bytes: float
    """Mean bytes of an agent's session, over replans."""
    extend_s: float
    """Mean seconds of taking in the new tokens of a replan, where the session is held."""
    rebuild_s: float
    """Mean seconds of making an evicted session anew."""
    agents_by_memory: int
    """Agents whose sessions fit into the budget."""
    agents: int
    """Largest number of agents whose 95th percentile of latency is within the limit; 0 where one agent is too many."""
    bound_by: str
    """What one more agent lacks: ``memory`` where sessions are evicted, else ``time``; ``nothing`` where no more were tried."""
    at: Outcome
    """The figures of that many agents; of one agent where it is 0."""
    curve: list[Outcome]
    """The figures by rising number of agents."""


class CapacityReport(_Part):
    """The content of ``capacity.json``. Every time in it comes from a model; nothing was measured."""

    cost: str
    """Setting of the cost model."""
    basis: str
    """Whether the prices of the cost model were measured or predicted, and from what."""
    work: str
    """What the agents do, in words."""
    kv_budget_bytes: int
    """Most bytes of all sessions together."""
    p95_limit_s: float
    """Limit of the 95th percentile of latency, in seconds."""
    most_rows: int
    """Most requests that are answered together."""
    seed: int
    """Seed of the simulation."""
    complete: bool
    """Whether all backends were modelled."""
    backends: list[BackendCapacity]
    """In the order of the table; ratios are to the first."""


def recorded_episodes(records: BackendRecords, layers: int, skill_s: float, protected: int) -> list[list[Replan]]:
    """Read the work of agents from one backend's records.

    The new tokens of a replan are those that neither the prompt before nor its answer had, and no fewer than the record says
    were run. Tokens by layer are stretched to ``layers`` layers, as the clock does it. The agent acts for ``skill_s`` seconds
    per line of a plan that it carried out.

    Parameters
    ----------
    records
        The records.
    layers
        Layers of the model that prices the work.
    skill_s
        Seconds per line.
    protected
        Tokens of a prompt that all layers hold, beside the new ones.
    """
    found = ([*_replans(episode, layers, skill_s, protected)] for episode in records.by_episode())
    return [episode for episode in found if episode]


def _replans(episode: EpisodeRecords, layers: int, skill_s: float, protected: int) -> Iterable[Replan]:
    lines = Counter(step.replan for step in episode.steps)
    before: PlannerCall | None = None
    for call in episode.calls:
        made = call.generation
        if not made.prompt_tokens or not made.layer_tokens or not made.new_tokens:
            continue
        new = _new_tokens(call, before)
        yield Replan(
            made.prompt_tokens,
            new,
            min(made.prompt_tokens, protected + new),
            made.new_tokens,
            made.forward_passes,
            sum(drafted for drafted, _ in made.drafts),
            skill_s * lines[call.replan],
            stretched(made.layer_tokens, layers),
        )
        before = call


def _new_tokens(call: PlannerCall, before: PlannerCall | None) -> int:
    made = call.generation
    if before is None:
        return made.prompt_tokens
    known = before.generation.prompt_tokens + before.generation.new_tokens
    new = made.prompt_tokens - (min(known, made.reused_tokens) if made.reused_tokens else known)
    return min(made.prompt_tokens, max(1, new))


def is_unpruned(episodes: Sequence[Sequence[Replan]]) -> bool:
    """Tell whether the recorded layers held every token."""
    return all(set(replan.layer_tokens) == {replan.prompt_tokens} for episode in episodes for replan in episode)


def find_capacity(name: str, load: Load, limit_s: float) -> BackendCapacity:
    """Find the capacity of one backend by simulation; ``curve`` holds what the search tried."""
    agents = load.most_agents(limit_s)
    more = MOST_AGENTS if agents == MOST_AGENTS else agents + 1
    bound_by = "nothing" if agents == more else "memory" if load.outcome(more).rebuilt_share else "time"
    replans = [replan for episode in load.episodes for replan in episode]
    return BackendCapacity(
        backend=name,
        kv_bytes=load.mean_bytes,
        extend_s=sum(replan.extend_s for replan in replans) / len(replans),
        rebuild_s=sum(replan.rebuild_s for replan in replans) / len(replans),
        agents_by_memory=load.agents_by_memory,
        agents=agents,
        bound_by=bound_by,
        at=load.outcome(max(1, agents)),
        curve=load.found,
    )


def with_common_curve(found: Sequence[BackendCapacity], loads: Mapping[str, Load]) -> list[BackendCapacity]:
    """Give all backends a curve over the same numbers of agents: those that any search tried, up to twice the largest capacity."""
    largest = 2 * max(1, *(one.agents for one in found))
    numbers = sorted({point.agents for one in found for point in one.curve if point.agents <= largest})
    return [one.model_copy(update={"curve": [loads[one.backend].outcome(number) for number in numbers]}) for one in found]
