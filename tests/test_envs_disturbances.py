"""Disturbances: each strikes when it should and never when it must not, by seed and step alone, and the house stays solvable."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minigrid.core.actions import Actions

from envs import DisturbanceRates, make_env
from envs.household.disturbances import DISTURBANCES, slips
from envs.household.flood import flood
from envs.household.subgoals import Subgoal

EVENTS = {
    "door_closes": "door closed",
    "door_locks": "door locked",
    "object_moves": "moved",
    "item_knocked": "knocked away",
    "goal_changes": "goal changed",
    "skill_fails": "skill failed",
}


def rates(**changes):
    return DisturbanceRates.none().model_copy(update=changes)


def household(seed=1, **parameters):
    """A household with a locked door under the given rates (seed 1 has one)."""
    env = make_env("ERecap/Household-v0", disturbances=rates(**parameters)).unwrapped
    env.reset(seed=seed)
    assert any(door.is_locked for door in env.doors())
    return env


def ready_for_all(env):
    """Open all doors, and put a thing into the agent's hand."""
    for door in env.doors():
        door.is_locked, door.is_open = False, True
    if env.carrying is None:
        item = env.loose_things()[0]
        env.grid.set(*item.cur_pos, None)
        env.carrying, item.cur_pos = item, np.array([-1, -1])


def named(events):
    return {name for name, words in EVENTS.items() for event in events if event.endswith(words)}


def test_there_is_one_function_per_rate():
    assert {*DISTURBANCES, "skill_fails"} == set(DisturbanceRates.model_fields) == set(EVENTS)


@pytest.mark.parametrize("name", EVENTS)
def test_at_rate_1_it_happens_at_once_and_alone(name):
    env = household(**{name: 1.0})
    ready_for_all(env)
    info = env.step(Actions.toggle)[4]
    assert named(info["disturbances"]) == {name}
    assert len(info["disturbances"]) == 1


@pytest.mark.parametrize("name", EVENTS)
def test_at_rate_0_it_never_happens(name):
    env = household(**{**dict.fromkeys(EVENTS, 0.5), name: 0.0})
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        ready_for_all(env)
        info = env.step(int(rng.integers(6)))[4]
        seen |= named(info["disturbances"])
        if env.over:
            env.reset()
    assert seen == set(EVENTS) - {name}


def test_a_quiet_household_has_no_events():
    env = household()
    for _ in range(50):
        ready_for_all(env)
        assert env.step(Actions.left)[4]["disturbances"] == []


def test_what_an_event_does_to_the_house():
    env = household(door_closes=1.0)
    ready_for_all(env)
    color = env.step(Actions.left)[4]["disturbances"][0].split()[0]
    assert not env.things[f"{color} door"].is_open

    env = household(door_locks=1.0)
    ready_for_all(env)
    color = env.step(Actions.left)[4]["disturbances"][0].split()[0]
    assert env.things[f"{color} door"].is_locked
    assert not env.things[f"{color} door"].is_open

    env = household(object_moves=1.0)
    before = {name: tuple(env.things[name].cur_pos) for name in env.movable_names()}
    name = env.step(Actions.left)[4]["disturbances"][0].removesuffix(" moved")
    after = {name: tuple(map(int, env.things[name].cur_pos)) for name in env.movable_names()}
    assert {n for n in before if before[n] != after[n]} == {name}
    assert env.grid.get(*after[name]) is env.things[name]
    assert env.grid.get(*before[name]) is None

    env = household(item_knocked=1.0)
    ready_for_all(env)
    item, room = env.carrying, env.agent_room()
    env.step(Actions.left)
    assert env.carrying is None
    assert env.room_at(*map(int, item.cur_pos)) == room


def test_a_changed_goal_is_in_mission_and_info_and_changes_at_most_twice():
    env = household(goal_changes=1.0)
    before = list(env._info([])["subgoals"])
    changes = 0
    for _ in range(6):
        observation, _, _, _, info = env.step(Actions.left)
        changes += info["disturbances"] == ["goal changed"]
        assert info["subgoals"] != before
        assert info["subgoals"][1:] == before[1:]
        assert info["subgoal"] == info["subgoals"][0]
        assert observation["mission"] == info["subgoal"] == env.mission
        assert observation in env.observation_space
    assert changes == env.config.max_goal_changes == 2


def test_a_tour_is_never_changed():
    env = make_env("ERecap/HouseholdRecall-v0", disturbances=rates(goal_changes=1.0))
    _, info = env.reset(seed=0)
    tour = [goal for goal in info["subgoals"] if goal.startswith("inspect ")]
    for _ in range(10):
        info = env.step(Actions.left)[4]
    assert info["subgoals"][: len(tour)] == tour


@pytest.mark.parametrize("name", ["object_moves", "door_locks"])
def test_which_strike_depends_on_seed_and_step_alone(name):
    """The same steps are struck whatever the agent does, as long as there is something to strike."""
    struck = []
    for action in (Actions.left, Actions.right, Actions.done):
        env = household(**{name: 0.3})
        steps = []
        for step in range(40):
            for door in env.doors():
                door.is_locked = False
            steps += [step] * bool(env.step(action)[4]["disturbances"])
        struck.append(steps)
    assert struck[0] == struck[1] == struck[2]
    assert 3 <= len(struck[0]) <= 25


def test_a_rate_of_one_kind_does_not_shift_the_others():
    def moves(**others):
        env = household(object_moves=0.3, **others)
        return [any(e.endswith("moved") for e in env.step(Actions.left)[4]["disturbances"]) for _ in range(40)]

    assert moves() == moves(door_closes=1.0, skill_fails=1.0, item_knocked=1.0)


