"""Episodes labelled by the expert: what a planner is trained on.

Whoever plays (the expert, the expert with noise, or a student: DAgger, Ross et al. 2011), the expert says at every replan what it
would do from the same belief. Where the played plan differs, it stays in the context with the expert's as its label, and the
expert's plan becomes a sample of its own that ends there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from agents.gridworld.belief import Belief
from agents.gridworld.expert import ExpertBackend
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.records import EpisodeRecord, Record, TranscriptRecord
from planner import Entry, Generation, LineCallback, PlannerBackend, Prompt, Sampling


@dataclass(frozen=True)
class Sample:
    """A history and, per plan entry in it, the plan of the expert; ``None`` where nothing is to be learned."""

    entries: tuple[Entry, ...]
    labels: tuple[str | None, ...]

    @property
    def imitate(self) -> tuple[bool, ...]:
        """Per plan entry, whether it is the expert's, and so to be imitated as it stands."""
        played = (entry.text for entry in self.entries if entry.kind == "plan")
        return tuple(text == label for text, label in zip(played, self.labels, strict=True))


@dataclass(frozen=True)
class Demonstration:
    """One labelled episode: the samples, how it ended, and how often the played plan was the expert's."""

    samples: tuple[Sample, ...]
    episode: EpisodeRecord
    plans: int
    agreed: int


Noise = Callable[[np.random.Generator, Belief, str], str]


@dataclass
class Labeller:
    """A backend that plays ``student`` (``None``: the expert) with probability ``share``, noise with probability ``noise``.

    ``labels`` collects the expert's plan of every replan.
    """

    rng: np.random.Generator
    student: PlannerBackend | None = None
    share: float = 0.0
    noise: float = 0.0
    labels: list[str] = field(default_factory=list)

    def observe(self, belief: Belief, subgoal: str) -> None:
        """The expert looks at the belief."""
        self._belief = belief
        self._expert = ExpertBackend()
        self._expert.observe(belief, subgoal)

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """The plan that is played; the expert's is noted."""
        label = self._expert.generate(prompt, sampling)
        self.labels.append(label.text)
        draw = self.rng.random()
        if draw < self.noise:
            return Generation(text=disturbed_plan(self.rng, self._belief, label.text))
        if self.student is not None and draw < self.noise + self.share:
            return self.student.generate(prompt, sampling, on_line)
        return label


def disturbed_plan(rng: np.random.Generator, belief: Belief, plan: str) -> str:
    """A plan that goes wrong as a learner's plans do: cut short, the wrong room, the wrong thing, a stray skill."""
    lines = plan.splitlines()
    rooms = [belief.room_names[room] for room in belief.known_rooms()]
    things = [thing.name for thing in belief.things.values()] or ["red ball"]
    room, thing = rooms[int(rng.integers(len(rooms)))], things[int(rng.integers(len(things)))]
    cut = int(rng.integers(1, len(lines) + 1))
    ways = (
        lines[:cut],
        lines[:cut],
        [f"goto {room}"],
        [f"goto {room}", *lines[1:]],
        [f"pickup {thing}"],
        ["drop"],
        ["explore"],
        lines[1:] or lines,
    )
    return "\n".join(ways[int(rng.integers(len(ways)))])


def demonstrate(job: EpisodeJob, labeller: Labeller, config: AgentConfig) -> Demonstration:
    """Play one episode and cut it into samples: the whole of it, and one per plan that the expert would have made otherwise."""
    records: list[Record] = []
    episode = run_episode(job, labeller, config, records.append)
    entries = tuple(Entry(r.entry, r.text) for r in records if isinstance(r, TranscriptRecord))
    plans = [index for index, entry in enumerate(entries) if entry.kind == "plan"]
    if not plans:
        return Demonstration((), episode, 0, 0)
    whole = Sample(entries[: plans[-1] + 1], tuple(labeller.labels))
    return Demonstration((whole, *_corrections(whole, plans)), episode, len(plans), sum(whole.imitate))


def _corrections(whole: Sample, plans: list[int]) -> Iterator[Sample]:
    """For each plan that the expert would have made otherwise: the history up to it, with the expert's plan at the end."""
    for number, (index, label, imitate) in enumerate(zip(plans, whole.labels, whole.imitate, strict=True)):
        if not imitate and label is not None:
            yield Sample((*whole.entries[:index], Entry("plan", label)), (*(None for _ in plans[:number]), label))
