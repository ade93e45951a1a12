"""Episodes labelled by the expert: what a planner is trained on.

The expert, the expert with noise, or a student plays (DAgger, Ross et al. 2011). At every replan the expert says what it would do
from the same belief. A played plan that differs stays in the context with the expert's as its label, and the expert's plan becomes
a sample of its own that ends there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from agents.expert_backend import ExpertBackend
from agents.gridworld.noise import disturbed_plan
from agents.gridworld.world import GridWorld
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.records import EpisodeRecord, Record, TranscriptRecord
from agents.world import World
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


@dataclass
class Labeller:
    """A backend that plays, and asks the expert at every replan what it would do.

    Attributes
    ----------
    rng
        Draws what is played.
    student
        What else is played; ``None`` leaves the expert alone.
    share
        Probability of the student's plan.
    noise
        Probability of the expert's plan, disturbed. Gridworlds only.
    labels
        The expert's plan of every replan so far.
    """

    rng: np.random.Generator
    student: PlannerBackend | None = None
    share: float = 0.0
    noise: float = 0.0
    labels: list[str] = field(default_factory=list)

    def plan(self, world: World, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Note the expert's plan, and play it, the student's, or a disturbed one."""
        label = ExpertBackend().plan(world, prompt, sampling)
        self.labels.append(label.text)
        draw = self.rng.random()
        if draw < self.noise:
            assert isinstance(world, GridWorld), "noise is made of rooms and things"
            return Generation(text=disturbed_plan(self.rng, world.belief, label.text))
        if self.student is not None and draw < self.noise + self.share:
            return self.student.generate(prompt, sampling, on_line)
        return label


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
