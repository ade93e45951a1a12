"""Skills that handle things: what each does, and every reason for which it fails."""

import pytest
from minigrid.core.actions import Actions

from agents.world import OK, failed

EAST, SOUTH, WEST, NORTH = range(4)


@pytest.fixture
def house(small_house):
    return small_house()


@pytest.fixture
def slippery(small_house):
    return small_house(skill_fails=1.0)


# ---- pickup --------------------------------------------------------------------------------------------------------------------


def test_pickup_from_the_floor(house):
    house.put("red ball", (4, 3))
    house.look()
    assert house.do("pickup red ball") == OK
    assert house.env.carrying is house.env.things["red ball"]


def test_pickup_from_an_open_box(house):
    house.put("blue box", (4, 3), inside="red ball", is_open=True)
    house.look()
    assert house.do("pickup red ball") == OK
    assert house.env.carrying is house.env.things["red ball"]


def test_pickup_with_the_room_named(house):
    house.put("blue box", (4, 3), inside="red ball", is_open=True)
    house.look()
    assert house.do(f"pickup red ball in {house.here}") == OK
    assert house.do(f"put red ball in blue box in {house.here}") == OK
    assert house.env.things["blue box"].contains is house.env.things["red ball"]


def test_pickup_from_a_closed_box_is_not_known(house):
    house.put("blue box", (4, 3), inside="red ball")
    house.look()
    assert house.do("pickup red ball") == failed(f"no red ball seen in {house.here}")


def test_pickup_with_full_hands(house):
    house.put("blue ball", (4, 3))
    house.hold("red ball")
    assert house.do("pickup blue ball") == failed("already holding red ball")
    assert house.do("pickup red ball") == failed("already holding red ball")


def test_pickup_a_door(house):
    name = house.face_door()
    assert house.do(f"pickup {name}") == failed("a door cannot be carried")


def test_pickup_a_box(house):
    house.put("blue box", (4, 3))
    house.look()
    assert house.do("pickup blue box") == failed("too heavy")


def test_pickup_slips(slippery):
    slippery.put("red ball", (4, 3))
    slippery.put("blue box", (3, 4), inside="red key", is_open=True)
    slippery.look()
    assert slippery.do("pickup red ball") == failed("the grip slipped")
    assert slippery.do("pickup red key") == failed("the grip slipped")


def test_pickup_of_what_is_carried_away_meanwhile(house):
    house.put("red ball", (4, 3))
    house.look()
    outcome = house.do("pickup red ball", lambda n: house.move("red ball", (1, 4)) if n == 1 else None)
    assert outcome == failed("red ball is gone")


# ---- drop ----------------------------------------------------------------------------------------------------------------------


def test_drop_blocks_neither_a_door_nor_a_way(house):
    house.face_door()
    x, y = map(int, house.door.cur_pos)
    house.hold("red ball")
    assert house.do("drop") == OK
    assert house.env.carrying is None
    assert tuple(house.env.things["red ball"].cur_pos) != (x - 1, y)


def test_drop_with_empty_hands(house):
    assert house.do("drop") == failed("holding nothing")


def test_drop_slips(slippery):
    slippery.hold("red ball")
    assert slippery.do("drop") == failed("the grip slipped")
    assert slippery.env.carrying is not None


def test_drop_without_a_free_place(house):
    house.hold("red ball")
    house.put("blue ball", (2, 1))
    house.put("green ball", (1, 2))
    house.look_around()
    assert house.do("drop") == failed(f"no free place in {house.here}")


# ---- put -----------------------------------------------------------------------------------------------------------------------


def test_put_next_to(house):
    house.put("blue ball", (3, 3))
    house.hold("red ball")
    assert house.do("put red ball next to blue ball") == OK
    (x, y), (u, v) = house.env.things["red ball"].cur_pos, house.env.things["blue ball"].cur_pos
    assert abs(x - u) + abs(y - v) == 1


@pytest.mark.parametrize("is_open", [True, False])
def test_put_in_opens_the_box_if_need_be(house, is_open):
    box = house.put("blue box", (3, 3), is_open=is_open)
    house.hold("red ball")
    assert house.do("put red ball in blue box") == OK
    assert box.contains is house.env.things["red ball"]


@pytest.mark.parametrize("joint", ["next to", "in"])
def test_put_what_is_not_held(house, joint):
    house.put("blue box", (3, 3))
    house.look()
    assert house.do(f"put red ball {joint} blue box") == failed("not holding red ball")
    house.hold("green ball")
    assert house.do(f"put red ball {joint} blue box") == failed("not holding red ball")