def test_kinds_strike_independently():
    env = household(skill_fails=0.5, door_closes=0.5)
    struck = set()
    for _ in range(40):
        ready_for_all(env)
        struck.add(frozenset(named(env.step(Actions.drop)[4]["disturbances"])))
    assert len(struck) == 4


@settings(deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 2000), st.floats(0, 1))
def test_a_skill_that_fails_at_a_rate_fails_at_every_higher_one(seed, step, rate):
    assert not slips(seed, step, 0.0)
    assert slips(seed, step, 1.0)
    assert slips(seed, step, rate) == slips(seed, step, rate)
    assert slips(seed, step, rate) <= slips(seed, step, min(1.0, rate * 1.5))


@pytest.mark.parametrize("action", [Actions.pickup, Actions.drop, Actions.toggle])
def test_a_failed_interaction_changes_nothing_but_the_clock(action):
    env = household(skill_fails=1.0)
    before, carrying = env.grid.encode(), env.carrying
    info = env.step(action)[4]
    assert info["disturbances"] == ["skill failed"]
    assert np.array_equal(before, env.grid.encode())
    assert env.carrying is carrying
    assert env.step_count == 1


def test_walking_never_fails():
    env = household(skill_fails=1.0)
    for action in (Actions.left, Actions.right, Actions.forward, Actions.done):
        assert env.step(action)[4]["disturbances"] == []


def solvable(env):
    """Whether, with keys that can be had, all doors can be unlocked one after the other (by an agent that blocks no way itself)."""
    locked = {door for door in env.doors() if door.is_locked}
    opened = set()

    def way(cell):
        thing = env.grid.get(*cell)
        return thing is None or (thing.type == "door" and thing not in locked - opened)

    while True:
        start = tuple(map(int, env.agent_pos))
        reach = flood(start, lambda cell: [near for near in env.neighbors(cell) if way(near)])
        keys = {env.things[name] for name in env.movable_names() if name.endswith("key")}
        at_hand = {key.color for key in keys if key is env.carrying or any(near in reach for near in env.neighbors(key.cur_pos))}
        fresh = {door for door in locked - opened if door.color in at_hand}
        if not fresh:
            return opened == locked
        opened |= fresh


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["ERecap/Household-v0", "ERecap/HouseholdLong-v0"]))
def test_whatever_is_locked_can_be_unlocked(seed, env_id):
    env = make_env(env_id, disturbances=rates(door_closes=0.1, door_locks=0.3, object_moves=0.3, item_knocked=0.3)).unwrapped
    env.reset(seed=seed)
    assert solvable(env)
    rng = np.random.default_rng(seed)
    for _ in range(40):
        if not env.over:
            env.step(int(rng.choice([0, 1, 2, 2, 2, 3, 5])))
        assert solvable(env)


# ---- whose work it is ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["ERecap/Household-v0", "ERecap/HouseholdTroubled-v0"])
def test_an_idle_agent_is_paid_nothing(env_id):
    env = make_env(env_id, disturbances=DisturbanceRates(door_closes=0.2, door_locks=0.2, object_moves=0.8, goal_changes=0.05))
    for seed in range(6):
        env.reset(seed=seed)
        moved = 0
        for _ in range(100):
            _, reward, _, _, info = env.step(Actions.done)
            moved += any(event.endswith("moved") for event in info["disturbances"])
            assert (reward, info["subgoals_done"]) == (0, 0)
        assert moved > 20


def quiet_house_with(goals, **parameters):
    env = household(**parameters)
    thing = env.loose_things()[0]
    name = f"{thing.color} {thing.type}"
    env.subgoals = [Subgoal(kind, name, env.room_names[room]) for kind, room in goals(env.room_of_thing(name))]
    return env, thing


def test_a_thing_is_not_knocked_to_where_it_is_to_be_brought():
    env, thing = quiet_house_with(lambda room: [("bring", room)], item_knocked=1.0)
    x, y = (int(part) for part in thing.cur_pos)
    env.agent_pos = next(cell for cell in env.neighbors((x, y)) if env.grid.get(*cell) is None)
    env.take(thing)
    _, reward, _, _, info = env.step(Actions.left)
    assert (reward, info["disturbances"], env.carrying) == (0, [], thing)
    env.subgoals = [Subgoal("bring", env.subgoals[0].thing, next(r for r in env.room_names if r != env.subgoals[0].target))]
    assert named(env.step(Actions.left)[4]["disturbances"]) == {"item_knocked"}


def test_a_goal_does_not_change_so_that_a_later_one_is_given():
    env, _ = quiet_house_with(lambda room: [("bring", (room + 1) % 6), ("bring", room)], goal_changes=1.0)
    for _ in range(5):
        reward = env.step(Actions.left)[1]
        assert not env.gifts()
        assert reward == 0


def test_a_disturbance_that_is_taken_back_leaves_no_trace():
    env, thing = quiet_house_with(lambda room: [("bring", r) for r in range(6) if r != room], object_moves=1.0)
    before = env.grid.encode()
    for item in env.loose_things():
        if item is not thing:
            env.things.pop(f"{item.color} {item.type}")
            env.grid.set(*item.cur_pos, None)
    before = env.grid.encode()
    for _ in range(20):
        events = env.step(Actions.left)[4]["disturbances"]
        assert events or np.array_equal(before, env.grid.encode())
        before = env.grid.encode()
        assert env.grid.get(*thing.cur_pos) is thing
