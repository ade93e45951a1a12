"""The household as a gymnasium environment."""

from typing import Any

import numpy as np
from gymnasium import spaces
from minigrid.core.world_object import WorldObj
from minigrid.envs.babyai.core.roomgrid_level import BabyAIMissionSpace

from envs.household import disturbances, layout
from envs.household.config import HouseholdConfig
from envs.household.containers import Container
from envs.household.foresight import gifts
from envs.household.house import House
from envs.household.inventory import Inventory, age, survey
from envs.household.subgoals import KINDS, Subgoal
from envs.household.tasks import TaskWriter, tour, without_gifts
from envs.observation.ansi import MODE, draw_text, with_ansi
from envs.observation.arguments import check_action, check_seed, refuse_options
from envs.observation.embodied import Observation, embodied, embodied_space, view_cells
from envs.observation.episode import EpisodeOverError, goal_info


class HouseholdEnv(House):
    """A house of named rooms with doors, boxes and things, a list of subgoals, and disturbances that change it meanwhile.

    ## Mission

    The text of the open subgoal, such as "bring red ball to kitchen"; empty when all are done. ``info["subgoals"]`` lists all of
    them in the order in which they are due. A disturbance may change the open one.

    ## Inventory

    With ``inventory=True``, ``info["inventory"]`` at ``reset`` is a survey of the house (see ``envs.household.inventory``) that is
    partly out of date: a share ``stale`` of the things has been moved to another room since, and a door may have been locked.

    ## Actions

    Minigrid's seven: left, right, forward, pickup, drop, toggle, done. In front of an open box, pickup takes its content, and drop
    puts the held thing into it if it is empty.

    ## Observation

    Minigrid's partial view (``image``, ``direction``, ``mission``), the agent's ``pose`` (column, row), and ``rooms``, the index of
    the room of each cell in view (-1 for walls, doorways and cells that are not visible).

    ## Rewards

    1 / number of subgoals for each subgoal, when it is reached. No subgoal is reached without an act of the agent's: none holds
    when the episode begins, and no disturbance fulfils one.

    ## Termination

    The episode terminates when the last subgoal is reached, and is truncated after ``max_steps`` steps.

    Parameters
    ----------
    render_mode
        ``rgb_array``, ``human``, ``ansi`` (a text) or ``None``.
    **parameters
        Fields of ``HouseholdConfig``.
    """

    unique_names = True
    """No two things of a household share type and colour."""
    observation_space: spaces.Dict
    metadata = with_ansi(House.metadata)

    def __init__(self, render_mode: str | None = None, **parameters: Any) -> None:
        self.config = HouseholdConfig(**parameters)
        self.room_names: tuple[str, ...] = ()
        self.things: dict[str, WorldObj] = {}
        self.subgoals: list[Subgoal] = []
        self.done_count = self.goal_changes = self.seed_value = 0
        self.over = True
        self.inventory: Inventory | None = None
        super().__init__(
            room_size=self.config.room_size,
            num_rows=self.config.rows,
            num_cols=self.config.cols,
            max_steps=self.config.max_steps,
            mission_space=BabyAIMissionSpace(),
            render_mode=render_mode,
        )
        self.observation_space = embodied_space(self.observation_space, self.agent_view_size, self.width, self.height)
        self.seen = np.zeros((self.width, self.height), dtype=bool)

    # ---- gymnasium -------------------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in a new household.

        Parameters
        ----------
        seed
            Decides the house, the task and the disturbances; ``None`` draws on from the environment's own generator.
        options
            Must be empty: a household has none.

        Returns
        -------
        tuple
            The first observation and ``info`` (see ``goal_info``), with the ``inventory`` where there is one.

        Raises
        ------
        ValueError
            For a seed that is no integer of at least 0, and for any option.
        """
        seed = check_seed(seed)
        refuse_options(options, "a household")
        self.done_count = self.goal_changes = 0
        self.over = False
        self.seen = np.zeros((self.width, self.height), dtype=bool)
        self.subgoals = []
        _, info = super().reset(seed=seed)
        self._redraw_gifts()
        self.seed_value = int(self.np_random.integers(2**31))
        inventory = {} if self.inventory is None else {"inventory": self.inventory}
        return self.gen_obs(), {**info, **self._info([]), **inventory}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out an action, then this step's disturbances.

        Parameters
        ----------
        action
            One of minigrid's seven actions.

        Returns
        -------
        tuple
            Observation, reward, terminated, truncated, and ``info`` (see ``goal_info``).

        Raises
        ------
        EpisodeOverError
            Before the first ``reset`` and after the end of an episode.
        ValueError
            For an unknown action.
        """
        if self.over:
            raise EpisodeOverError(f"action {action} while no episode is under way: call reset() first")
        action = check_action(action)
        slipped = self._slips(action)
        carried = None if slipped else self._use_container(action)
        inert = slipped or carried is not None
        observation, _, _, truncated, info = super().step(self.actions.done if inert else action)
        events = disturbances.disturb(self, self.config.disturbances, self.seed_value, self.step_count)
        events += ["skill failed"] if slipped else []
        before = self.done_count
        self._advance()
        if events or inert or self.done_count > before:
            self._write_mission()
            observation = self.gen_obs()
        success = self.done_count == len(self.subgoals)
        self.over = success or truncated
        reward = (self.done_count - before) / len(self.subgoals)
        return observation, reward, success, truncated and not success, {**info, **self._info(events)}

    def render(self) -> Any:
        """Draw the house in the environment's render mode; ``ansi`` gives a text (see ``draw_text``)."""
        return draw_text(self, self.room_names) if self.render_mode == MODE else super().render()

    def gen_obs(self) -> Observation:
        """Return the observation of the present state, and count the cells in view as seen."""
        observation = embodied(self, super().gen_obs())
        x, y = map(int, self.agent_pos)
        cells = view_cells(x, y, int(self.agent_dir), self.agent_view_size)[observation["image"][..., 0] != 0]
        inside = (cells >= 0).all(1) & (cells[:, 0] < self.width) & (cells[:, 1] < self.height)
        self.seen[cells[inside, 0], cells[inside, 1]] = True
        return observation

    def _gen_grid(self, width: int, height: int) -> None:
        super()._gen_grid(width, height)
        layout.build(self, self.config, self.np_random)
        if self.config.inventory:
            self.inventory = survey(self)
            age(self, self.config.stale, self.np_random.spawn(1)[0])
        self.subgoals = tour(self, self.config.tour)
        self.subgoals += TaskWriter(self, self.np_random).write(self.config.kinds, self.config.subgoals)
        self._write_mission()

    def _redraw_gifts(self) -> None:
        """Replace the subgoals that the first view or the layout fulfils; the generator of all other draws stays as it is."""
        count, own = len(self.subgoals), self.np_random.spawn(1)[0]
        goals = tour(self, self.config.tour) + self.subgoals[self.config.tour :]
        self.subgoals = without_gifts(self, goals, count, self.config.kinds, own)
        self._write_mission()

    def _write_mission(self) -> None:
        if not self.subgoals:
            kinds = ", ".join(dict.fromkeys(self.config.kinds))
            raise ValueError(f"this household offers no subgoal of the kinds {kinds}: add kinds, objects, boxes or locked doors")
        self.mission = self.subgoals[self.done_count].text if self.done_count < len(self.subgoals) else ""

    def _info(self, events: list[str]) -> dict[str, Any]:
        goals = [(goal.text, index < self.done_count) for index, goal in enumerate(self.subgoals)]
        return goal_info(goals, self.done_count == len(goals), events)

    def _advance(self) -> None:
        """Count the subgoals that are reached, in order; the first one that is not becomes the open one."""
        while self.done_count < len(self.subgoals):
            goal = self.subgoals[self.done_count]
            if not KINDS[goal.kind].reached(self, goal):
                break
            self.done_count += 1

    def gifts(self) -> set[str]:
        """Return the texts of the open subgoals that hold without an act of the agent's, or because of an earlier act."""
        return {goal.text for goal in gifts(self, self.subgoals[self.done_count :])}

    def replace_open_subgoal(self, rng: np.random.Generator) -> bool:
        """Put another subgoal in the place of an open one; return whether one was found.

        It is the one that is due or, with ``any_goal_changes``, any open one. A tour stays as it is, and so does a goal that has
        changed ``max_goal_changes`` times.
        """
        left = len(self.subgoals) - self.done_count
        if left == 0 or self.goal_changes >= self.config.max_goal_changes:
            return False
        index = self.done_count + (int(rng.integers(left)) if self.config.any_goal_changes else 0)
        if self.subgoals[index].kind == "inspect":
            return False
        before, rest, held = self.subgoals[self.done_count : index], self.subgoals[index + 1 :], self.gifts()
        writer = TaskWriter(self, rng)
        writer.follow(before)
        fresh = [g for g in writer.write(("bring", "next_to"), 2) if g not in self.subgoals]
        fresh = [g for g in fresh if {gift.text for gift in gifts(self, [*before, g, *rest])} <= held]
        if self.config.any_goal_changes:
            fresh = [g for g in fresh if TaskWriter(self, rng).allows([*before, g, *rest])]
        if fresh:
            self.subgoals[index] = fresh[0]
            self.goal_changes += 1
            self._write_mission()
        return bool(fresh)

    # ---- interactions ----------------------------------------------------------------------------------------------------------

    def _slips(self, action: Any) -> bool:
        interacts = action in (self.actions.pickup, self.actions.drop, self.actions.toggle)
        return interacts and disturbances.slips(self.seed_value, self.step_count + 1, self.config.disturbances.skill_fails)

    def _use_container(self, action: Any) -> WorldObj | None:
        """Take from, or put into, the open box in front; return what was moved, or ``None``."""
        box = self.grid.get(*self.front_pos)
        if not isinstance(box, Container) or not box.is_open:
            return None
        if action == self.actions.pickup and self.carrying is None and box.contains is not None:
            taken = box.contains
            self.carrying, box.contains, taken.cur_pos = taken, None, np.array([-1, -1])
            return taken
        if action == self.actions.drop and self.carrying is not None and box.contains is None:
            box.contains, self.carrying = self.carrying, None
            box.contains.cur_pos = box.cur_pos
            return box.contains
        return None