@pytest.mark.parametrize("joint", ["next to", "in"])
def test_put_where_nothing_is(house, joint):
    house.hold("red ball")
    assert house.do(f"put red ball {joint} blue box") == failed(f"no blue box seen in {house.here}")


def test_put_in_what_is_no_box(house):
    house.put("blue ball", (3, 3))
    house.hold("red ball")
    assert house.do("put red ball in blue ball") == failed("blue ball is no box")


def test_a_box_of_a_level_is_not_opened_to_be_filled(house):
    house.put("grey box", (3, 3))
    house.hold("red ball")
    house.belief.unique_names = False
    assert house.do("put red ball in grey box") == failed("grey box cannot be filled")


def test_put_in_a_full_box(house):
    house.put("blue box", (3, 3), inside="red key")
    house.hold("red ball")
    assert house.do("put red ball in blue box") == failed("blue box is full")
    assert house.env.carrying is not None


def test_put_slips(slippery):
    slippery.put("blue box", (3, 3), is_open=True)
    slippery.hold("red ball")
    assert slippery.do("put red ball in blue box") == failed("the grip slipped")
    assert slippery.do("put red ball next to blue box") == failed("the grip slipped")


def test_put_into_a_box_that_does_not_open(slippery):
    slippery.put("blue box", (3, 3))
    slippery.hold("red ball")
    assert slippery.do("put red ball in blue box") == failed("the grip slipped")


def test_put_next_to_what_has_no_free_side(house):
    house.put("blue ball", (1, 4))
    house.put("green ball", (2, 4))
    house.put("grey ball", (1, 3))
    house.hold("red ball")
    house.look_around()
    assert house.do("put red ball next to blue ball") == failed("no free place next to blue ball")


# ---- open and unlock -----------------------------------------------------------------------------------------------------------


def test_open_a_door_and_a_box(house):
    name = house.face_door()
    assert house.do(f"open {name}") == OK
    assert house.door.is_open
    box = house.put("blue box", (2, 2))
    house.stand((1, 1), EAST)
    assert house.do("open blue box") == OK
    assert box.is_open


def test_open_what_is_open_closes_it_first(house):
    name = house.face_door()
    house.door.is_open = True
    house.look()
    assert house.do(f"open {name}") == OK
    assert house.door.is_open
    assert house.actions == [Actions.toggle, Actions.toggle]


def test_open_what_cannot_be_opened(house):
    house.put("red ball", (2, 2))
    house.look()
    assert house.do("open red ball") == failed("red ball cannot be opened")
    assert house.do("open blue box") == failed(f"no blue box seen in {house.here}")


def test_open_a_locked_door(house):
    house.lock()
    name = house.face_door()
    assert house.do(f"open {name}") == failed(f"{name} locked")


def test_open_slips(slippery):
    slippery.put("blue box", (2, 2))
    name = slippery.face_door()
    assert slippery.do(f"open {name}") == failed("the grip slipped")
    slippery.stand((1, 1), EAST)
    assert slippery.do("open blue box") == failed("the grip slipped")


def test_unlock_with_the_key_in_hand(house):
    house.lock()
    house.hold(f"{house.door.color} key")
    name = house.face_door()
    assert house.do(f"unlock {name}") == OK
    assert house.door.is_open
    assert not house.door.is_locked
    assert house.env.carrying is not None


@pytest.mark.parametrize("wrong_key", [True, False])
def test_unlock_without_the_key(house, wrong_key):
    house.lock()
    if wrong_key:
        house.hold("red key" if house.door.color != "red" else "blue key")
    name = house.face_door()
    assert house.do(f"unlock {name}") == failed(f"needs {house.door.color} key")


def test_unlock_what_is_not_locked_or_not_here(house):
    name = house.face_door()
    house.put("red ball", (2, 2))
    house.stand((1, 1), EAST)
    house.look_around()
    assert house.do(f"unlock {name}") == failed(f"{name} is not locked")
    absent = "red door" if house.door.color != "red" else "blue door"
    assert house.do(f"unlock {absent}") == failed(f"no {absent} seen in {house.here}")
    assert house.do("unlock red ball") == failed("red ball is not locked")


def test_unlock_slips(slippery):
    slippery.lock()
    slippery.hold(f"{slippery.door.color} key")
    name = slippery.face_door()
    assert slippery.do(f"unlock {name}") == failed("the grip slipped")
