"""The planner's actions: names, arguments, and how each is written. What they do is the controller's business (``agents``)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SkillSpec:
    """One skill. ``joint`` is the words between the two arguments of a skill that takes two."""

    name: str
    usage: str
    arity: int
    joints: tuple[str, ...] = ()


SKILLS: dict[str, SkillSpec] = {
    spec.name: spec
    for spec in (
        SkillSpec("goto", "goto X", 1),
        SkillSpec("pickup", "pickup X", 1),
        SkillSpec("drop", "drop", 0),
        SkillSpec("put", "put X next to Y\nput X in Y", 2, ("next to", "in")),
        SkillSpec("open", "open X", 1),
        SkillSpec("unlock", "unlock X", 1),
        SkillSpec("explore", "explore", 0),
        SkillSpec("done", "done", 0),
    )
}


@dataclass(frozen=True)
class SkillCall:
    """One skill with its arguments. ``joint`` is "next to" or "in" for ``put``, else empty."""

    name: str
    args: tuple[str, ...] = ()
    joint: str = ""

    @property
    def text(self) -> str:
        """The skill as a plan writes it; ``parse_plan`` reads it back."""
        words = f" {self.joint} ".join(self.args) if self.joint else " ".join(self.args)
        return f"{self.name} {words}".strip()
