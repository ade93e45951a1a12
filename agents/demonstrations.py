"""Episodes labelled by the expert: what a planner is trained on.

The expert, the expert with noise, or a student plays (DAgger, Ross et al. 2011). At every replan the expert says what it would do
in the same state of the world. A played plan that differs from the expert's stays in the context, and has the expert's as its
label. The expert's plan also becomes a sample of its own: the history up to there, then this plan.
"""

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import numpy as np

from agents.expert_backend import ExpertBackend
from agents.gridworld.belief import Belief
from agents.gridworld.noise import MistakenPlaces, disturbed_plan
from agents.gridworld.task_plan import is_forbidden
from agents.gridworld.world import GridWorld
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.records import EpisodeRecord, Record, TranscriptRecord
from agents.world import World
from agents.world_extras import state_of
from planner import Entry, Generation, LineCallback, PlannerBackend, Prompt, Sampling

MOST_TRIES = 2
"""How often a student plans in one state of the world, such as before a locked door. Then the expert gets it out of there, so
that it sees the rest of the episode too."""
MISPLACED = 0.5
"""Share of the mistaken plans that look for something in the wrong room."""


@dataclass(frozen=True)
class Sample:
    """A history, with the expert's plan for each plan in it."""

    entries: tuple[Entry, ...]
    """The history, oldest entry first; the last one is a plan."""
    labels: tuple[str | None, ...]
    """The expert's plan, per plan entry; ``None`` where nothing is to be learned."""
    system: str | None = None
    """System text of its prompts; ``None`` for the gridworlds' ``planner.system_text()``."""

    @property
    def imitate(self) -> tuple[bool, ...]:
        """Per plan entry, whether it is the expert's plan."""
        played = (entry.text for entry in self.entries if entry.kind == "plan")
        return tuple(text == label for text, label in zip(played, self.labels, strict=True))


@dataclass(frozen=True)
class Demonstration:
    """One labelled episode."""

    samples: tuple[Sample, ...]
    """The whole episode, then one sample per plan that the expert would have made otherwise."""
    episode: EpisodeRecord
    """How it ended."""
    plans: int
    """Plans played."""
    agreed: int
    """Those of them that were the expert's."""


@dataclass
class Labeller:
    """A backend that asks the expert for its plan at every replan, and plays this plan or another one."""

    rng: np.random.Generator
    """Draws whose plan is played."""
    student: PlannerBackend | None = None
    """The backend that plays some of the replans; ``None`` for the expert alone."""
    share: float = 0.0
    """Probability of playing the student's plan, 0 to 1."""
    noise: float = 0.0
    """Probability of playing the expert's plan with a mistake in it, 0 to 1. Only gridworlds have such mistakes."""
    stubbornness: float = 0.0
    """Probability of playing a mistaken plan again where it has changed nothing, 0 to 1."""
    labels: list[str] = field(default_factory=list)
    """The expert's plan of every replan so far."""
    mistake: tuple[Hashable, str] = (None, "")
    """The last mistaken plan, after the state of the world in which it was made."""
    places: MistakenPlaces = field(init=False)
    """The rooms in which mistaken plans look for things."""
    tries: Counter[Hashable] = field(default_factory=Counter)
    """How often the student has planned in each state of the world. After ``MOST_TRIES`` the expert's plan is played."""

    def __post_init__(self) -> None:
        self.places = MistakenPlaces(self.rng, self.stubbornness)

    def plan(self, world: World, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Note the expert's plan; return it, the student's plan, or the expert's with a mistake in it."""
        label = ExpertBackend().plan(world, prompt, sampling)
        self.labels.append(label.text)
        if self.noise and isinstance(world, GridWorld):
            self.places.note(world.belief, label.text)
        draw, (mistaken_in, mistake) = self.rng.random(), self.mistake
        state = state_of(world, prompt.segments[-1].text)
        if mistake and state == mistaken_in and not is_forbidden(mistake, sampling.avoid) and self.rng.random() < self.stubbornness:
            return Generation(text=mistake)
        if draw < self.noise and isinstance(world, GridWorld):
            self.mistake = (state, self._mistaken(world.belief, label.text))
            return Generation(text=self.mistake[1])
        if self.student is not None and draw < self.noise + self.share and self.tries[state] < MOST_TRIES:
            self.tries[state] += 1
            return self.student.generate(prompt, sampling, on_line)
        return label

    def _mistaken(self, belief: Belief, plan: str) -> str:
        """Make a mistake in the expert's plan."""
        misplaced = self.places.spoil(belief, plan) if self.rng.random() < MISPLACED else plan
        return misplaced if misplaced != plan else disturbed_plan(self.rng, belief, plan)


def demonstrate(job: EpisodeJob, labeller: Labeller, config: AgentConfig) -> Demonstration:
    """Play one episode and make samples of it: the whole episode, and one per plan that the expert would have made otherwise."""
    records: list[Record] = []
    episode = run_episode(job, labeller, config, records.append)
    entries = tuple(Entry(r.entry, r.text) for r in records if isinstance(r, TranscriptRecord))
    plans = [index for index, entry in enumerate(entries) if entry.kind == "plan"]
    if not plans:
        return Demonstration((), episode, 0, 0)
    labels = labeller.labels[: len(plans)]  # the last prompt may have been too long for the student
    whole = Sample(entries[: plans[-1] + 1], tuple(labels), episode.system)
    return Demonstration((whole, *_corrections(whole, plans)), episode, len(plans), sum(whole.imitate))


def _corrections(whole: Sample, plans: list[int]) -> Iterator[Sample]:
    """Yield, for each plan that the expert would have made otherwise, the history before it and then the expert's plan."""
    for number, (index, label, imitate) in enumerate(zip(plans, whole.labels, whole.imitate, strict=True)):
        if not imitate and label is not None:
            history = (*whole.entries[:index], Entry("plan", label))
            yield Sample(history, (*(None for _ in plans[:number]), label), whole.system)
