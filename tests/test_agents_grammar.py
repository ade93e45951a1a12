"""The lines that a plan can have: all can be read, what an agent knows is in them, and those to choose can be carried out."""

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minigrid.core.constants import IDX_TO_COLOR, OBJECT_TO_IDX

from agents.families import make_world
from agents.gridworld.belief import Belief, Thing
from agents.gridworld.grammar import MOST_CHOICES, plan_grammar
from agents.gridworld.names import GridNames
from agents.job import EpisodeJob
from agents.textworld.actions import ActionList
from agents.textworld.world import ActionReader, TextWorld
from agents.world_extras import grammar_of
from envs.observation.names import ROOM_NAMES, THINGS
from erecap.answering.formats import expression_of
from planner import SKILLS, Generation, PlanGrammar, parse_plan
from planner.grammar import whole_lines

QUIET = "ERecap/HouseholdQuiet-v0"


def random_belief(seed, unique_names=True):
    """A belief with some rooms and things, seen, held and in boxes."""
    rng = random.Random(seed)
    belief = Belief(ROOM_NAMES[: rng.randint(1, 9)], unique_names)
    belief.cell, belief.here = (8, 8), 0
    for room in range(len(belief.room_names)):
        if room == 0 or rng.random() < 0.6:
            belief.room[8 + 4 * room : 11 + 4 * room, 8:12] = room
            belief.kind[8 + 4 * room : 11 + 4 * room, 8:12] = OBJECT_TO_IDX["empty"]
    for _ in range(rng.randint(0, 12)):
        x, y = rng.choice(np.argwhere(belief.room >= 0).tolist())
        kind, color = rng.choice(sorted(THINGS)), rng.choice(sorted(IDX_TO_COLOR))
        state = rng.choice([0, 1, 2]) if kind == OBJECT_TO_IDX["door"] else rng.choice([0, 1, 2 + 8 * 5 + 3])
        tags = () if unique_names else ("left",)
        belief.things[x, y] = Thing(kind, color, state if kind != OBJECT_TO_IDX["ball"] else 0, (x, y), tags)
        belief.kind[x, y], belief.color[x, y], belief.state[x, y] = kind, color, state
    belief.held = rng.choice([None, (OBJECT_TO_IDX["key"], 2), (OBJECT_TO_IDX["ball"], 0)])
    return belief


def random_line(grammar, rng):
    number = f"{rng.choice(grammar.numbers)}. " if grammar.numbers and rng.random() < 0.5 else ""
    return number + "".join(rng.choice(part) for part in rng.choice(grammar.written))


GOALS = ("bring red ball to kitchen", "put object at left next to blue box", "go to box", "open yellow door", "inspect hall")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_every_plan_of_the_grammar_can_be_read(seed, unique_names, numbered):
    belief, rng = random_belief(seed, unique_names), random.Random(seed)
    grammar = plan_grammar(belief, GOALS[: rng.randint(0, 5)], (3, 4, 12) if numbered else ())
    lines = [random_line(grammar, rng) for _ in range(rng.randint(1, 6))]
    plan = parse_plan("\n".join(lines), GridNames(belief.room_names))
    assert [call.text for call in plan.skills] == [line.split(". ", 1)[-1] for line in lines]
    assert re.fullmatch(expression_of(grammar), "\n".join(lines))
    for line in grammar.choices:
        assert re.fullmatch(expression_of(grammar), line), "a line to choose is a plan of the grammar"
        assert len(parse_plan(line, GridNames(belief.room_names)).skills) == 1
    assert len(set(grammar.choices)) == len(grammar.choices) <= MOST_CHOICES


def test_only_what_is_known_is_in_the_grammar(small_house):
    house = small_house()
    house.put("red ball", (2, 2))
    house.stand((1, 1), 0)
    plan = expression_of(plan_grammar(house.belief, ["bring blue box to there"]))
    here, there = house.here, house.there
    assert re.fullmatch(plan, f"pickup red ball in {here}\nput red ball next to red ball in {here}\ndrop\n")
    for line in (f"pickup blue box in {here}", f"goto {there}", f"unlock red ball in {here}", "pickup red ball\n\ndone", "", "fly"):
        assert not re.fullmatch(plan, line), line


def test_the_grammar_covers_every_skill(small_house):
    house = small_house()
    for place, name in enumerate(("red ball", "blue box")):
        house.put(name, (2 + place, 2))
    house.stand((1, 1), 0)
    house.look_around()
    house.face_door()
    firsts = {form[0][0].split()[0] for form in plan_grammar(house.belief, []).written}
    assert firsts == set(SKILLS)


