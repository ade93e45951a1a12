"""Levels that need more than rooms with space in them: rooms of one cell, boxes that vanish, circles to break out of."""

import gymnasium as gym
import pytest
from minigrid.core.mission import MissionSpace
from minigrid.core.roomgrid import RoomGrid
from minigrid.core.world_object import Ball, Box, Key

from agents.gridworld.belief import Belief
from agents.gridworld.expert import expert_plan
from agents.gridworld.situation import assess
from agents.gridworld.skills import start_skill
from agents.gridworld.task_plan import plan_avoiding
from agents.world import OK, failed
from envs import make_env
from planner import parse_skill

EAST, SOUTH, WEST, NORTH = range(4)


class PickUpTheBall(RoomGrid):
    """A level whose task is to pick up a red ball; ``furnish`` lays it out."""

    def __init__(self, rooms=(1, 2), room_size=6, **kwargs):
        space = MissionSpace(mission_func=lambda: "pick up the red ball")
        super().__init__(num_rows=rooms[0], num_cols=rooms[1], room_size=room_size, max_steps=300, mission_space=space, **kwargs)

    def _gen_grid(self, width, height):
        super()._gen_grid(width, height)
        self.mission = "pick up the red ball"
        self.agent_pos, self.agent_dir = (1, 1), EAST
        self.furnish()

    def furnish(self):
        raise NotImplementedError

    def step(self, action):
        *result, info = super().step(action)
        if self.carrying is not None and (self.carrying.type, self.carrying.color) == ("ball", "red"):
            result[1:3] = 1.0, True
        return (*result, info)


class BallInABox(PickUpTheBall):
    """The ball lies in one of three boxes; the first two hold nothing."""

    def furnish(self):
        self.add_door(0, 0, 0, "grey", locked=False)
        for cell, box in {(3, 1): Box("blue"), (3, 4): Box("red"), (8, 2): Box("blue", Ball("red"))}.items():
            self.put_obj(box, *cell)


class BoxInABox(PickUpTheBall):
    """The ball lies in a box in a box of the same colour."""

    def furnish(self):
        self.put_obj(Box("blue", Box("blue", Ball("red"))), 3, 3)


class OneCellRooms(PickUpTheBall):
    """Three rooms of one cell: a key, the agent, and the ball behind a locked door."""

    def __init__(self, **kwargs):
        super().__init__((1, 3), 3, **kwargs)

    def furnish(self):
        self.agent_pos = (3, 1)
        self.add_door(0, 0, 0, "blue", locked=False)
        self.add_door(1, 0, 0, "green", locked=True)
        self.put_obj(Key("green"), 1, 1)
        self.put_obj(Ball("red"), 5, 1)


class TwoOfAName(PickUpTheBall):
    """Two blue balls: one walled in behind the other, and nearer."""

    def furnish(self):
        self.agent_pos = (1, 1)
        for color, cell in (("blue", (1, 4)), ("grey", (2, 4)), ("blue", (1, 3)), ("red", (4, 4))):
            self.put_obj(Ball(color), *cell)


@pytest.fixture
def level(monkeypatch):
    """``level(cls)``: the id of a level of this class, registered for the test."""
    ids = []

    def register(cls):
        ids.append(f"ERecapTest-{cls.__name__}-v0")
        gym.register(ids[-1], entry_point=cls)
        return ids[-1]

    yield register
    for name in ids:
        gym.registry.pop(name)


class Agent:
    """An agent in a level that does one skill at a time."""

    def __init__(self, env_id, seed=0):
        self.env = make_env(env_id)
        observation, _ = self.env.reset(seed=seed)
        self.belief = Belief(self.env.room_names)
        self.belief.update(observation)

    def explore(self):
        while assess(self.belief).unexplored:
            assert self.do("explore") == OK

    def do(self, text):
        run = start_skill(self.belief, parse_skill(text))
        try:
            while True:
                action = next(run)
                self.belief.update(self.env.step(action)[0], action)
        except StopIteration as stop:
            return stop.value


# ---- rooms of one cell ---------------------------------------------------------------------------------------------------------


def test_a_thing_that_fills_its_room_is_named_as_what_blocks_it(level):
    agent = Agent(level(OneCellRooms))
    agent.explore()
    blocked = assess(agent.belief).blocked["kitchen"]
    assert blocked.thing.name == "green key"
    assert agent.do("goto kitchen") == failed("way blocked by green key")
    assert expert_plan(agent.belief, "pick up green key") == "pickup green key in kitchen"


