"""What a world may know besides the protocol ``World``, and what holds for a world that does not: the defaults, in one place."""

from collections.abc import Collection, Hashable, Sequence
from typing import Protocol, runtime_checkable

from agents.world import Call, World
from planner import PlanGrammar


@runtime_checkable
class BriefedWorld(Protocol):
    """A world that tells the agent something before it sees anything."""

    @property
    def briefing(self) -> str | None:
        """What the agent is told, such as where things stood; ``None`` where it is told nothing."""
        ...


@runtime_checkable
class ExplainedWorld(Protocol):
    """A world that can explain the lines of a plan to a planner that was not trained on them."""

    @property
    def explanation(self) -> str:
        """What each line of a plan can be, and what it does."""
        ...


@runtime_checkable
class NotingWorld(Protocol):
    """A world with something to say after each line of a plan. It is asked where plans cover the whole task."""

    def note(self, line: str, outcome: str) -> str:
        """Write the short entry after one line of a plan: its outcome, and what is new since the last entry."""
        ...


@runtime_checkable
class ComparableWorld(Protocol):
    """A world that can tell whether anything has changed."""

    def state(self) -> Hashable:
        """Return what a plan can change, as far as the agent knows: equal states mean that nothing has changed."""
        ...


@runtime_checkable
class AvoidingWorld(Protocol):
    """A world whose expert knows something else to try."""

    def expert_avoiding(self, avoid: Collection[str]) -> str | None:
        """Return the expert's plan; it begins with none of the texts in ``avoid`` where the expert knows anything else to try."""
        ...


class Reader(Protocol):
    """Reads answers as the world stood when the planner was asked, whatever has happened since."""

    def parse(self, answer: str) -> Sequence[Call]:
        """Read a plan as ``World.parse`` does."""
        ...

    def first(self, so_far: str) -> Call | None:
        """Return the first call of an answer of which these lines are complete; ``None`` as long as it is not certain."""
        ...


@runtime_checkable
class EarlyWorld(Protocol):
    """A world in which the first line of a plan can be carried out before the plan is complete."""

    def reader(self) -> Reader:
        """Return what reads the answer to a request that is made now."""
        ...


@runtime_checkable
class GrammarWorld(Protocol):
    """A world that knows which lines a plan can have."""

    def grammar(self) -> PlanGrammar | None:
        """Return the lines that the agent could write now; ``None`` where they are not known."""
        ...


def grammar_of(world: World) -> PlanGrammar | None:
    """Return the lines that a plan can have; by default they are not known."""
    asked: object = world
    return asked.grammar() if isinstance(asked, GrammarWorld) else None


def reader_of(world: World) -> Reader | None:
    """Return what reads an answer while it comes; by default nothing: the plan is read when it is complete."""
    asked: object = world
    return asked.reader() if isinstance(asked, EarlyWorld) else None


def briefing_of(world: World) -> str | None:
    """Return what the agent is told before it sees anything; by default nothing."""
    asked: object = world
    return asked.briefing if isinstance(asked, BriefedWorld) else None


def explanation_of(world: World) -> str:
    """Return what the lines of a plan do; by default nothing beyond the system text."""
    asked: object = world
    return asked.explanation if isinstance(asked, ExplainedWorld) else ""


def note_of(world: World, line: str, outcome: str) -> str:
    """Write the entry after one line of a plan; by default its outcome."""
    asked: object = world
    return asked.note(line, outcome) if isinstance(asked, NotingWorld) else f"{line}: {outcome}."


def state_of(world: World, observation: str) -> Hashable:
    """Return what a plan can change; by default what the agent reads of the world, its latest observation."""
    asked: object = world
    return asked.state() if isinstance(asked, ComparableWorld) else observation


def expert_of(world: World, avoid: Collection[str]) -> str | None:
    """Return the expert's plan, if there is an expert; by default the same plan, whatever is to be avoided."""
    asked: object = world
    return asked.expert_avoiding(avoid) if avoid and isinstance(asked, AvoidingWorld) else world.expert()
