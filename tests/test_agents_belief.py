"""The belief: what was seen is remembered, what is seen to be otherwise is forgotten, and nothing else is known."""

import numpy as np
import pytest
from minigrid.core.actions import Actions
from minigrid.envs.babyai.core.verifier import ObjDesc

from agents.gridworld.belief import MARGIN, Belief, Thing, matches
from envs import make_env
from envs.observation.names import BALL, BOX, CLOSED, DOOR, EMPTY, LOCKED, OPEN, UNSEEN

EAST, SOUTH, WEST, NORTH = range(4)


def at(x, y):
    return x + MARGIN, y + MARGIN


def names(belief):
    return sorted(thing.name for thing in belief.things.values())


@pytest.fixture
def house(small_house):
    return small_house()


def test_what_was_seen_is_remembered_out_of_sight(house):
    house.put("red ball", (3, 1))
    house.look()
    assert house.belief.find("red ball")[0].cell == at(3, 1)
    house.stand((1, 1), WEST)
    assert house.belief.in_view == []
    assert house.belief.find("red ball")[0].cell == at(3, 1)


def test_what_was_not_seen_is_unknown(house):
    house.put("red ball", (7, 2))
    house.look_around()
    assert "red ball" not in names(house.belief)
    assert house.belief.known_rooms() == [0]
    assert (house.belief.kind[MARGIN + 6 :] == UNSEEN).all()


def test_a_thing_seen_elsewhere_has_left_its_old_place(house):
    house.put("red ball", (4, 1))
    house.look()
    house.stand((1, 1), WEST)
    house.move("red ball", (1, 4))
    house.belief.surprises.clear()
    house.stand((4, 4), WEST)
    assert [thing.cell for thing in house.belief.find("red ball")] == [at(1, 4)]
    assert house.belief.kind[at(4, 1)] == EMPTY
    assert house.belief.surprises == {"red ball"}
    assert not house.belief.gone


def test_a_thing_that_is_not_where_it_was_is_gone(house):
    house.put("red ball", (3, 1))
    house.look()
    house.stand((1, 1), WEST)
    house.move("red ball", (7, 2))
    assert names(house.belief) != []
    house.stand((1, 1), EAST)
    assert house.belief.find("red ball") == []
    assert list(house.belief.gone) == ["red ball"]
    assert house.belief.surprises == {"red ball"}


def test_a_thing_that_comes_back_is_not_gone(house):
    house.put("red ball", (3, 1))
    house.look()
    house.move("red ball", (7, 2))
    house.look()
    house.move("red ball", (4, 1))
    house.look()
    assert not house.belief.gone
    assert [thing.cell for thing in house.belief.find("red ball")] == [at(4, 1)]


def test_two_things_that_change_places_are_both_still_there(house):
    house.put("red ball", (3, 1))
    house.put("blue ball", (4, 1))
    house.look()
    for name, cell in {"red ball": (2, 2), "blue ball": (3, 1)}.items():
        house.move(name, cell)
    house.move("red ball", (4, 1))
    house.look()
    assert {thing.name: thing.cell for thing in house.belief.things.values() if thing.kind == BALL} == {
        "red ball": at(4, 1),
        "blue ball": at(3, 1),
    }
    assert not house.belief.gone


def test_what_is_picked_up_is_held_and_neither_gone_nor_a_surprise(house):
    house.put("red ball", (2, 1))
    house.look()
    house.belief.clear_news()
    house.env.step(Actions.pickup)
    house.look(Actions.pickup)
    assert house.belief.held_name == "red ball"
    assert house.belief.find("red ball") == []
    assert (house.belief.gone, house.belief.surprises) == ({}, set())


def test_what_is_dropped_lies_there_and_is_no_surprise(house):
    house.hold("red ball")
    house.env.step(Actions.drop)
    house.look(Actions.drop)
    assert house.belief.held is None
    assert house.belief.find("red ball")[0].cell == at(2, 1)
    assert house.belief.surprises == set()


def test_what_is_knocked_away_is_a_surprise(house):
    house.hold("red ball")
    house.env.carrying = None
    house.look(Actions.left)
    assert house.belief.held is None
    assert house.belief.surprises == {"red ball"}
    assert house.belief.find("red ball") == [], "where it landed was not seen"


def test_a_door_that_locks_is_a_surprise_and_one_that_opens_or_closes_is_not(house):
    x, y = map(int, house.door.cur_pos)
    name = f"{house.door.color} door"
    house.stand((x - 1, y), EAST)
    assert house.belief.is_door(at(x, y), CLOSED)
    house.door.is_open = True
    house.look()
    assert house.belief.is_door(at(x, y), OPEN)
    assert house.belief.surprises == set()
    house.lock()
    house.look()
    assert house.belief.is_door(at(x, y), LOCKED)
    assert house.belief.surprises == {name}
    assert [door.name for door in house.belief.locked_doors()] == [name]


def test_a_door_first_seen_locked_is_no_surprise(house):
    x, y = map(int, house.door.cur_pos)
    house.lock()
    house.belief = Belief(house.env.room_names, unique_names=True)
    house.stand((x - 1, y), EAST)
    assert house.belief.surprises == set()