def test_a_thing_is_dropped_from_a_doorway_where_it_blocks_nothing(level):
    agent = Agent(level(OneCellRooms))
    agent.explore()
    assert agent.do("pickup green key in kitchen") == OK
    assert agent.do("unlock green door in bedroom") == OK
    agent.explore()
    plan = expert_plan(agent.belief, "pick up red ball")
    assert plan.splitlines() == ["goto kitchen", "drop", "pickup red ball in bathroom"]
    assert [agent.do(line) for line in plan.splitlines()[:2]] == [OK, OK]
    assert agent.env.unwrapped.grid.get(1, 1).type == "key"


def test_a_drop_finds_a_place_although_the_room_is_full(level):
    agent = Agent(level(OneCellRooms))
    agent.explore()
    agent.do("pickup green key in kitchen")
    agent.do("unlock green door in bedroom")
    assert agent.do("drop") == OK
    assert agent.env.unwrapped.carrying is None


@pytest.mark.parametrize("env_id", ["MiniGrid-KeyCorridorS3R1-v0", "MiniGrid-KeyCorridorS3R3-v0", "BabyAI-KeyCorridorS3R2-v0"])
def test_corridors_of_cells(players, env_id):
    assert all(players.play(env_id, seed=seed).end.success for seed in range(1_000_000, 1_000_003))


# ---- boxes that vanish ---------------------------------------------------------------------------------------------------------


def test_opening_a_box_of_a_level_succeeds_and_shows_what_was_in_it(level):
    agent = Agent(level(BallInABox))
    agent.explore()
    assert agent.do("open red box in kitchen") == OK
    assert agent.do("open blue box in bedroom") == OK
    assert agent.do("pickup red ball in bedroom") == OK


def test_a_box_in_a_box_like_it(players, level):
    run = players.play(level(BoxInABox))
    assert run.end.success
    assert {(step.skill, step.outcome) for step in run.steps if step.skill.startswith("open")} == {
        ("open blue box in kitchen", "ok")
    }


def test_boxes_are_offered_only_where_all_else_was_tried(players, level):
    run = players.play(level(BallInABox))
    offered = ["Unopened:" in text for text in run.observations]
    explored = ["Unexplored: no" in text for text in run.observations]
    assert any(offered)
    assert all(explored[index] for index, is_offered in enumerate(offered) if is_offered)
    assert run.end.success
    assert all(step.succeeded for step in run.steps)


@pytest.mark.parametrize("env_id", ["BabyAI-GoToLocal-v0", "BabyAI-Pickup-v0", "BabyAI-UnlockPickupDist-v0"])
def test_boxes_that_are_of_no_use_are_not_offered(players, env_id):
    runs = [players.play(env_id, seed=seed) for seed in range(1_000_000, 1_000_004)]
    assert any("box" in text for run in runs for text in run.observations)
    assert not any("Unopened" in text for run in runs for text in run.observations)


def test_a_box_that_the_goal_names_is_opened_last(level):
    agent = Agent(level(BallInABox))
    agent.explore()
    assert expert_plan(agent.belief, "put red ball next to blue box") == "open red box in kitchen"


@pytest.mark.parametrize(
    "env_id",
    ["BabyAI-KeyInBox-v0", "MiniGrid-ObstructedMaze-1Dlh-v0", "MiniGrid-ObstructedMaze-2Dlhb-v1", "MiniGrid-ObstructedMaze-1Q-v1"],
)
def test_keys_in_boxes(players, env_id):
    assert all(players.play(env_id, seed=seed).end.success for seed in range(1_000_000, 1_000_003))


# ---- going round in circles ----------------------------------------------------------------------------------------------------


def test_of_two_of_a_name_the_one_within_reach_is_meant(level):
    agent = Agent(level(TwoOfAName))
    agent.explore()
    assert agent.do("goto grey ball") == OK
    assert agent.do("pickup blue ball") == OK


@pytest.mark.parametrize("horizon", ["subgoal", "task"])
def test_the_expert_tries_one_thing_after_the_other_where_plans_are_forbidden(level, horizon):
    agent, tried = Agent(level(OneCellRooms)), []
    agent.explore()
    for _ in range(3):
        plan = plan_avoiding(agent.belief, ["pick up red ball"], [1], horizon, tried)
        assert not any(f"{plan}\n".startswith(f"{beginning}\n") for beginning in tried)
        tried.append(plan)
    assert tried[0].splitlines()[0].removeprefix("1. ") == expert_plan(agent.belief, "pick up red ball").splitlines()[0]
    assert all(plan.startswith("1. ") == (horizon == "task") for plan in tried)


def test_where_all_is_forbidden_the_expert_still_answers(level):
    agent, tried = Agent(level(OneCellRooms)), []
    agent.explore()
    for _ in range(60):
        tried.append(plan_avoiding(agent.belief, ["pick up red ball"], [1], "subgoal", tried))
    assert all(tried)
    assert plan_avoiding(agent.belief, [], [], "task", ["done"]) == "done"
