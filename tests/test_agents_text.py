"""What the agent is told comes from what it was shown, in both verbosities, and ends with where it stands."""

import re

import pytest

from agents import families
from agents.gridworld.belief import MARGIN
from agents.gridworld.reports import report
from envs import HOUSEHOLDS, LEVELS, Mention, Report, describe, task_text
from envs.household.containers import decode_content
from envs.observation.embodied import view_cells
from envs.observation.names import BALL, BOX, DOOR, THINGS, thing_name

ALL = [*HOUSEHOLDS, *LEVELS]
THING = re.compile(r"\b(?:red|green|blue|purple|yellow|grey) (?:door|key|ball|box)\b")
ROOM = re.compile(r"\b(?:kitchen|bedroom|bathroom|hall|study|garage|pantry|nursery|attic|room \d+)\b")
OUTCOME = re.compile(r"(?:You did .* and the outcome was|(?:goto|pickup|drop|put|open|unlock|explore|done|plan)\b[^:]*): (.*)")
REPORT = Report(
    outcomes=(("goto hall", "ok"), ("pickup red key", "failed, the grip slipped")),
    fresh=(Mention("red ball", "hall", "", 2, -1),),
    in_view=(Mention("red ball", "hall", "", 2, -1), Mention("blue door", "hall", "locked", 0, 3)),
    gone=("green key",),
    room="hall",
    held="",
    rooms=("kitchen", "hall"),
    unexplored=True,
    locked=(Mention("blue door", "hall", "locked"),),
    blocked=(("attic", "red key in hall"),),
    unopened=(Mention("grey box", "kitchen", "closed"),),
    done=1,
    total=3,
    subgoal="bring red ball to kitchen",
    column=4,
    row=7,
    direction=1,
)


@pytest.fixture
def taped(players, monkeypatch):
    """``taped(env_id, backend, seed, verbosity)``: a run and the tape of all that was shown."""

    def play(env_id, backend=None, seed=0, verbosity="terse", **options):
        tapes = []
        with monkeypatch.context() as patch:
            make_env = families.make_env

            def tape(*args, **kwargs):
                tapes.append(players.Tape(make_env(*args, **kwargs)))
                return tapes[0]

            patch.setattr("agents.families.make_env", tape)
            return players.play(env_id, backend, seed, verbosity, **options), tapes[0]

    return play


def things_in(observation, containers):
    """Names of the things that one observation shows, those in open boxes and in the hand included."""
    codes = observation["image"].reshape(-1, 3).tolist()
    shown = {thing_name(kind, color) for kind, color, _ in codes if kind in THINGS}
    contents = [decode_content(state) for kind, _, state in codes if kind == BOX and containers]
    return shown | {thing_name(*content) for content in contents if content}


def names_in(lines):
    text = "\n".join(lines)
    return set(THING.findall(text)), set(ROOM.findall(text))


def split(text):
    """The outcomes (without the skills, which are the planner's own words) and the rest (without the goal, which is the task's)."""
    lines = text.partition(" Goal: ")[0].splitlines()
    outcomes = [match.group(1) for match in map(OUTCOME.match, lines) if match]
    return outcomes, [line for line in lines if not OUTCOME.match(line)]


def assert_told_only_what_was_shown(run, tape):
    """Things and rooms; not where the agent is while it has stood in doorways only (see the test of that)."""
    told = names_in([r.text for r in run.transcript if r.entry == "briefing"])
    shown, rooms, placed = [told[0]], [told[1]], [False]
    for observation, *_ in tape.results:
        visible = observation["rooms"]
        placed.append(placed[-1] or visible[3, 6] >= 0)
        shown.append(shown[-1] | things_in(observation, tape.unique_names))
        rooms.append(rooms[-1] | {tape.room_names[room] for room in set(visible[visible >= 0].tolist())})
    plans = []
    for call in run.calls:
        if call.reason != "parse_error":
            text = next(r.text for r in reversed(run.transcript[: call.history_entries]) if r.entry == "observation")
            text = text if placed[call.env_step + 1] else re.sub(r"(?:You are|seen|free place) in [a-z0-9 ]+[,.]", "", text)
            outcomes, rest = map(names_in, split(text))
            things, places = shown[call.env_step + 1], rooms[call.env_step + 1]
            said, keys = names_in(plans), {name.replace("door", "key") for name in things}
            assert rest[0] <= things
            assert rest[1] <= places
            assert outcomes[0] <= things | said[0] | keys
            assert outcomes[1] <= places | said[1]
            plans = []
        plans.append(call.generation.text)


