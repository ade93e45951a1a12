"""The inventory of a household: what it says, what of it is wrong, and that houses without one are as they were."""

import hashlib

import gymnasium as gym
import numpy as np
import pytest

from envs import HOUSEHOLDS, DisturbanceRates, HouseholdEnv, make_env
from envs.household.containers import BOX_CLOSED
from envs.observation.names import BALL, BOX, DOOR, EMPTY, KEY, thing_name

REPLAN = "ERecap/HouseholdReplan-v0"
LAYOUTS = {
    "ERecap/Household-v0": "5a7e5e54ccd6c9e8",
    "ERecap/HouseholdTroubled-v0": "dee955800cc13a23",
    "ERecap/HouseholdLong-v0": "5ac46cdac91002ae",
    "ERecap/HouseholdRecall-v0": "eb8085e77f66a680",
}
"""Digests of 20 houses with their tasks, taken before there were inventories."""


def begin(seed, **parameters):
    env = make_env(REPLAN, **parameters).unwrapped
    return env, env.reset(seed=seed)[1]["inventory"]


def listed(inventory):
    """The balls and keys of an inventory with their cells."""
    image = inventory["image"]
    return {thing_name(*image[x, y, :2]): (x, y) for x, y in np.argwhere(np.isin(image[..., 0], (BALL, KEY))).tolist()}


def moved(env, inventory):
    """Names of the things that are not where the inventory has them."""
    return {name for name, cell in listed(inventory).items() if tuple(map(int, env.things[name].cur_pos)) != cell}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stale", [0.0, 0.25, 0.5, 1.0])
def test_the_stated_share_of_the_things_has_moved_to_another_room(seed, stale):
    env, inventory = begin(seed, stale=stale)
    places, away = listed(inventory), moved(env, inventory)
    assert len(places) > 8
    assert len(away) == max(round(stale * len(places)), 1)
    for name in away:
        assert env.room_of_thing(name) != inventory["rooms"][places[name]]


@pytest.mark.parametrize("seed", range(10))
def test_an_inventory_is_right_about_all_else(seed):
    env, inventory = begin(seed)
    now, old = env.grid.encode(), inventory["image"]
    away = moved(env, inventory)
    cells = {listed(inventory)[name] for name in away} | {tuple(map(int, env.things[name].cur_pos)) for name in away}
    wrong = {(x, y) for x, y in np.argwhere((now != old).any(axis=2)).tolist()}
    locked = {cell for cell in wrong - cells if now[cell][0] == DOOR}
    assert wrong - locked == cells
    assert len(locked) <= 1
    assert all(env.grid.get(*cell).is_locked for cell in locked)
    assert inventory["rooms"].shape == old.shape[:2] == (env.width, env.height)
    assert all(inventory["rooms"][x, y] == env.room_at(x, y) for x in range(env.width) for y in range(env.height))


def test_an_inventory_does_not_tell_what_is_in_a_box():
    env, inventory = begin(0, boxes=6, boxed=1.0)
    inside = [name for name in env.movable_names() if env.container_of(env.things[name])]
    assert len(inside) == 6
    assert not set(inside) & set(listed(inventory))
    states = inventory["image"][..., 2][inventory["image"][..., 0] == BOX]
    assert states.tolist() == [BOX_CLOSED] * 6


@pytest.mark.parametrize("seed", range(30))
def test_every_thing_can_be_had_in_spite_of_the_changes(seed):
    env, _ = begin(seed)
    for _ in env.doors():  # unlock what the reachable keys unlock, until nothing changes
        for door in env.doors():
            door.is_locked = door.is_locked and not env.is_key_reachable(door.color)
    reach = env.reachable()
    assert not any(door.is_locked for door in env.doors())
    assert all(any(near in reach for near in env.neighbors(thing.cur_pos)) for thing in env.things.values())


def test_a_seed_decides_the_inventory():
    (env, one), (_, two), (_, other) = begin(3), begin(3), begin(4)
    assert all(np.array_equal(one[key], two[key]) for key in ("image", "rooms"))
    assert not np.array_equal(one["image"], other["image"])
    assert not np.array_equal(env.reset()[1]["inventory"]["image"], one["image"])


def test_an_inventory_comes_at_reset_alone_and_only_where_it_was_asked_for():
    env, _ = begin(0)
    assert "inventory" not in env.step(0)[4]
    assert "inventory" not in HouseholdEnv().reset(seed=0)[1]


def test_the_house_is_the_one_without_an_inventory_but_for_what_has_moved():
    quiet = {"disturbances": DisturbanceRates.none(), "locked_doors": 0}
    env, inventory = begin(5, **quiet)
    plain = make_env(REPLAN, inventory=False, **quiet).unwrapped
    plain.reset(seed=5)
    assert np.array_equal(plain.grid.encode(), inventory["image"])
    assert tuple(plain.agent_pos) == tuple(env.agent_pos)


def test_environments_side_by_side_pass_the_inventory_on():
    envs = gym.make_vec(REPLAN, num_envs=2, vectorization_mode="sync")
    _, infos = envs.reset(seed=7)
    assert infos["inventory"]["image"].shape == (2, 16, 16, 3)
    assert (infos["inventory"]["image"][1] != EMPTY).any()


@pytest.mark.parametrize("env_id", LAYOUTS)
def test_houses_without_an_inventory_are_as_they_were(env_id):
    digest, env = hashlib.sha256(), make_env(env_id).unwrapped
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        for array in (env.grid.encode(), observation["image"], observation["pose"]):
            digest.update(array.tobytes())
        digest.update("|".join(info["subgoals"]).encode())
        for step in range(30):
            info = env.step((2, 5, 3, 1, 2)[step % 5])[4]
            digest.update("|".join([info["subgoal"], *info["disturbances"]]).encode())
    assert digest.hexdigest()[:16] == LAYOUTS[env_id]


def test_every_household_can_be_given_an_inventory():
    for env_id in HOUSEHOLDS:
        env = make_env(env_id, inventory=True)
        inventory = env.reset(seed=1)[1]["inventory"]
        assert moved(env.unwrapped, inventory)


def test_a_changed_goal_is_any_open_one_where_that_is_asked_for():
    rates = DisturbanceRates.none().model_copy(update={"goal_changes": 1.0})
    env, _ = begin(1, disturbances=rates, max_goal_changes=6)
    before, changed = env._info([])["subgoals"], set()
    for _ in range(8):
        now = env.step(0)[4]["subgoals"]
        changed |= {index for index, (old, new) in enumerate(zip(before, now, strict=True)) if old != new}
        before = now
    assert env.goal_changes == 6
    assert len(changed) > 2
    assert not env.gifts()