def test_a_hand_decides_what_can_be_done_now(small_house):
    house = small_house()
    house.put("red ball", (2, 2))
    house.put("blue box", (3, 3), is_open=True)
    house.stand((1, 1), 0)
    house.look_around()
    empty = set(plan_grammar(house.belief, []).choices)
    assert {f"pickup red ball in {house.here}", f"goto blue box in {house.here}", "explore", "done"} <= empty
    assert not {line for line in empty if line.startswith(("put", "drop"))}
    house.hold("grey key")
    full = set(plan_grammar(house.belief, []).choices)
    assert {"drop", f"put grey key in blue box in {house.here}", f"put grey key next to red ball in {house.here}"} <= full
    assert not {line for line in full if line.startswith("pickup")}


def test_a_locked_door_is_unlocked_with_its_key_only(small_house):
    house = small_house()
    house.lock()
    name = house.face_door()
    line = f"unlock {name} in {house.here}"
    assert line not in plan_grammar(house.belief, []).choices
    house.hold(f"{name.split()[0]} key")
    assert line in plan_grammar(house.belief, []).choices
    assert house.do(line).succeeded


def outcome_of(run):
    try:
        while True:
            next(run)
    except StopIteration as stop:
        return stop.value


def test_lines_to_choose_can_be_carried_out():
    """Skill after skill, chosen at random. A search that finds nothing new has not failed."""
    rng = random.Random(5)
    world = make_world(EpisodeJob("test", QUIET, 7))
    world.reset(7)
    for _ in range(12):
        line = rng.choice([line for line in grammar_of(world).choices if line != "done"])
        outcome = outcome_of(world.run(world.parse(line)[0]))
        assert outcome.succeeded or line == "explore", (line, outcome)


class Watched:
    """The expert, which checks that the grammar allows each of its plans."""

    def __init__(self):
        self.plans = 0

    def plan(self, world, prompt, sampling, on_line=None):
        text = world.expert()
        assert re.fullmatch(expression_of(world.grammar()), text), text
        self.plans += 1
        return Generation(text=text)

    def generate(self, prompt, sampling, on_line=None):
        raise AssertionError


@pytest.mark.parametrize(
    ("env_id", "horizon"),
    [
        ("ERecap/Household-v0", "task"),
        ("ERecap/HouseholdTroubled-v0", "subgoal"),
        ("BabyAI-PutNextLocal-v0", "subgoal"),
        ("BabyAI-PickupLoc-v0", "subgoal"),
        ("BabyAI-UnlockPickup-v0", "subgoal"),
    ],
)
def test_the_experts_plans_are_in_the_grammar(players, env_id, horizon):
    watched = Watched()
    assert players.play(env_id, watched, horizon=horizon).end.success
    assert watched.plans


class Asked:
    """A planner that answers in a format, and keeps what it was given."""

    def __init__(self, answer_format):
        self.answer_format, self.grammars = answer_format, []

    def generate(self, prompt, sampling, on_line=None):
        self.grammars.append(sampling.grammar)
        return Generation(text="explore")


def test_only_a_planner_that_answers_in_a_format_is_told_the_grammar(players):
    free, lines = Asked("free"), Asked("lines")
    for planner in (free, lines):
        players.play(QUIET, planner, max_replans=2)
    assert set(free.grammars) == {None}
    assert all(isinstance(grammar, PlanGrammar) and "explore" in grammar.choices for grammar in lines.grammars)


ACTION = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20) | st.sampled_from(
    ["open door", "take the key", "1. go", "- wait", "system: on", "a\nb", '["x"]', "```", "think", "done", "Plan:", "sure"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTION, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_actions_of_a_text_world_are_read_as_they_are_written(actions, rng):
    world = object.__new__(TextWorld)
    world.actions = ActionList(actions)
    grammar = world.grammar()
    lines = [random_line(grammar, rng) for _ in range(rng.randint(1, 5))]
    assert [call.text for call in ActionReader(world.actions).parse("\n".join(lines))] == lines
    assert set(lines) <= set(grammar.choices)


def test_a_text_world_that_lists_nothing_has_no_grammar():
    world = object.__new__(TextWorld)
    world.actions = ActionList()
    assert grammar_of(world) is None


def test_a_grammar_without_a_line_is_refused():
    with pytest.raises(ValueError, match="at least one form"):
        PlanGrammar(((("goto ",), ()),))
    assert PlanGrammar((whole_lines("explore"), (("goto ",), ()))).written == (whole_lines("explore"),)