@pytest.mark.parametrize("env_id", ALL)
@pytest.mark.parametrize("verbosity", ["terse", "verbose"])
def test_the_expert_is_told_only_what_it_was_shown(taped, env_id, verbosity):
    for seed in range(2):
        run, tape = taped(env_id, None, seed, verbosity)
        assert_told_only_what_was_shown(run, tape)


@pytest.mark.parametrize("env_id", ALL)
def test_a_wanderer_is_told_only_what_it_was_shown(taped, players, env_id):
    for seed in range(3):
        run, tape = taped(env_id, players.Wanderer(seed), seed, "verbose" if seed else "terse", max_steps=250, max_replans=40)
        assert_told_only_what_was_shown(run, tape)


@pytest.mark.parametrize("env_id", ALL)
@pytest.mark.parametrize("wandering", [False, True])
def test_the_agent_needs_nothing_but_what_it_is_shown(taped, players, monkeypatch, env_id, wandering):
    """Played back without a world behind it, it acts and reports to the letter as it did in the world."""

    def backend():
        return players.Wanderer(5) if wandering else None

    run, tape = taped(env_id, backend(), 5, max_steps=300, max_replans=40)
    monkeypatch.setattr("agents.families.make_env", lambda *args, **kwargs: tape.player())
    again = players.play(env_id, backend(), 5, max_steps=300, max_replans=40)
    assert again.transcript == run.transcript
    assert again.steps == run.steps


@pytest.mark.parametrize("env_id", ["ERecap/Household-v0", "BossLevel"])
def test_the_map_holds_what_was_shown_last(taped, players, monkeypatch, env_id):
    """Every thing on the map was shown at its cell when that was in view last, and what was never in view is unknown."""
    beliefs = []

    class Spy(players.Wanderer):
        def plan(self, world, prompt, sampling, on_line=None):
            beliefs.append(world.belief)
            return super().plan(world, prompt, sampling, on_line)

    _, tape = taped(env_id, Spy(1), 1, max_steps=250, max_replans=40)
    last = last_codes(tape)
    belief = beliefs[-1]
    for cell, thing in belief.things.items():
        assert last[cell] == (thing.kind, thing.color, thing.state)
    known = {(int(x), int(y)) for x, y in zip(*belief.kind.nonzero(), strict=True)}
    assert known <= set(last)


