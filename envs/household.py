"""The household: named rooms, doors, boxes, and a list of subgoals to reach in order, while the house does not stand still.

Built on minigrid's grid, objects, ``RoomGrid`` and renderer.

Mission: the subgoals in order, joined by "; " (they are also in ``info``).
Actions: minigrid's seven: left, right, forward, pickup, drop, toggle, done. Picking up in front of an open box takes its content;
    dropping in front of an open, empty box fills it.
Observation: minigrid's partial view (``image``, ``direction``, ``mission``) with ``pose`` and ``rooms`` (see ``envs.embodied``).
Rewards: 1 / number of subgoals for each subgoal, when it is reached.
Termination: when the last subgoal is reached; truncation after ``max_steps``.
"""

from typing import Any

import numpy as np
from minigrid.core.roomgrid import RoomGrid
from minigrid.core.world_object import Door, WorldObj
from minigrid.envs.babyai.core.roomgrid_level import BabyAIMissionSpace

from envs import disturbances, layout
from envs.config import HouseholdConfig
from envs.containers import Container
from envs.embodied import Observation, embodied, embodied_space, goal_info, room_indices, view_cells
from envs.subgoals import KINDS, Subgoal
from envs.tasks import TaskWriter, tour

Cell = tuple[int, int]


class EpisodeOverError(ValueError):
    """An action after the end of the episode."""


