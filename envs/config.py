"""Parameters of the household."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Verbosity = Literal["terse", "verbose"]
Rate = float


class DisturbanceRates(BaseModel):
    """Probability of each disturbance per environment step (``skill_fails``: per interaction with an object)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    door_closes: Rate = Field(0.01, ge=0, le=1)
    door_locks: Rate = Field(0.002, ge=0, le=1)
    object_moves: Rate = Field(0.004, ge=0, le=1)
    item_knocked: Rate = Field(0.005, ge=0, le=1)
    skill_fails: Rate = Field(0.04, ge=0, le=1)
    goal_changes: Rate = Field(0.002, ge=0, le=1)

    @classmethod
    def none(cls) -> "DisturbanceRates":
        """A quiet household."""
        return cls(door_closes=0, door_locks=0, object_moves=0, item_knocked=0, skill_fails=0, goal_changes=0)


class HouseholdConfig(BaseModel):
    """What a household is made of. Counts are exact; ``tour`` rooms are inspected before the other subgoals begin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(2, ge=1, le=3)
    cols: int = Field(3, ge=1, le=3)
    room_size: int = Field(6, ge=5, le=9)
    objects: int = Field(6, ge=1, le=12)
    boxes: int = Field(1, ge=0, le=6)
    doors: int = Field(4, ge=0, le=6)
    locked_doors: int = Field(1, ge=0, le=2)
    subgoals: int = Field(3, ge=1, le=40)
    tour: int = Field(0, ge=0, le=9)
    kinds: tuple[str, ...] = ("bring", "bring", "next_to", "inside", "open", "unlock")
    disturbances: DisturbanceRates = DisturbanceRates()
    verbosity: Verbosity = "terse"
    max_steps: int = Field(500, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> "HouseholdConfig":
        rooms = self.rows * self.cols
        if rooms < 2:
            raise ValueError(f"rows={self.rows}, cols={self.cols} give {rooms} room: a household has at least 2, raise rows or cols")
        if self.locked_doors > self.doors:
            raise ValueError(f"locked_doors={self.locked_doors} exceeds doors={self.doors}: lock at most as many doors as there are")
        if self.tour > rooms:
            raise ValueError(f"tour={self.tour} exceeds the {rooms} rooms: a tour visits each room at most once")
        return self