def last_codes(tape):
    """What each cell showed when it was in view last, by the belief's coordinates."""
    last = {}
    for observation, *_ in tape.results:
        image, (x, y) = observation["image"], observation["pose"]
        view = image.shape[0]
        cells = view_cells(int(x), int(y), int(observation["direction"]), view) + MARGIN
        for i in range(view):
            for j in range(view):
                if image[i, j, 0] != 0:
                    here = (i, j) == (view // 2, view - 1)
                    cell = tuple(int(v) for v in cells[i, j])
                    last[cell] = last.get(cell) if here and last.get(cell, (0,))[0] == DOOR else tuple(int(v) for v in image[i, j])
    return last


@pytest.mark.parametrize(("env_id", "seed"), [("KeyCorridor", 0), ("ERecap/HouseholdRecall-v0", 13)])
def test_an_agent_that_starts_in_a_doorway_is_told_a_room_that_it_sees(taped, players, env_id, seed):
    run, tape = taped(env_id, players.Script(), seed, max_replans=1)
    visible = tape.results[0][0]["rooms"]
    assert visible[3, 6] < 0, "this seed does not start in a doorway"
    named = re.search(r"You are in ([a-z0-9 ]+),", run.observations[0]).group(1)
    assert named in {tape.room_names[room] for room in visible[visible >= 0]}


# ---- the words -----------------------------------------------------------------------------------------------------------------


def test_terse():
    assert describe(REPORT, "terse").splitlines() == [
        "goto hall: ok.",
        "pickup red key: failed, the grip slipped.",
        "Seen: red ball in hall.",
        "Gone: green key.",
        "Rooms: kitchen, hall. Unexplored: yes. Unopened: grey box in kitchen. Locked: blue door in hall."
        " Blocked: attic by red key in hall.",
        "Progress 1/3. You are in hall, holding nothing. Goal: bring red ball to kitchen.",
    ]


def test_verbose():
    assert describe(REPORT, "verbose").splitlines() == [
        "You did goto hall and the outcome was: ok.",
        "You did pickup red key and the outcome was: failed, the grip slipped.",
        "You stand in column 4 and row 7 of the house and you look south.",
        "You notice red ball in hall, 2 steps ahead and 1 steps to the left of where you stand.",
        "You see blue door in hall locked, 0 steps ahead and 3 steps to the right of where you stand.",
        "Gone: green key.",
        *describe(REPORT, "terse").splitlines()[-2:],
    ]


def test_an_unknown_verbosity_is_an_error():
    with pytest.raises(ValueError, match="verbosity 'chatty' is unknown: choose from terse, verbose"):
        describe(REPORT, "chatty")


def test_the_task():
    assert task_text(["open red door", "bring red ball to hall"]) == "Task: 1. open red door. 2. bring red ball to hall."


@pytest.mark.parametrize("env_id", ALL)
@pytest.mark.parametrize("verbosity", ["terse", "verbose"])
def test_every_observation_ends_with_progress_place_and_goal(players, env_id, verbosity):
    run = players.play(env_id, seed=1, verbosity=verbosity)
    last = re.compile(rf"Progress \d+/{run.end.subgoals_total}\. You are in [a-z0-9 ]+, holding [a-z ]+\. Goal: .+\.")
    assert run.observations
    assert all(last.fullmatch(text.splitlines()[-1]) for text in run.observations)
    assert all(re.match(r"Rooms: .+\. Unexplored: (?:yes|no)\.", text.splitlines()[-2]) for text in run.observations)


def test_verbose_tells_more_in_more_words(players):
    terse, verbose = (players.play("ERecap/Household-v0", seed=2, verbosity=v) for v in ("terse", "verbose"))
    assert [step.skill for step in terse.steps] == [step.skill for step in verbose.steps]
    assert all(len(b) > len(a) for a, b in zip(terse.observations, verbose.observations, strict=True))


def test_the_status_tells_what_can_be_got_at(small_house):
    house = small_house()
    door = f"{house.door.color} door"
    house.stand((7, 2), 0)
    house.look_around()
    house.put("blue box", (3, 2))
    house.put("red box", (4, 1), is_open=True)
    house.put("red ball", (1, 4))
    house.put("grey key", (2, 4))
    house.put("grey ball", (1, 3))
    house.lock()
    house.face_door()
    house.look_around()
    house.stand((1, 1), 0)
    house.look_around()
    text = describe(report(house.belief, [], "open red door", 0, 1), "terse").splitlines()[-2]
    assert f"Rooms: {', '.join(house.belief.room_names[room] for room in (0, 1))}. Unexplored: no." in text
    assert f" Unopened: blue box in {house.here}." in text
    assert f" Locked: {door} in {house.here}." in text
    blocked = text.partition(" Blocked: ")[2]
    assert f"{house.there} by {door} in {house.here}" in blocked
    assert f"red ball by grey ball in {house.here}" in blocked or f"red ball by grey key in {house.here}" in blocked


def test_places_are_told_from_where_the_agent_stands(small_house):
    house = small_house()
    house.put("red ball", (4, 2))
    house.stand((2, 3), 0)
    (ball,) = [mention for mention in report(house.belief, [], "", 0, 1).in_view if mention.name == "red ball"]
    assert (ball.ahead, ball.right) == (2, -1)
    assert thing_name(BALL, 0) == ball.name
