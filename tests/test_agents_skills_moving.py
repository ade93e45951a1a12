"""Skills that move the agent, ``done``, and the registry: what each does, and every reason for which it fails."""

import pytest
from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief
from agents.gridworld.skills import RUNNERS, start_skill
from agents.world import OK, Outcome, failed
from planner import SKILLS, SkillCall

EAST, SOUTH, WEST, NORTH = range(4)


@pytest.fixture
def house(small_house):
    return small_house()


def wall_in(house):
    """Cut the room in two with balls and keys in column 3; the agent is west of them."""
    for y, name in enumerate(("red ball", "blue ball", "green ball", "grey ball"), 1):
        house.put(name, (3, y))
    house.look()


def test_there_is_one_runner_per_skill():
    assert list(RUNNERS) == list(SKILLS)


def test_an_unknown_skill_is_an_error_with_the_known_names(house):
    with pytest.raises(
        ValueError, match="skill 'fly' is unknown: choose from goto, pickup, drop, put, open, unlock, explore, done"
    ):
        start_skill(house.belief, SkillCall("fly"))


def test_outcomes():
    assert Outcome(True, "ok") == OK
    assert failed("holding nothing") == Outcome(False, "failed, holding nothing")


# ---- goto ----------------------------------------------------------------------------------------------------------------------


def test_goto_a_thing_ends_in_front_of_it(house):
    house.put("red ball", (4, 3))
    house.look()
    assert house.do("goto red ball") == OK
    assert tuple(house.env.front_pos) == (4, 3)
    assert house.do("goto red ball") == OK
    assert house.actions == []


@pytest.mark.parametrize(
    ("direction", "turns"),
    [(EAST, []), (SOUTH, [Actions.left]), (NORTH, [Actions.right]), (WEST, [Actions.right, Actions.right])],
)
def test_turning_takes_the_short_way(house, direction, turns):
    house.put("red ball", (2, 1))
    house.look()
    house.stand((1, 1), direction)
    assert house.do("goto red ball") == OK
    assert house.actions == turns


def test_goto_a_room_opens_the_door_on_the_way(house):
    house.face_door()
    house.door.is_open = True
    house.look()
    house.door.is_open = False
    house.stand((1, 1), EAST)
    assert house.do(f"goto {house.there}") == OK
    assert house.env.agent_room() == 1
    assert house.actions.count(Actions.toggle) == 1
    assert house.do(f"goto {house.there}") == OK
    assert house.actions == []


@pytest.mark.parametrize("name", ["red ball", "castle", "red", "ball at left"])
def test_goto_what_is_not_here(house, name):
    assert house.do(f"goto {name}") == failed(f"no {name} seen in {house.here}")
    assert house.actions == []


def test_goto_a_thing_of_another_room(house):
    house.put("red ball", (7, 2))
    house.stand((7, 3), NORTH)
    house.stand((1, 1), EAST)
    assert house.belief.find("red ball") != []
    assert house.do("goto red ball") == failed(f"no red ball seen in {house.here}")


def glance_at_the_other_room(house):
    """See the other room, and come back."""
    house.stand((7, 2), EAST)
    house.look_around()
    house.stand((1, 1), EAST)


def test_a_thing_named_with_its_room_is_gone_to_from_anywhere(house):
    house.put("red ball", (8, 3))
    glance_at_the_other_room(house)
    assert house.do(f"goto red ball in {house.there}") == OK
    assert tuple(house.env.front_pos) == (8, 3)


def test_a_thing_named_with_the_wrong_room_costs_the_way_there(house):
    house.put("red ball", (3, 3))
    glance_at_the_other_room(house)
    assert house.do(f"goto red ball in {house.there}") == failed(f"no red ball seen in {house.there}")
    assert house.env.agent_room() == 1


def test_a_thing_that_was_not_known_is_found_by_going_to_its_room(house):
    glance_at_the_other_room(house)
    house.put("red ball", (7, 2))
    assert house.belief.find("red ball") == []
    assert house.do(f"goto red ball in {house.there}") == OK


def test_a_thing_named_with_a_room_that_cannot_be_got_to(house):
    assert house.do(f"goto red ball in {house.there}") == failed(f"{house.there} was never seen")
    glance_at_the_other_room(house)
    house.lock()
    name = house.face_door()
    assert house.do(f"goto red ball in {house.there}") == failed(f"{name} locked")


def test_goto_a_room_that_was_never_seen(house):
    assert house.do(f"goto {house.there}") == failed(f"{house.there} was never seen")


def test_goto_a_room_behind_a_locked_door(house):
    house.stand((7, 3), NORTH)
    house.look_around()
    house.lock()
    name = house.face_door()
    assert house.do(f"goto {house.there}") == failed(f"{name} locked")


def test_goto_a_room_that_was_only_glimpsed(house):
    house.face_door()
    house.belief.room[-1, -1] = 1
    assert house.do(f"goto {house.there}") == failed("no way known")


def test_goto_behind_what_is_in_the_way(house):
    house.put("red key", (4, 4))
    wall_in(house)
    assert house.do("goto red key").text.startswith("failed, way blocked by ")


def test_what_is_in_the_way_is_what_the_way_with_the_fewest_obstacles_comes_to(house):
    """Straight on are two things in a row, around the first of them only one."""
    house.put("red key", (4, 1))
    house.put("blue key", (2, 1))
    wall_in(house)
    house.look_around()
    reason = house.do("goto red key").text.removeprefix("failed, way blocked by ")
    assert reason in ("blue ball", "green ball", "grey ball")


def test_of_two_of_a_name_the_one_that_stands_in_the_doorway_is_meant(house):
    x, y = map(int, house.door.cur_pos)
    house.belief = Belief(house.env.room_names, unique_names=False)
    house.door.is_open = True
    house.put("red ball", (x + 1, y))
    house.put("red ball", (x - 2, y))
    house.stand((x - 1, y), EAST)
    house.look_around()
    house.stand((x - 3, y), EAST)
    assert house.do("goto red ball") == OK
    assert tuple(house.env.front_pos) == (x + 1, y)


def test_goto_a_thing_that_is_carried_away_meanwhile(house):
    house.put("red ball", (4, 3))
    house.look()
    outcome = house.do("goto red ball", lambda n: house.remove("red ball") if n == 1 else None)
    assert outcome == failed("red ball is gone")


# ---- explore and done ----------------------------------------------------------------------------------------------------------


def test_explore_sees_all_of_this_room_then_of_the_next(house):
    assert house.do("explore") == OK
    assert house.env.is_inspected(0)
    assert house.do("explore") == OK
    assert house.env.is_inspected(1)


def test_explore_looks_again_where_all_was_seen(house):
    for _ in range(2):
        house.do("explore")
    house.put("red ball", (2, 2))
    house.stand((8, 2), EAST)
    assert house.do("explore") == OK
    assert house.env.agent_room() == 0
    assert house.belief.find("red ball") != []


def test_explore_does_not_pass_a_locked_door(house):
    house.lock()
    for _ in range(3):
        assert house.do("explore") == OK
        assert house.env.agent_room() == 0
    assert house.belief.known_rooms() == [0]


def test_done_is_one_action(house):
    assert house.do("done") == OK
    assert house.actions == [Actions.done]
