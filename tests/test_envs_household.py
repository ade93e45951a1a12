"""The household: its layout, its boxes, its subgoals, its task, and what its parameters may be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minigrid.core.actions import Actions
from minigrid.core.world_object import Ball, Box, Key
from pydantic import ValidationError

from envs import HOUSEHOLDS, DisturbanceRates, HouseholdConfig, HouseholdEnv, make_env
from envs.household.containers import BOX_CLOSED, BOX_EMPTY, Container, content_code, decode_content
from envs.household.foresight import gifts
from envs.household.subgoals import KINDS, Subgoal
from envs.household.tasks import tour
from envs.observation.embodied import room_indices, view_cells
from envs.observation.names import BALL, BOX, KEY, ROOM_NAMES, room_name, thing_name

QUIET = DisturbanceRates.none()


def household(seed=0, **parameters):
    env = HouseholdEnv(**{"disturbances": QUIET, **parameters})
    env.reset(seed=seed)
    return env


# ---- parameters ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"rows": 1, "cols": 1}, "rows=1, cols=1 give 1 room: a household has at least 2"),
        ({"locked_doors": 2, "doors": 1}, "locked_doors=2 exceeds doors=1"),
        ({"tour": 7}, "tour=7 exceeds the 6 rooms"),
        ({"kinds": ()}, "must be one or more of bring, next_to, inside, open, unlock, inspect"),
        ({"kinds": ("bring", "dance")}, "must be one or more of bring"),
        ({"rows": 4}, "less than or equal to 3"),
        ({"room_size": 4}, "greater than or equal to 5"),
        ({"objects": 0}, "greater than or equal to 1"),
        ({"max_steps": 0}, "max_steps=0 must be at least 1"),
        ({"verbosity": "chatty"}, "'terse' or 'verbose'"),
        ({"color": "red"}, "Extra inputs are not permitted"),
        ({"disturbances": {"door_closes": 1.5}}, "less than or equal to 1"),
        ({"disturbances": {"earthquake": 0.1}}, "Extra inputs are not permitted"),
    ],
)
def test_bad_parameters_are_refused(parameters, problem):
    with pytest.raises(ValueError, match=problem):
        make_env("ERecap/Household-v0", **parameters)


def test_a_config_is_frozen_and_comes_back_from_json():
    config = HouseholdConfig(rows=3, disturbances=DisturbanceRates(door_closes=0.5))
    assert HouseholdConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        config.rows = 2


def test_a_household_without_any_subgoal_of_its_kinds_is_refused():
    with pytest.raises(ValueError, match="offers no subgoal of the kinds unlock: add kinds, objects, boxes or locked doors"):
        household(kinds=("unlock", "unlock"), locked_doors=0)


# ---- layout --------------------------------------------------------------------------------------------------------------------

CONFIGS = st.builds(
    dict,
    rows=st.integers(1, 3),
    cols=st.integers(2, 3),
    room_size=st.integers(5, 7),
    objects=st.integers(1, 12),
    boxes=st.integers(0, 6),
    doors=st.integers(2, 6),
    locked_doors=st.integers(0, 2),
    subgoals=st.integers(1, 8),
)


@settings(max_examples=25, deadline=None)
@given(CONFIGS, st.integers(0, 10_000))
def test_every_household_is_whole(parameters, seed):
    env = household(seed, **parameters)
    rooms = env.num_rows * env.num_cols
    assert len(set(env.room_names)) == rooms
    assert set(env.room_names) <= set(ROOM_NAMES)
    assert sorted(env.rooms_by_walk()) == list(range(rooms))
    assert len(env.doors()) <= parameters["doors"]
    assert len({door.color for door in env.doors()}) == len(env.doors())
    assert sum(door.is_locked for door in env.doors()) <= parameters["locked_doors"]
    assert all(env.is_key_reachable(door.color) for door in env.doors() if door.is_locked)
    for name, thing in env.things.items():
        assert name == f"{thing.color} {thing.type}"
        box = env.container_of(thing)
        assert (env.grid.get(*thing.cur_pos) is thing) == (box is None)
        assert box is None or tuple(box.cur_pos) == tuple(thing.cur_pos)
    for door in env.doors():
        door.is_locked = False
    reach = env.reachable()
    assert {env.room_at(*cell) for cell in reach} - {-1} == set(range(rooms))
    assert all(any(near in reach for near in env.neighbors(thing.cur_pos)) for thing in env.things.values())
    assert 1 <= len(env.subgoals) <= parameters["subgoals"]


@pytest.mark.parametrize("env_id", HOUSEHOLDS)
def test_registered_households_have_all_their_subgoals(env_id):
    env = make_env(env_id).unwrapped
    for seed in range(20):
        env.reset(seed=seed)
        assert len(env.subgoals) == env.config.tour + env.config.subgoals
        assert len(set(env.subgoals)) == len(env.subgoals)


def test_room_indices_agree_with_room_grid():
    env = household()
    for x in range(env.width):
        for y in range(env.height):
            index = env.room_at(x, y)
            if index >= 0:
                room = env.get_room(index % env.num_cols, index // env.num_cols)
                assert room is env.room_from_pos(x, y)
                assert room.pos_inside(x, y)
    assert room_indices(np.array([[-1, 1], [1, 1], [5, 1], [100, 1]]), 6, 3, 2).tolist() == [-1, 0, -1, -1]


@pytest.mark.parametrize("direction", range(4))
def test_view_cells_are_where_minigrid_looks(direction):
    env = household()
    env.agent_dir = direction
    image = env.gen_obs()["image"]
    cells = view_cells(*map(int, env.agent_pos), direction, 7)
    for i, j in np.argwhere(image[..., 0] != 0):
        x, y = map(int, cells[i, j])
        assert env.relative_coords(x, y) in ((i, j), None) or (x, y) == tuple(env.agent_pos)
        thing = env.grid.get(x, y)
        if thing is not None:
            assert tuple(image[i, j]) == thing.encode()


def test_names_of_rooms_and_things():
    assert room_name(0) == "kitchen"
    assert room_name(9) == "room 10"
    assert thing_name(BALL, 0) == "red ball"


# ---- boxes ---------------------------------------------------------------------------------------------------------------------


@given(st.sampled_from((BALL, KEY, BOX)), st.integers(0, 5))
def test_the_code_of_a_content_comes_back(kind, color):
    assert decode_content(content_code(kind, color)) == (kind, color)
    assert content_code(kind, color) > BOX_EMPTY


def test_a_box_shows_its_content_only_while_it_is_open():
    box = Container("blue", Ball("red"))
    assert box.encode()[2] == BOX_CLOSED
    box.toggle(None, (0, 0))
    assert decode_content(box.encode()[2]) == (BALL, 0)
    box.contains = None
    assert box.encode()[2] == BOX_EMPTY
    assert decode_content(BOX_EMPTY) is None
    assert isinstance(box, Box)
    assert not box.can_pickup()


def test_a_box_is_filled_and_emptied_only_while_it_is_open(small_house):
    house = small_house()
    env = house.env
    box = house.put("blue box", (2, 1))
    house.hold("red ball")
    house.stand((1, 1), 0)
    env.step(Actions.drop)
    assert env.carrying is not None, "a closed box takes nothing"
    env.step(Actions.toggle)
    env.step(Actions.drop)
    assert (env.carrying, box.contains.color) == (None, "red")
    assert tuple(box.contains.cur_pos) == (2, 1)
    env.step(Actions.toggle)
    env.step(Actions.pickup)
    assert env.carrying is None, "a closed box gives nothing"
    env.step(Actions.toggle)
    env.step(Actions.pickup)
    assert env.carrying is env.things["red ball"]
    assert box.contains is None
    assert env.grid.get(2, 1) is box
    assert env.step_count == 7


def test_a_full_box_takes_nothing_more(small_house):
    house = small_house()
    house.put("blue box", (2, 1), inside="red key", is_open=True)
    house.hold("red ball")
    house.stand((1, 1), 0)
    house.env.step(Actions.drop)
    assert house.env.carrying is house.env.things["red ball"]
    assert isinstance(house.env.things["blue box"].contains, Key)


# ---- subgoals ------------------------------------------------------------------------------------------------------------------


def reached(house, kind, thing, target=""):
    return KINDS[kind].reached(house.env, Subgoal(kind, thing, target))


def test_bring_is_reached_on_the_floor_of_the_room(small_house):
    house = small_house()
    house.put("red ball", (3, 3))
    assert reached(house, "bring", "red ball", house.here)
    assert not reached(house, "bring", "red ball", house.there)
    house.hold("blue ball")
    assert not reached(house, "bring", "blue ball", house.here)
    house.put("blue box", (2, 2), inside="green ball")
    assert not reached(house, "bring", "green ball", house.here)


def test_next_to_is_reached_side_by_side(small_house):
    house = small_house()
    for name, cell in {"red ball": (2, 2), "blue ball": (2, 3), "green ball": (3, 3)}.items():
        house.put(name, cell)
    assert reached(house, "next_to", "red ball", "blue ball")
    assert reached(house, "next_to", "green ball", "blue ball")
    assert not reached(house, "next_to", "red ball", "green ball")


def test_inside_is_reached_in_that_box(small_house):
    house = small_house()
    house.put("blue box", (2, 2), inside="red ball")
    house.put("red box", (3, 2), inside="green ball")
    assert reached(house, "inside", "red ball", "blue box")
    assert not reached(house, "inside", "red ball", "red box")


def test_open_and_unlock_are_reached_by_the_door(small_house):
    house = small_house()
    name = f"{house.door.color} door"
    house.lock()
    assert not reached(house, "unlock", name)
    house.door.is_locked = False
    assert reached(house, "unlock", name)
    assert not reached(house, "open", name)
    house.door.is_open = True
    assert reached(house, "open", name)


def test_inspect_is_reached_when_every_cell_was_in_view(small_house):
    house = small_house()
    house.env.seen[:] = False
    assert not reached(house, "inspect", house.here)
    house.env.seen[1:5, 1:5] = True
    assert reached(house, "inspect", house.here)
    assert not reached(house, "inspect", house.there)


def test_rewards_sum_to_1_and_subgoals_count_in_order():
    env = household(subgoals=3, kinds=("open",), locked_doors=0)
    doors = [env.things[goal.thing] for goal in env.subgoals]
    for door in doors[1:]:
        door.is_open = True
    _, reward, terminated, truncated, info = env.step(Actions.left)
    assert (reward, info["subgoals_done"], info["subgoal"]) == (0, 0, env.subgoals[0].text)
    doors[0].is_open = True
    _, reward, terminated, truncated, info = env.step(Actions.left)
    assert (reward, terminated, truncated) == (pytest.approx(1.0), True, False)
    assert (info["success"], info["subgoals_done"], info["subgoal"]) == (True, 3, "")


def test_a_reached_subgoal_stays_reached():
    env = household(subgoals=2, kinds=("open",), locked_doors=0)
    first = env.things[env.subgoals[0].thing]
    first.is_open = True
    assert env.step(Actions.left)[4]["subgoals_done"] == 1
    first.is_open = False
    assert env.step(Actions.left)[4]["subgoals_done"] == 1


# ---- tasks ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(CONFIGS, st.integers(0, 10_000))
def test_subgoals_name_what_there_is_and_leave_keys_of_locked_doors_alone(parameters, seed):
    env = household(seed, **parameters)
    locks = {f"{door.color} key" for door in env.doors() if door.is_locked}
    for goal in env.subgoals:
        assert goal.thing in env.things
        assert goal.thing not in locks
        assert not goal.target or goal.target in env.things or goal.target in env.room_names
        assert goal.text == KINDS[goal.kind].template.format(thing=goal.thing, target=goal.target)
    assert env.mission == env.subgoals[0].text


@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_tour_walks_from_room_to_room_and_comes_first(count):
    env = household(3, rows=3, tour=count)
    rooms = [env.room_names.index(goal.thing) for goal in tour(env, count)]
    assert [goal.text for goal in env.subgoals[:count]] == [f"inspect {env.room_names[room]}" for room in rooms]
    assert rooms[0] == env.agent_room()
    assert len(set(rooms)) == count


@pytest.mark.parametrize("env_id", HOUSEHOLDS)
def test_no_subgoal_is_paid_for_without_an_act(env_id):
    env = make_env(env_id).unwrapped
    for seed in range(1_000_000, 1_000_012):
        _, info = env.reset(seed=seed)
        assert info["subgoals_done"] == 0
        assert gifts(env, env.subgoals) == []


@pytest.mark.parametrize(
    ("env_id", "seed", "why"),
    [
        ("ERecap/HouseholdSmall-v0", 1_000_057, "side by side at the start"),
        ("ERecap/HouseholdSmall-v0", 1_000_077, "the same two things, the other way round"),
        ("ERecap/HouseholdRecall-v0", 1_000_000, "a room that the first view shows as a whole"),
    ],
)
def test_a_subgoal_that_would_be_a_gift_is_drawn_again_and_the_others_stay(env_id, seed, why, monkeypatch):
    env = make_env(env_id).unwrapped
    env.reset(seed=seed)
    after, seed_value = list(env.subgoals), env.seed_value
    monkeypatch.setattr("envs.household.env.without_gifts", lambda house, goals, *rest: house.subgoals)
    env.reset(seed=seed)
    before = list(env.subgoals)
    assert env.seed_value == seed_value, "the disturbances stay the same"
    given = gifts(env, before)
    assert given, why
    kept = [goal for goal in before if goal not in given]
    assert after[: len(kept)] == kept
    assert len(after) == len(before) == len(set(after))


def test_what_an_earlier_subgoal_undoes_is_no_gift(small_house):
    house = small_house()
    house.put("red ball", (1, 3))
    away, back = Subgoal("bring", "red ball", house.there), Subgoal("bring", "red ball", house.here)
    assert gifts(house.env, [away, back]) == []
    assert gifts(house.env, [back, away]) == [back]
    assert gifts(house.env, [away, back, back]) == [back]


def test_side_by_side_is_a_gift_either_way_round_until_one_of_them_moves(small_house):
    house = small_house()
    for name, cell in {"red ball": (1, 3), "blue ball": (2, 3), "green ball": (3, 1)}.items():
        house.put(name, cell)
    one, other = Subgoal("next_to", "red ball", "blue ball"), Subgoal("next_to", "blue ball", "red ball")
    apart = Subgoal("next_to", "red ball", "green ball")
    assert gifts(house.env, [one, other]) == [one, other]
    assert gifts(house.env, [apart, one, other]) == [other]


def test_what_is_in_the_box_already_is_a_gift(small_house):
    house = small_house()
    house.put("blue box", (2, 2), inside="red ball")
    inside, out = Subgoal("inside", "red ball", "blue box"), Subgoal("bring", "red ball", house.here)
    assert gifts(house.env, [inside]) == [inside]
    assert gifts(house.env, [out, inside]) == []
    assert gifts(house.env, [out, inside, out, out]) == [out]
