"""Parameters of the household."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from envs.household.subgoals import KINDS
from envs.observation.describe import Verbosity

Rate = Annotated[float, Field(ge=0, le=1)]
"""A probability."""


class DisturbanceRates(BaseModel):
    """Probability of each disturbance, per environment step unless the field says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    door_closes: Rate = 0.01
    """Probability per step that an open door falls shut."""
    door_locks: Rate = 0.002
    """Probability per step that a door locks."""
    object_moves: Rate = 0.004
    """Probability per step that a thing on the floor is carried elsewhere."""
    item_knocked: Rate = 0.005
    """Probability per step that the held thing is knocked out of the agent's hand."""
    skill_fails: Rate = 0.04
    """Probability per interaction (pick up, drop, toggle) that it has no effect."""
    goal_changes: Rate = 0.002
    """Probability per step that another subgoal replaces the open one."""

    @classmethod
    def none(cls) -> "DisturbanceRates":
        """Return the rates of a quiet household: all 0."""
        return cls(door_closes=0, door_locks=0, object_moves=0, item_knocked=0, skill_fails=0, goal_changes=0)


class HouseholdConfig(BaseModel):
    """The parameters of a household.

    Counts are upper bounds. A house has fewer doors where it has fewer ways between rooms. It has fewer locked doors where fewer
    doors are the only way to a room. It has fewer subgoals where it offers no more of these ``kinds``; none at all is an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(default=2, ge=1, le=3)
    """Number of rows of rooms."""
    cols: int = Field(default=3, ge=1, le=3)
    """Number of rooms in a row."""
    room_size: int = Field(default=6, ge=5, le=9)
    """Side of a room in cells, both walls included."""
    objects: int = Field(default=6, ge=1, le=12)
    """Number of balls and keys, without the keys of the locked doors."""
    boxes: int = Field(default=1, ge=0, le=6)
    """Number of boxes."""
    boxed: Rate = 0.34
    """Probability of each ball or key to be in a box, as long as a box is empty."""
    doors: int = Field(default=4, ge=0, le=6)
    """Number of doors; the other ways between rooms are open doorways."""
    locked_doors: int = Field(default=1, ge=0, le=2)
    """Number of doors that are locked at the start."""
    subgoals: int = Field(default=3, ge=1, le=40)
    """Number of subgoals after the tour."""
    tour: int = Field(default=0, ge=0, le=9)
    """Number of rooms to inspect before the other subgoals."""
    kinds: tuple[str, ...] = ("bring", "bring", "next_to", "inside", "open", "unlock")
    """Kinds of subgoals to draw from, by their names in ``KINDS``; a kind named twice is drawn twice as often."""
    disturbances: DisturbanceRates = DisturbanceRates()
    """Probabilities of the disturbances."""
    max_goal_changes: int = Field(default=2, ge=0)
    """How often the goal may change in an episode."""
    any_goal_changes: bool = False
    """Whether a changed goal is any of the open subgoals, instead of the one that is due."""
    inventory: bool = False
    """Whether the agent is given an inventory of the house: ``info["inventory"]`` at ``reset``."""
    stale: Rate = 0.25
    """Share of the things in the inventory that have been moved to another room since; at least one thing."""
    verbosity: Verbosity = "terse"
    """How much the text of an observation says."""
    max_steps: int = Field(default=500, ge=1)
    """Environment steps after which the episode is truncated."""

    @model_validator(mode="after")
    def _consistent(self) -> "HouseholdConfig":
        rooms = self.rows * self.cols
        if rooms < 2:
            raise ValueError(f"rows={self.rows}, cols={self.cols} give {rooms} room: a household has at least 2, raise one of them")
        if self.locked_doors > self.doors:
            raise ValueError(f"locked_doors={self.locked_doors} exceeds doors={self.doors}: lock no more doors than there are")
        if self.tour > rooms:
            raise ValueError(f"tour={self.tour} exceeds the {rooms} rooms: a tour visits each room at most once")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ValueError(f"kinds={self.kinds} must be one or more of {', '.join(KINDS)}")
        return self
