"""A house of two rooms, one door and what the test puts into it, and an agent that does one skill at a time in it."""

from collections.abc import Callable
from typing import Any

from minigrid.core.world_object import Ball, Key, WorldObj

from agents.gridworld.belief import Belief
from agents.gridworld.skills import start_skill
from agents.world import Outcome
from envs import DisturbanceRates, HouseholdEnv
from envs.household.containers import Container
from planner import parse_skill

EAST, SOUTH, WEST, NORTH = range(4)
KINDS = {"ball": Ball, "key": Key, "box": Container}


class EndlessHousehold(HouseholdEnv):
    """A household whose task is never done."""

    def _advance(self) -> None:
        return


class SmallHouse:
    """Rooms ``here`` (cells 1..4, 1..4) and ``there`` (6..9, 1..4) with a closed ``door`` between them at (5, y); nothing else.

    The agent stands at (1, 1) and looks east.
    """

    def __init__(self, skill_fails: float = 0.0) -> None:
        rates = DisturbanceRates.none().model_copy(update={"skill_fails": skill_fails})
        self.env = EndlessHousehold(rows=1, cols=2, objects=1, boxes=0, doors=1, locked_doors=0, disturbances=rates)
        self.env.reset(seed=0)
        self.door = self.env.doors()[0]
        for name in [name for name, thing in self.env.things.items() if thing is not self.door]:
            self.remove(name)
        self.here, self.there = self.env.room_names
        self.belief = Belief(self.env.room_names, unique_names=True)
        self.stand((1, 1), EAST)

    def put(self, name: str, cell: tuple[int, int], inside: str | None = None, is_open: bool = False) -> WorldObj:
        """A thing at a cell, such as ``red ball``; a box may hold another one and be open."""
        color, kind = name.split()
        thing = KINDS[kind](color)
        self.env.things[name] = thing
        self.env.put_obj(thing, *cell)
        if inside:
            content = KINDS[inside.split()[1]](inside.split()[0])
            self.env.things[inside] = thing.contains = content
            content.cur_pos = thing.cur_pos
        if kind == "box":
            thing.is_open = is_open
        return thing

    def remove(self, name: str) -> None:
        """Take a thing out of the house."""
        thing = self.env.things.pop(name)
        if self.env.grid.get(*thing.cur_pos) is thing:
            self.env.grid.set(*thing.cur_pos, None)

    def move(self, name: str, cell: tuple[int, int]) -> None:
        """Carry a thing elsewhere."""
        self.env.relocate(self.env.things[name], cell)

    def hold(self, name: str) -> None:
        """Give the agent a thing into its hand."""
        self.put(name, (4, 4))
        self.env.grid.set(4, 4, None)
        self.env.carrying = self.env.things[name]
        self.look()

    def lock(self) -> None:
        """Lock the door."""
        self.door.is_open, self.door.is_locked = False, True

    def stand(self, cell: tuple[int, int], direction: int) -> None:
        """Put the agent there, and let it look."""
        self.env.agent_pos, self.env.agent_dir = cell, direction
        self.look()

    def face_door(self) -> str:
        """Put the agent in front of the door; the door's name."""
        x, y = map(int, self.door.cur_pos)
        self.stand((x - 1, y), EAST)
        return f"{self.door.color} door"

    def look(self, action: int | None = None) -> None:
        """Let the agent see what is in view."""
        self.belief.update(self.env.gen_obs(), action)

    def look_around(self) -> None:
        """Let the agent see in all four directions from where it stands."""
        for direction in (SOUTH, WEST, NORTH, EAST):
            self.stand(tuple(map(int, self.env.agent_pos)), direction)

    def do(self, text: str, meddle: Callable[[int], Any] | None = None) -> Outcome:
        """Run one skill to its end; ``meddle(n)`` is called before its n-th action (from 0)."""
        run = start_skill(self.belief, parse_skill(text))
        self.actions: list[int] = []
        try:
            while True:
                action = next(run)
                if meddle:
                    meddle(len(self.actions))
                self.actions.append(action)
                observation, *_ = self.env.step(action)
                self.belief.update(observation, action)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome
