"""The planner's actions in a gridworld: names, arguments and grammar. ``agents.gridworld.skills`` carries them out."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SkillSpec:
    """The grammar of one skill."""

    name: str
    """Its first word."""
    usage: str
    """How to write it, one form per line, as the system text lists it."""
    arity: int
    """Number of arguments: 0, 1 or 2."""
    meaning: str
    """What it does, in one sentence, for a planner that was not trained on it."""
    joints: tuple[str, ...] = ()
    """Words that may stand between two arguments."""
    other_names: tuple[str, ...] = ()
    """Other words that models write for the name."""
    other_joints: tuple[tuple[str, str], ...] = ()
    """Other words that models write between two arguments, each with the joint that it means."""


SKILLS: dict[str, SkillSpec] = {
    spec.name: spec
    for spec in (
        SkillSpec(
            "goto",
            "goto X",
            1,
            "Walk to a room or up to a thing.",
            other_names=("go to", "go-to", "navigate to", "walk to", "move to", "head to"),
        ),
        SkillSpec(
            "pickup", "pickup X", 1, "Walk to a thing and take it; the hand must be empty.", other_names=("pick up", "pick-up")
        ),
        SkillSpec("drop", "drop", 0, "Put down what is held, here."),
        SkillSpec(
            "put",
            "put X next to Y\nput X in Y",
            2,
            "Carry what is held to another thing, or into an open box, and put it down there.",
            joints=("next to", "in"),
            other_names=("place",),
            other_joints=(("into", "in"), ("inside of", "in"), ("inside", "in"), ("beside", "next to"), ("adjacent to", "next to")),
        ),
        SkillSpec("open", "open X", 1, "Walk to a closed door or box and open it."),
        SkillSpec("unlock", "unlock X", 1, "Walk to a locked door and unlock it; the key of its color must be held."),
        SkillSpec("explore", "explore", 0, "Walk to a place that was not seen yet, to find what is missing."),
        SkillSpec("done", "done", 0, "Declare the task finished; this ends the episode."),
    )
}
"""The skills by name, in the order in which the system text lists them."""


@dataclass(frozen=True)
class SkillCall:
    """One skill with its arguments."""

    name: str
    """Name of the skill, as in ``SKILLS``."""
    args: tuple[str, ...] = ()
    """Its arguments, such as ``red ball in kitchen``."""
    joint: str = ""
    """The words between two arguments, "next to" or "in"; empty for other skills."""

    @property
    def text(self) -> str:
        """The skill as a line of a plan, which ``parse_skill`` reads back."""
        words = f" {self.joint} ".join(self.args) if self.joint else " ".join(self.args)
        return f"{self.name} {words}".strip()