class HouseholdEnv(RoomGrid):
    """See the module's docstring; the keyword arguments are the fields of ``HouseholdConfig``."""

    unique_names = True

    def __init__(self, render_mode: str | None = None, **parameters: Any) -> None:
        self.config = HouseholdConfig(**parameters)
        self.room_names: tuple[str, ...] = ()
        self.things: dict[str, WorldObj] = {}
        self.subgoals: list[Subgoal] = []
        self.done_count = self.goal_changes = self.seed_value = 0
        self.over = False
        super().__init__(
            room_size=self.config.room_size, num_rows=self.config.rows, num_cols=self.config.cols, max_steps=self.config.max_steps,
            mission_space=BabyAIMissionSpace(), render_mode=render_mode,
        )
        self.observation_space = embodied_space(self.observation_space, self.agent_view_size, self.width, self.height)
        self.seen = np.zeros((self.width, self.height), dtype=bool)

    # ---- gymnasium -------------------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """A new household. Without a seed the next one of the environment's own generator."""
        self.done_count = self.goal_changes = 0
        self.over = False
        self.seen = np.zeros((self.width, self.height), dtype=bool)
        self.subgoals = []
        _, info = super().reset(seed=seed, options=options)
        self.seed_value = int(self.np_random.integers(2**31))
        self._advance()
        return self.gen_obs(), {**info, **self._info([])}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One of minigrid's actions, then this step's disturbances. Raises ``EpisodeOverError`` after the end."""
        if self.over:
            raise EpisodeOverError(f"action {action} after the end of the episode: call reset() first")
        slipped = self._slips(action)
        carried = None if slipped else self._use_container(action)
        inert = slipped or carried is not None
        observation, _, _, truncated, info = super().step(self.actions.done if inert else action)
        events = disturbances.disturb(self, self.seed_value, self.step_count) + (["skill failed"] if slipped else [])
        before = self.done_count
        self._advance()
        if events or inert:
            observation = self.gen_obs()
        observation["mission"] = self.mission
        success = self.done_count == len(self.subgoals)
        self.over = success or truncated
        reward = (self.done_count - before) / len(self.subgoals)
        return observation, reward, success, truncated and not success, {**info, **self._info(events)}

    def gen_obs(self) -> Observation:
        """Minigrid's view with pose and rooms; what is in view counts as seen."""
        observation = embodied(self, super().gen_obs())
        cells = view_cells(*map(int, self.agent_pos), int(self.agent_dir), self.agent_view_size)[observation["image"][..., 0] != 0]
        inside = (cells >= 0).all(1) & (cells[:, 0] < self.width) & (cells[:, 1] < self.height)
        self.seen[cells[inside, 0], cells[inside, 1]] = True
        return observation

    def _gen_grid(self, width: int, height: int) -> None:
        super()._gen_grid(width, height)
        layout.build(self)
        walk = tour(self, self.config.tour)
        self.subgoals = walk + TaskWriter(self, self.np_random).write(self.config.kinds, self.config.subgoals)
        self._write_mission()

    def _write_mission(self) -> None:
        self.mission = "; ".join(goal.text for goal in self.subgoals)

    def _info(self, events: list[str]) -> dict[str, Any]:
        goals = [(goal.text, index < self.done_count) for index, goal in enumerate(self.subgoals)]
        return goal_info(goals, self.done_count == len(goals), events)

    def _advance(self) -> None:
        """Tick off subgoals in order, as far as they are reached."""
        while self.done_count < len(self.subgoals):
            goal = self.subgoals[self.done_count]
            if not KINDS[goal.kind].reached(self, goal):
                break
            self.done_count += 1

    def replace_open_subgoal(self, rng: np.random.Generator) -> bool:
        """Put another subgoal in the place of the open one; False where none can be found."""
        open_goal = self.subgoals[self.done_count] if self.done_count < len(self.subgoals) else None
        if open_goal is None or open_goal.kind == "inspect":
            return False
        fresh = [g for g in TaskWriter(self, rng).write(("bring", "next_to"), 2) if g not in self.subgoals]
        fresh = [g for g in fresh if not KINDS[g.kind].reached(self, g)]
        if fresh:
            self.subgoals[self.done_count] = fresh[0]
            self._write_mission()
        return bool(fresh)

    # ---- interactions ----------------------------------------------------------------------------------------------------------

    def _slips(self, action: Any) -> bool:
        interacts = action in (self.actions.pickup, self.actions.drop, self.actions.toggle)
        return interacts and disturbances.slips(self.seed_value, self.step_count + 1, self.config.disturbances.skill_fails)

    def _use_container(self, action: Any) -> WorldObj | None:
        """Take from, or put into, the open box in front; the thing that changed its place, or ``None``."""
        box = self.grid.get(*self.front_pos)
        if not isinstance(box, Container) or not box.is_open:
            return None
        if action == self.actions.pickup and self.carrying is None and box.contains is not None:
            self.carrying, box.contains = box.contains, None
            self.carrying.cur_pos = np.array([-1, -1])
            return self.carrying
        if action == self.actions.drop and self.carrying is not None and box.contains is None:
            box.contains, self.carrying = self.carrying, None
            box.contains.cur_pos = box.cur_pos
            return box.contains
        return None

    # ---- questions about the house ---------------------------------------------------------------------------------------------

    def room_at(self, x: int, y: int) -> int:
        """Index of the room at a cell; -1 for walls and doorways."""
        return int(room_indices(np.array((x, y)), self.room_size, self.num_cols, self.num_rows))

    def agent_room(self) -> int:
        """Index of the room that the agent is in, or next to while it stands in a doorway."""
        rooms = [self.room_at(*map(int, self.agent_pos)), *(self.room_at(*cell) for cell in self.neighbors(self.agent_pos))]
        return next(room for room in rooms if room >= 0)

    def is_inspected(self, room: int) -> bool:
        """Whether every cell of the room has been in view since the episode began."""
        x, y = self._corner(room)
        inner = self.room_size - 2
        return bool(self.seen[x : x + inner, y : y + inner].all())

    def room_of_thing(self, name: str) -> int:
        """Index of the room in which the thing is (with the agent, where the agent holds it)."""
        thing = self.things[name]
        return self.agent_room() if thing is self.carrying else self.room_at(*map(int, thing.cur_pos))

    def container_of(self, thing: WorldObj) -> WorldObj | None:
        """The box that holds the thing."""
        return next((box for box in self.things.values() if box.type == "box" and box.contains is thing), None)

    def doors(self) -> list[Door]:
        """All doors, in a fixed order."""
        return [door for _, door in self.door_items()]

    def door_items(self) -> list[tuple[str, Door]]:
        """Names and doors, in a fixed order."""
        return [(name, thing) for name, thing in self.things.items() if thing.type == "door"]

    def door_between(self, edge: tuple[int, int]) -> Door:
        """The door between two adjacent rooms."""
        room = self.get_room(edge[0] % self.num_cols, edge[0] // self.num_cols)
        return room.doors[0 if edge[1] == edge[0] + 1 and self.num_cols > 1 else 1]

    def box_names(self) -> list[str]:
        """Names of the boxes."""
        return [name for name, thing in self.things.items() if thing.type == "box"]

    def movable_names(self) -> list[str]:
        """Names of what can be carried."""
        return [name for name, thing in self.things.items() if thing.type in ("ball", "key")]

    def loose_things(self) -> list[WorldObj]:
        """What can be carried and lies on the floor."""
        things = [self.things[name] for name in self.movable_names()]
        return [thing for thing in things if thing is not self.carrying and self.container_of(thing) is None]

    def neighbors(self, position: Any) -> list[Cell]:
        """The four cells next to a position."""
        x, y = int(position[0]), int(position[1])
        return [(x + 1, y), (x, y + 1), (x - 1, y), (x, y - 1)]

    def is_agent_at(self, position: Any) -> bool:
        """Whether the agent stands there."""
        return bool(self.agent_pos[0] == position[0] and self.agent_pos[1] == position[1])

    def reachable(self) -> set[Cell]:
        """Cells that the agent can walk to through doors that are not locked."""
        start = (int(self.agent_pos[0]), int(self.agent_pos[1]))
        found, stack = {start}, [start]
        while stack:
            for cell in self.neighbors(stack.pop()):
                thing = self.grid.get(*cell)
                if cell not in found and (thing is None or (thing.type == "door" and not thing.is_locked)):
                    found.add(cell)
                    stack.append(cell)
        return found

    def is_key_reachable(self, color: str) -> bool:
        """Whether the agent holds the key of this colour or can walk up to it."""
        key = self.things.get(f"{color} key")
        if key is None or key is self.carrying:
            return key is not None
        reach = self.reachable()
        return any(cell in reach for cell in self.neighbors(key.cur_pos))

    def rooms_by_walk(self) -> list[int]:
        """All rooms in the order in which a walk from the agent's room comes to them (depth first)."""
        order: list[int] = []
        stack = [self.agent_room()]
        while stack:
            room = stack.pop()
            if room not in order:
                order.append(room)
                sides = self.get_room(room % self.num_cols, room // self.num_cols).doors
                steps = (1, self.num_cols, -1, -self.num_cols)
                stack.extend(room + step for side, step in zip(sides, steps, strict=True) if side and room + step not in order)
        return order

    # ---- changes ---------------------------------------------------------------------------------------------------------------

    def add_doorway(self, i: int, j: int, side: int) -> None:
        """An open way through a wall, one cell wide."""
        room = self.get_room(i, j)
        self.grid.set(*room.door_pos[side], None)
        room.doors[side] = room.neighbors[side].doors[(side + 2) % 4] = True

    def relocate(self, thing: WorldObj, cell: Cell) -> None:
        """Move a loose thing to a free cell."""
        self.grid.set(*map(int, thing.cur_pos), None)
        self.put_obj(thing, *cell)

    def free_cell(self, room: int, rng: np.random.Generator) -> Cell | None:
        """A random free cell of the room that blocks neither a doorway nor the way through the room; ``None`` where there is none."""
        cells = self._room_cells(room)
        free = {cell for cell in cells if self.grid.get(*cell) is None}
        for index in rng.permutation(len(cells)):
            cell = cells[index]
            if cell in free and not self.is_agent_at(cell) and not self._at_doorway(cell) and self._keeps_way(cell, cells, free):
                return cell
        return None

    def _at_doorway(self, cell: Cell) -> bool:
        return any(self.room_at(*near) < 0 and not self._is_wall(near) for near in self.neighbors(cell))

    def _is_wall(self, cell: Cell) -> bool:
        thing = self.grid.get(*cell)
        return thing is not None and thing.type == "wall"

    def _keeps_way(self, cell: Cell, cells: list[Cell], free: set[Cell]) -> bool:
        """Whether the rest of the room stays connected, and every thing in it (the new one too) within reach, with ``cell`` taken."""
        rest = free - {cell}
        if not rest:
            return False
        start = next(iter(rest))
        found, stack = {start}, [start]
        while stack:
            near = [n for n in self.neighbors(stack.pop()) if n in rest and n not in found]
            found.update(near)
            stack.extend(near)
        taken = [c for c in cells if c not in rest]
        return found == rest and all(any(n in rest for n in self.neighbors(c)) for c in taken)

    def _corner(self, room: int) -> Cell:
        pitch = self.room_size - 1
        return (room % self.num_cols) * pitch + 1, (room // self.num_cols) * pitch + 1

    def _room_cells(self, room: int) -> list[Cell]:
        x, y = self._corner(room)
        inner = range(self.room_size - 2)
        return [(x + i, y + j) for i in inner for j in inner]
