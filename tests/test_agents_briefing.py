"""The inventory as the agent takes it: believed, no news, contradicted by what is seen, and told to the planner once."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from agents.demonstrations import Sample
from agents.expert_backend import ExpertBackend
from agents.gridworld.belief import MARGIN, Belief
from agents.gridworld.briefing import TITLE, briefing
from agents.gridworld.skills.explore import next_frontier
from agents.gridworld.world import GridWorld
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.recorded_prompts import rebuild_prompts
from agents.records import EpisodeRecord, PlannerCall, TranscriptRecord
from benchmarks.recipes.planner.dataset import chat_messages
from envs import make_env
from envs.household.inventory import survey
from envs.observation.names import LOCKED
from planner import Entry

REPLAN = "ERecap/HouseholdReplan-v0"
EAST, SOUTH, WEST, NORTH = range(4)


def at(x, y):
    return x + MARGIN, y + MARGIN


@pytest.fixture
def house(small_house):
    """``house(**places)``: a house of two rooms with these things, of which the agent has an inventory and has seen nothing."""

    def furnished(**places):
        house = small_house()
        for name, cell in places.items():
            house.put(name.replace("_", " "), cell)
        house.belief = Belief(house.env.room_names, unique_names=True)
        house.belief.take_inventory(**survey(house.env))
        return house

    return furnished


@pytest.fixture(scope="module")
def expert_runs():
    """Three episodes of the expert, which plans for the whole task."""

    def play(seed):
        records = []
        end = run_episode(EpisodeJob("expert", REPLAN, seed, horizon="task"), ExpertBackend(), AgentConfig(), records.append)
        kinds = ((TranscriptRecord, "transcript"), (PlannerCall, "calls"), (EpisodeRecord, "ends"))
        return SimpleNamespace(end=end, **{name: [r for r in records if isinstance(r, kind)] for kind, name in kinds})

    return [play(seed) for seed in range(1_000_000, 1_000_003)]


# ---- belief --------------------------------------------------------------------------------------------------------------------


def test_an_inventory_is_believed_and_is_no_news(house):
    belief = house(red_ball=(7, 2), blue_box=(8, 3)).belief
    assert belief.find("red ball")[0].cell == at(7, 2)
    assert belief.known_rooms() == [0, 1]
    assert (belief.fresh, belief.gone, belief.surprises) == ({}, {}, set())
    assert set(np.unique(belief.seen_at)) == {-1, 0}


def test_what_is_as_it_was_listed_is_neither_news_nor_a_surprise(house):
    house = house(red_ball=(3, 1))
    house.stand((1, 1), EAST)
    assert at(3, 1) in house.belief.in_view
    assert (house.belief.fresh, house.belief.gone, house.belief.surprises) == ({}, {}, set())


def test_what_is_gone_from_its_listed_place_is_a_surprise(house):
    house = house(red_ball=(3, 1))
    house.move("red ball", (7, 2))
    house.stand((1, 1), EAST)
    assert list(house.belief.gone) == ["red ball"]
    assert house.belief.surprises == {"red ball"}
    assert house.belief.find("red ball") == []


def test_what_is_seen_elsewhere_has_left_its_listed_place(house):
    house = house(red_ball=(7, 2))
    house.move("red ball", (3, 1))
    house.stand((1, 1), EAST)
    assert [thing.cell for thing in house.belief.find("red ball")] == [at(3, 1)]
    assert house.belief.surprises == {"red ball"}


def test_a_door_that_has_been_locked_since_is_a_surprise(house):
    house = house()
    house.lock()
    name = house.face_door()
    assert house.belief.surprises == {name}
    assert house.belief.find(name)[0].state == LOCKED


def test_exploring_goes_on_until_all_rooms_have_been_in_view(house):
    house = house()
    house.stand((1, 1), EAST)
    assert next_frontier(house.belief, house.belief.here) is not None
    while next_frontier(house.belief, house.belief.here) is not None:
        assert house.do("explore").succeeded
    assert (house.belief.seen_at[house.belief.room >= 0] > 0).all()


def test_what_stands_in_a_listed_room_can_be_fetched_at_once(house):
    house = house(red_ball=(7, 2))
    house.stand((1, 1), EAST)
    assert house.do(f"pickup red ball in {house.there}").succeeded


# ---- text ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_the_briefing_says_what_the_inventory_says(seed):
    world = GridWorld(make_env(REPLAN), "verbose", "task")
    assert world.briefing is None
    world.reset(seed)
    title, *rooms = world.briefing.splitlines()
    names = world._unwrapped.room_names
    assert title == TITLE
    assert [line.partition(":")[0] for line in rooms] == list(names)
    found = re.findall(r"(\w+ (?:ball|key|box|door)) in (\w+)( \w+)?[,.]", "\n".join(rooms))
    inventory = Belief(names, unique_names=True)
    inventory.take_inventory(**world.info["inventory"])
    assert sorted(name for name, _, _ in found) == sorted(thing.name for thing in inventory.things.values())
    for name, room, condition in found:
        (thing,) = inventory.find(name, names.index(room))
        kind = name.split()[1]
        assert condition.strip() in {"door": ("open", "closed", "locked"), "box": ("closed",)}.get(kind, ("",))
        assert (condition == " locked") == (kind == "door" and thing.state == LOCKED)
    world.close()


def test_a_room_without_things_is_listed_too(house):
    house = house()
    assert f"{house.here}: nothing." in briefing(house.belief)


def test_the_planner_is_told_once_right_after_the_task(expert_runs):
    for run in expert_runs:
        assert [record.entry for record in run.transcript[:4]] == ["task", "briefing", "observation", "plan"]
        assert sum(record.entry == "briefing" for record in run.transcript) == 1


def test_recorded_prompts_and_training_messages_carry_the_briefing_unprotected(expert_runs):
    run = expert_runs[0]
    entries = tuple(Entry(record.entry, record.text) for record in run.transcript)
    for recorded in rebuild_prompts(run.end, entries, run.calls):
        segment = recorded.prompt.segments[2]
        assert (segment.role, segment.text, segment.protected) == ("user", entries[1].text, False)
    plans = [index for index, entry in enumerate(entries) if entry.kind == "plan"]
    messages = chat_messages(Sample(entries[: plans[-1] + 1], (None,) * len(plans), run.end.system))
    assert (messages[2]["role"], messages[2]["content"], messages[2]["protected"]) == ("user", entries[1].text, False)


@pytest.mark.parametrize("env_id", ["ERecap/HouseholdSmall-v0", "BabyAI-GoToLocal-v0"])
def test_a_world_without_an_inventory_tells_nothing(players, env_id):
    run = players.play(env_id, max_replans=1)
    assert [record.entry for record in run.transcript[:2]] == ["task", "observation"]


# ---- episodes ------------------------------------------------------------------------------------------------------------------


def test_the_expert_plans_the_task_and_is_contradicted(expert_runs):
    assert all(run.end.success for run in expert_runs)
    calls = [call for run in expert_runs for call in run.calls]
    again = [call.reason for call in calls if call.reason != "start"]
    assert np.median([len(call.plan) for call in calls]) >= 8
    assert sum(reason in ("failure", "surprise", "goal_changed") for reason in again) >= 0.7 * len(again)
    assert {"failure", "surprise", "goal_changed"} <= set(again)