def test_the_content_of_a_box_is_known_while_it_is_seen_open(house):
    box = house.put("blue box", (3, 1), inside="red ball")
    house.look()
    assert house.belief.find("blue box")[0].content is None
    assert house.belief.boxed("red ball") == []
    box.is_open = True
    house.look()
    assert [thing.name for thing in house.belief.boxed("red ball")] == ["blue box"]
    assert house.belief.find("red ball") == []
    box.is_open = False
    house.look()
    assert house.belief.boxed("red ball") == []


def test_news_are_what_is_new_since_they_were_cleared(house):
    house.put("red ball", (3, 1))
    house.look()
    assert "red ball" in {thing.name for thing in house.belief.fresh.values()}
    house.belief.clear_news()
    house.look()
    assert house.belief.fresh == {}
    house.remove("red ball")
    house.look()
    assert list(house.belief.gone) == ["red ball"]
    house.belief.clear_news()
    assert house.belief.gone == {}


def test_a_doorway_belongs_to_the_rooms_that_are_known_on_its_sides(house):
    x, y = map(int, house.door.cur_pos)
    house.stand((x - 1, y), EAST)
    door = house.belief.find("door")[0]
    assert house.belief.rooms_of(door) == [0]
    house.door.is_open = True
    house.look()
    assert sorted(house.belief.rooms_of(house.belief.find("door")[0])) == [0, 1]
    house.stand((x, y), EAST)
    assert house.belief.here_name == house.here, "in a doorway the agent is still in the room that it came from"
    house.stand((x + 1, y), EAST)
    assert house.belief.here_name == house.there
    assert house.belief.room_of(house.belief.find("door")[0]) == house.there


def test_nearest_comes_first(house):
    house.put("red ball", (4, 4))
    house.put("blue ball", (2, 1))
    house.look()
    assert [thing.name for thing in house.belief.find("ball")] == ["blue ball", "red ball"]
    assert house.belief.find("ball", room=1) == []


@pytest.mark.parametrize(
    ("direction", "cell", "tags"),
    [
        (EAST, (4, 1), {"front", "left"}),
        (EAST, (4, 4), {"front", "right"}),
        (EAST, (4, 3), {"front"}),
        (WEST, (1, 1), {"front", "right"}),
        (SOUTH, (1, 4), {"front", "right"}),
        (EAST, (1, 3), {"behind"}),
    ],
)
def test_tags_tell_where_things_lay_from_the_pose_at_the_start(house, direction, cell, tags):
    """As BabyAI's descriptions do: (2, 3) is where the agent starts, and where it stands later does not matter."""
    house.put("red ball", cell)
    house.belief = Belief(house.env.room_names, unique_names=False)
    house.stand((2, 3), direction)
    house.look_around()
    (ball,) = house.belief.find("red ball")
    assert set(ball.tags) == tags
    house.stand((3, 2), NORTH)
    house.look_around()
    assert set(house.belief.find("red ball")[0].tags) == tags


@pytest.mark.parametrize("seed", range(8))
def test_tags_agree_with_minigrids_own_descriptions(seed):
    env = make_env("GoTo")
    observation, _ = env.reset(seed=seed)
    belief = Belief(env.room_names)
    belief.update(observation)
    described = {}
    for tag in ("left", "right", "front", "behind"):
        desc = ObjDesc(None, None, tag)
        desc.find_matching_objs(env)
        described[tag] = {at(*map(int, cell)) for cell in desc.obj_poss}
    for _ in range(4):
        belief.update(env.step(Actions.left)[0], int(Actions.left))
    assert belief.things
    for thing in belief.things.values():
        if belief.start[2] in belief.rooms_of(thing):
            assert set(thing.tags) == {tag for tag, cells in described.items() if thing.cell in cells}


def test_where_names_are_not_unique_both_are_remembered(house):
    house.belief = Belief(house.env.room_names, unique_names=False)
    house.put("red ball", (3, 1))
    house.put("red ball", (3, 3))
    house.stand((1, 2), EAST)
    assert len(house.belief.find("red ball")) == 2


@pytest.mark.parametrize(
    ("description", "fits"),
    [
        ("red ball", True),
        ("ball", True),
        ("object", True),
        ("red object", True),
        ("ball at left", True),
        ("red ball at front", False),
        ("blue ball", False),
        ("red key", False),
    ],
)
def test_descriptions(description, fits):
    assert matches(Thing(BALL, 0, 0, (1, 1), ("left",)), description) == fits


def test_a_door_is_no_object():
    assert not matches(Thing(DOOR, 0, 0, (1, 1)), "red object")
    assert matches(Thing(BOX, 0, 0, (1, 1)), "red object")


def test_only_a_change_in_view_changes_the_map(house):
    def drawn():
        return {name: getattr(house.belief, name).copy() for name in ("kind", "color", "state")}

    before = drawn()
    house.look()
    assert all(np.array_equal(before[name], now) for name, now in drawn().items())
    house.put("red ball", (3, 1))
    house.look()
    assert {name for name, now in drawn().items() if not np.array_equal(before[name], now)} >= {"kind"}


def test_the_observation_is_not_changed(house):
    observation = house.env.gen_obs()
    before = {key: np.copy(value) for key, value in observation.items()}
    house.belief.update(observation)
    assert all(np.array_equal(before[key], observation[key]) for key in before)
