"""The prompt: a chat in ordered segments, some of which pruning must keep.

Protected are the system text with its list of skills, the task, the plan that was carried out last, and everything since the latest
observation. The tokenizer adds the header of the answer and protects it as well.
"""

from dataclasses import dataclass, replace
from typing import Literal

from planner.history import History
from planner.horizon import Horizon
from planner.skills import SKILLS
from planner.surrogates import join_surrogates

Role = Literal["system", "user", "assistant"]
"""Who speaks in a chat message."""


@dataclass(frozen=True)
class Segment:
    """One chat message."""

    role: Role
    """Who speaks."""
    text: str
    """What is said."""
    protected: bool = False
    """Whether pruning must keep all of its tokens."""
    observation: bool = False
    """Whether it is an observation, and no other message of a user."""


@dataclass(frozen=True)
class Prompt:
    """A chat to answer. Raises ``ValueError`` for one without messages."""

    segments: tuple[Segment, ...]
    """The messages, oldest first; the answer follows the last one."""
    draft: str = ""
    """A text that the answer may repeat, such as what is left of the plan before. It is no part of the prompt: a backend may use it
    to be faster, never to answer otherwise."""

    def __post_init__(self) -> None:
        if not self.segments:
            raise ValueError("a prompt of 0 segments has nothing to answer: give at least one message")

    def messages(self) -> list[dict[str, str]]:
        """Return the messages as ``role`` and ``content``, as endpoints take them; what cannot be encoded is replaced."""
        return [{"role": s.role, "content": join_surrogates(s.text)} for s in self.segments]


_REACH: dict[Horizon, str] = {
    "subgoal": "",
    "task": "Plan for all goals, in order, as far as you know where things are. Number the first skill for each goal as its goal. ",
}


def system_text(horizon: Horizon = "subgoal") -> str:
    """Write the system message of a gridworld: the planner's role, the form of its answer, how far it plans, and the skills."""
    skills = "\n".join(spec.usage for spec in SKILLS.values())
    return (
        f"You plan for a household robot. {_REACH[horizon]}Answer with one skill per line. "
        f"Name things with their room, such as: pickup red ball in kitchen.\nSkills:\n{skills}"
    )


def skill_guide() -> str:
    """Write what each skill of a gridworld does, for a planner that was not trained on them."""
    meanings = "\n".join(f"- {' / '.join(spec.usage.splitlines())}: {spec.meaning}" for spec in SKILLS.values())
    return (
        f"What the skills do:\n{meanings}\n"
        "X and Y are things with their rooms, such as red ball in kitchen, or rooms, as the observations name them. "
        "Walking opens doors that are not locked. One thing is held at a time. "
        "Answer with the lines of the plan and nothing else, without explanations."
    )


def build_prompt(history: History, system: str | None = None) -> Prompt:
    """Make a prompt of a history.

    Parameters
    ----------
    history
        The episode up to now.
    system
        The system text; ``None`` for the gridworlds' ``system_text()``.

    Returns
    -------
    Prompt
        The system text, then one segment per entry. The system text, the task, the current plan and everything since the latest
        observation are protected.
    """
    latest, plan = history.latest_observation, history.current_plan
    segments = [Segment("system", system_text() if system is None else system, protected=True)]
    for index, entry in enumerate(history.entries):
        role: Role = "assistant" if entry.kind == "plan" else "user"
        protected = entry.kind == "task" or index == plan or index >= latest
        segments.append(Segment(role, entry.text, protected, entry.kind == "observation"))
    return Prompt(tuple(segments))


def before_observation(prompt: Prompt) -> Prompt | None:
    """Return a prompt as it was before its latest observation: what an agent knew while it carried out its last plan.

    Parameters
    ----------
    prompt
        A prompt of ``build_prompt``.

    Returns
    -------
    Prompt or None
        The segments before the latest observation. Of these, the observation before it, the plan before that one, and everything
        since are protected again. ``None`` where there is no earlier observation.
    """
    observations = [index for index, segment in enumerate(prompt.segments) if segment.observation]
    if len(observations) < 2:
        return None
    previous, latest = observations[-2:]
    plans = (index for index in range(previous - 1, -1, -1) if prompt.segments[index].role == "assistant")
    plan = next(plans, -1)
    segments = [
        replace(segment, protected=index >= previous or index == plan or (segment.protected and segment.role != "assistant"))
        for index, segment in enumerate(prompt.segments[:latest])
    ]
    return Prompt(tuple(segments))
