"""Parameters of the household."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from envs.household.subgoals import KINDS

Verbosity = Literal["terse", "verbose"]
Rate = Annotated[float, Field(ge=0, le=1)]


class DisturbanceRates(BaseModel):
    """Probability of each disturbance per environment step (``skill_fails``: per interaction with an object)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    door_closes: Rate = 0.01
    door_locks: Rate = 0.002
    object_moves: Rate = 0.004
    item_knocked: Rate = 0.005
    skill_fails: Rate = 0.04
    goal_changes: Rate = 0.002

    @classmethod
    def none(cls) -> "DisturbanceRates":
        """A quiet household."""
        return cls(door_closes=0, door_locks=0, object_moves=0, item_knocked=0, skill_fails=0, goal_changes=0)


class HouseholdConfig(BaseModel):
    """What a household is made of. ``tour`` rooms are inspected before the other subgoals begin.

    Counts are what is asked for: there are fewer doors where the house has fewer ways between rooms, fewer locked ones where too
    few doors are the only way to a room, and fewer subgoals where the house offers no more of these ``kinds`` (none is an error).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(default=2, ge=1, le=3)
    cols: int = Field(default=3, ge=1, le=3)
    room_size: int = Field(default=6, ge=5, le=9)
    objects: int = Field(default=6, ge=1, le=12)
    boxes: int = Field(default=1, ge=0, le=6)
    doors: int = Field(default=4, ge=0, le=6)
    locked_doors: int = Field(default=1, ge=0, le=2)
    subgoals: int = Field(default=3, ge=1, le=40)
    tour: int = Field(default=0, ge=0, le=9)
    kinds: tuple[str, ...] = ("bring", "bring", "next_to", "inside", "open", "unlock")
    disturbances: DisturbanceRates = DisturbanceRates()
    verbosity: Verbosity = "terse"
    max_steps: int = Field(default=500, ge=1)

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
