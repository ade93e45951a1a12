"""Worlds of simulators: experts, seeds, the Java process. Most tests need neither Java nor the simulators."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs import HELD_OUT, SCIENCE_WORLD, TEXTWORLD_EXPRESS, make_env
from envs.registration import TEXTWORLD_SEARCHED
from envs.simulators import jvm, science_world, textworld_express
from envs.simulators.gold_path import GoldPath
from envs.simulators.jvm import Program, Simulator, SimulatorError
from envs.simulators.science_world import ScienceWorldEnv
from envs.simulators.search import CoinSearch, CookingSearch
from envs.simulators.textworld_express import DEV_SEEDS, SPLIT, TEST_SEEDS, TextWorldExpressEnv, game_of

ROOT = Path(__file__).parent.parent
HERE = shutil.which("java") is not None and all(map(find_spec, ("py4j", "textworld_express", "scienceworld")))
simulated = pytest.mark.skipif(not HERE, reason="needs Java (Debian: default-jre-headless) and the extra `worlds`")
with_py4j = pytest.mark.skipif(find_spec("py4j") is None, reason="needs py4j, of the extra `worlds`")


# ---- the gold path --------------------------------------------------------------------------------------------------------------


def path() -> GoldPath:
    return GoldPath(
        ["look around", "take key", "open door", "take coin"], "hall", lambda action: action.startswith(("look", "open"))
    )


def test_a_plan_ends_where_something_new_is_seen():
    gold = path()
    assert gold.plan() == ["look around"]
    gold.take("look around", "hall")
    assert gold.plan() == ["take key", "open door"]
    gold.take("take key", "hall, key")
    assert gold.plan() == ["open door"]
    gold.take("open door", "hall, key, open")
    gold.take("take coin", "coin")
    assert gold.plan() == []


def test_what_changes_nothing_and_a_detour_that_leads_back_do_no_harm():
    gold = path()
    gold.take("look around", "hall")
    gold.take("sing", "hall")
    assert gold.plan() == ["take key", "open door"]
    gold.take("go north", "garden")
    gold.take("take key", "garden")  # the next action, elsewhere
    gold.take("go south", "hall")
    assert gold.plan() == ["take key", "open door"]


def test_off_the_path_the_expert_says_which_action_left_it():
    gold = path()
    gold.take("burn key", "ashes")
    gold.take("sing", "ashes")
    with pytest.raises(ValueError, match="no longer applies: 'burn key' has left it"):
        gold.plan()


# ---- experts that search --------------------------------------------------------------------------------------------------------


def said(look: str, *valid: str, inventory: str = "", observation: str = "") -> dict[str, object]:
    return {"look": look, "inventory": f"Inventory:\n{inventory}", "validActions": valid, "observation": observation}


HALL = "You are in the hall. There is a stove. To the North you see a closed wood door. To the East you see the attic. "
OPEN_HALL = HALL.replace("To the North you see a closed wood door", "Through an open wood door, to the North you see the cellar")
ATTIC = "You are in the attic. To the West you see the hall. "
CLOSED_CELLAR = "You are in the cellar. To the South you see a closed wood door. "
CELLAR = "You are in the cellar. Through an open wood door, to the South you see the hall. "


def test_a_search_opens_doors_enters_rooms_goes_back_and_ends():
    search = CoinSearch()
    seen = []
    for action, look in [
        ("", HALL),
        ("open door to north", OPEN_HALL),
        ("move east", ATTIC),
        ("move west", OPEN_HALL),
        ("move north", CELLAR),
    ]:
        search.see(action, said(look, "look around"))
        seen.append(search.plan())
    assert seen == [["open door to north"], ["move east"], ["move west"], ["move north"], []]
    search.see("look around", said(CELLAR, "take coin"))
    assert search.plan() == ["take coin"]


def test_a_search_goes_on_where_another_agent_has_left_it():
    search = CoinSearch()
    for action, look in [("", ATTIC), ("move west", HALL), ("move east", ATTIC)]:
        search.see(action, said(look))
    assert search.plan() == ["move west"]
    for action, look in [("move west", OPEN_HALL), ("move north", CELLAR), ("close door to south", CLOSED_CELLAR)]:
        search.see(action, said(look))
    assert search.plan() == ["open door to south"]


def test_a_cook_reads_collects_cuts_cooks_and_eats():
    cook = CookingSearch()
    recipe = "Ingredients:\n  carrot\n  salt\n\nDirections:\n  dice the carrot\n  fry the carrot\n  prepare meal\n"
    kitchen = "You are in the kitchen. In one part you see a stove. To the East you see the hall. "
    hall = "You are in the hall. To the West you see the kitchen. "
    turns = [
        ("", kitchen, "read cookbook", "", ["read cookbook"]),
        ("read cookbook", kitchen, "take knife|open fridge|open trash can", "", ["take knife"]),
        ("take knife", kitchen, "open fridge|open door to east", "  a knife", ["open fridge"]),
        ("open fridge", kitchen, "take carrot|open fridge", "  a knife", ["take carrot"]),
        ("take carrot", kitchen, "open fridge", "  a knife\n  a carrot", ["move east"]),
        ("move east", hall, "take salt", "  a knife\n  a carrot", ["take salt"]),
        ("take salt", hall, "", "  a knife\n  a carrot\n  some salt", ["dice carrot"]),
        ("dice carrot", hall, "", "  a knife\n  a diced carrot\n  some salt", ["move west", "cook carrot in stove"]),
        ("cook carrot in stove", kitchen, "", "  a knife\n  a fried diced carrot\n  some salt", ["prepare meal", "eat meal"]),
        ("prepare meal", kitchen, "eat meal", "  a knife\n  a meal", ["eat meal"]),
    ]
    for action, look, valid, inventory, plan in turns:
        text = recipe if action == "read cookbook" else ""
        cook.see(action, said(look, *valid.split("|"), inventory=inventory, observation=text))
        assert cook.plan() == plan


def test_only_games_with_a_search_have_one():
    with pytest.raises(ValueError, match="game 'sorting' has no expert that searches: choose from cookingworld, coin"):
        TextWorldExpressEnv("sorting", expert="search")


# ---- seeds ----------------------------------------------------------------------------------------------------------------------


def test_training_games_are_none_of_the_simulators_development_and_test_games():
    training = [game_of(seed) for seed in (0, 9_999, 10_000, 20_500, 499_999, HELD_OUT - 1)]
    assert {split for split, _ in training} == {"train"}
    assert not any(DEV_SEEDS <= game < TEST_SEEDS + SPLIT for _, game in training)
    assert len({game for _, game in training}) == len(training)
    assert game_of(HELD_OUT) == ("test", TEST_SEEDS)
    assert game_of(HELD_OUT + SPLIT + 3) == ("test", TEST_SEEDS + 3)


# ---- TextWorld-Express, faked ---------------------------------------------------------------------------------------------------


class FakeGame:
    """A game of one action, which wins, fails or goes on, as its text says."""

    def __init__(self, program: Program) -> None:
        self.asked: list[tuple] = []

    def ask(self, method, *arguments):
        self.asked.append((method, *arguments))
        said = {
            "observation": " A hall. ",
            "look": "A hall.",
            "inventory": "Nothing.",
            "validActions": ["win", "fail"],
            "score": 0.0,
        }
        said |= {"tasksuccess": False, "taskfailure": False}
        if method == "stepJSON" and arguments[0] in ("win", "half", "fail"):
            said |= {"score": {"win": 1.0, "half": 0.5, "fail": -1.0}[arguments[0]], "taskfailure": arguments[0] == "fail"}
            said |= {"look": arguments[0], "tasksuccess": arguments[0] == "half"}
        return {"load": None, "getTaskDescription": "Win."}.get(method, json.dumps(said))

    def ask_texts(self, method):
        return ["win"]

    def close(self):
        self.asked.append(("closed",))


@pytest.fixture
def game(monkeypatch):
    monkeypatch.setattr(textworld_express, "Simulator", FakeGame)
    return make_env("ERecap/TextWorldCoin-v0")


def test_a_game_tells_task_actions_state_and_score(game):
    text, info = game.reset(seed=HELD_OUT + 7)
    assert text == "A hall."
    assert info == {
        "task": "Win.",
        "valid_actions": ["fail", "win"],
        "state": ["A hall.", "Nothing."],
        "progress": 0.0,
        "success": False,
    }
    asked = game.unwrapped._simulator.asked
    assert asked[:2] == [("load", "coin", ""), ("generateNewGameJSON", TEST_SEEDS + 7, "test", True)]
    assert game.unwrapped.expert_plan() == ["win"]
    game.reset(seed=3)
    assert ("generateNewGameJSON", 3, "train", True) in asked
    assert asked.count(("load", "coin", "")) == 1
    game.close()
    game.close()
    assert asked.count(("closed",)) == 1


@pytest.mark.parametrize(
    ("action", "reward", "over", "success"),
    [("win", 1.0, True, True), ("half", 0.5, True, False), ("fail", -1.0, True, False), ("wait", 0.0, False, False)],
)
def test_success_is_the_full_score_and_no_other_end(game, action, reward, over, success):
    game.reset(seed=0)
    _, found, terminated, truncated, info = game.step(action)
    assert (found, terminated, truncated, info["success"]) == (reward, over, False, success)
    assert info["progress"] == max(0.0, reward)


def test_a_fake_game_passes_gymnasiums_checker(monkeypatch):
    monkeypatch.setattr(textworld_express, "Simulator", FakeGame)
    check_env(TextWorldExpressEnv("coin"), skip_render_check=True)


def test_unknown_games_and_tasks_list_the_known_ones():
    with pytest.raises(ValueError, match="game 'chess' is unknown to TextWorld-Express: choose from cookingworld"):
        TextWorldExpressEnv("chess")
    with pytest.raises(ValueError, match="task 'chess' is unknown to ScienceWorld: choose from boil"):
        ScienceWorldEnv("chess")


def test_the_page_registers_games_and_lessons_of_a_users_own():
    page = (ROOT / "docs" / "worlds.md").read_text()
    code = next(block for block in page.split("```python\n")[1:] if "CoinNear" in block).partition("```")[0]
    before = set(gym.registry)
    try:
        exec(code, {})
        near, easy = (make_env(env_id) for env_id in ("CoinNear-v0", "BoilEasy-v0"))
        assert (near.unwrapped.parameters, near.spec.max_episode_steps) == ("numLocations=5, includeDoors=0", 40)
        assert (easy.unwrapped.simplifications, easy.unwrapped.list_actions) == ("easy", True)
    finally:
        for env_id in set(gym.registry) - before:
            gym.registry.pop(env_id)


# ---- ScienceWorld, faked --------------------------------------------------------------------------------------------------------


class FakeLesson:
    """A lesson in which time passes with each known action."""

    def __init__(self, program: Program) -> None:
        self.moves, self.score, self.loaded = 0, 0.0, ()

    def ask(self, method, *arguments):
        if method == "load":
            self.loaded, self.moves, self.score = arguments, 0, 0.0
            return ""
        if method == "step":
            known = arguments[0] in ("boil water", "focus on air", "heat")
            self.moves += known
            self.score = {"boil water": 1.0, "focus on air": -1.0}.get(arguments[0], self.score)
            return (
                "Fine."
                if known
                else "Ambiguous request: 0 or 1?"
                if arguments[0] == "open door"
                else "No known action matches that input."
            )
        answers = {"getVariationsTrain": [0, 1, 2], "getVariationsTest": [8, 9], "getTaskDescription": "Boil water."}
        answers |= {"getScore": self.score, "getCompleted": self.score == 1, "getNumMoves": self.moves}
        return answers.get(method, f"{method}.")

    def ask_numbers(self, method):
        return self.ask(method)

    def close(self):
        self.loaded = ()

    def ask_texts(self, method):
        return {"getGoldActionSequence": ["heat", "boil water"], "getPossibleObjects": ["water"]}.get(method, ["open OBJ", "wait"])


@pytest.fixture
def lesson(monkeypatch):
    science_world.variations.cache_clear()
    monkeypatch.setattr(science_world, "Simulator", FakeLesson)
    yield make_env("ERecap/ScienceWorld-boil-v0")
    science_world.variations.cache_clear()


def test_held_out_seeds_play_test_variations_and_all_others_training_variations(lesson):
    drawn = {}
    for first in (0, 500_000, HELD_OUT):
        drawn[first] = set()
        for seed in range(first, first + 20):
            lesson.reset(seed=seed)
            drawn[first].add(lesson.unwrapped.variation)
    assert drawn == {0: {0, 1, 2}, 500_000: {0, 1, 2}, HELD_OUT: {8, 9}}
    assert lesson.unwrapped._simulator.loaded[2:] == ("", True)


def test_a_lesson_tells_what_can_be_named_and_what_it_refuses(lesson):
    text, info = lesson.reset(seed=0)
    assert text == "freeActionLook."
    assert info["briefing"] == "The actions are: open OBJ, wait. Write for OBJ the name of a thing."
    assert info["state"] == ["freeActionLook.", "freeActionInventory.", "Actions can name: water."]
    assert "does not know this action" in lesson.step("fly")[4]["refused"]
    assert "answer with the number" in lesson.step("open door")[4]["refused"]
    assert lesson.step("heat")[4]["refused"] is None
    assert lesson.unwrapped.expert_plan() == ["boil water"]
    _, reward, over, _, info = lesson.step("boil water")
    assert (reward, over, info["success"], info["progress"]) == (1.0, True, True, 1.0)


def test_a_failed_lesson_is_over_and_no_success(lesson):
    lesson.reset(seed=0)
    _, reward, over, _, info = lesson.step("focus on air")
    assert (reward, over, info["success"], info["progress"]) == (-1.0, True, False, 0.0)


def test_a_refused_action_is_a_failure_and_a_reason_to_replan(lesson, players):
    run = players.play("ERecap/ScienceWorld-boil-v0", players.Script("heat\nfly\nboil water", "boil water"))
    assert [(step.skill, step.succeeded) for step in run.steps] == [("heat", True), ("fly", False), ("boil water", True)]
    assert [call.reason for call in run.calls] == ["start", "failure"]
    assert run.end.success
    assert run.transcript[1].entry == "briefing"
    assert "fly: failed, the world does not know this action" in run.observations[1]
    assert run.observations[1].splitlines()[-2] == "Actions can name: water."


# ---- the Java process -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A simulator's package with an empty jar, and a folder for programs called java."""
    (tmp_path / "lib" / "toy_simulator").mkdir(parents=True)
    (tmp_path / "lib" / "toy_simulator" / "__init__.py").write_text("raise RuntimeError('it must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(jvm, "_RUNNING", {})
    return Program("Toy", "toy_simulator", "toy.jar", "toy.Server")


def java(folder: Path, script: str) -> None:
    (folder / "java").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "java").chmod(0o755)


@with_py4j
def test_without_java_the_error_names_the_package(program, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SimulatorError, match=r"Toy runs on Java, and there is no 'java' on PATH: install .*default-jre-headless"):
        jvm.shared_jvm(program)


@with_py4j
def test_a_java_that_does_not_start_is_quoted(program, tmp_path):
    java(tmp_path, "echo 'Error: no space for heap' >&2; exit 1")
    with pytest.raises(SimulatorError, match=r"java does not start \(Error: no space for heap\): install"):
        jvm.shared_jvm(program)


def test_without_the_package_the_error_names_the_extra():
    with pytest.raises(
        SimulatorError, match=r"needs the package 'not_there', which is not installed: pip install 'erecap\[worlds\]'"
    ):
        Program("Toy", "not_there", "toy.jar", "toy.Server").path()


@with_py4j
def test_one_process_serves_all_gets_no_ctrl_c_and_leaves_no_zombie(program, tmp_path):
    java(tmp_path, "echo 4711; exec cat > /dev/null")  # as py4j's server: a port, then the end of its input ends it
    first = jvm.shared_jvm(program)
    assert jvm.shared_jvm(program) is first
    assert os.getpgid(first.process.pid) != os.getpgid(0)
    first.close()
    assert first.process.returncode == 0
    again = jvm.shared_jvm(program)
    assert again is not first
    again.close()


@with_py4j
def test_a_process_that_does_not_leave_is_killed(program, tmp_path, monkeypatch):
    monkeypatch.setattr(jvm, "GRACE_S", 0.01)
    java(tmp_path, "trap '' TERM; echo 4711; while :; do read line || exec tail -f /dev/null; done")
    stubborn = jvm.shared_jvm(program)
    stubborn.close()
    assert stubborn.process.returncode == -signal.SIGKILL


class Interrupted:
    """As py4j's objects are, when Ctrl-C comes while they wait for an answer."""

    def step(self):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            self.shutdown_socket()

    def other(self):
        self.shutdown_socket()


@with_py4j
def test_ctrl_c_in_a_call_is_ctrl_c():
    simulator = object.__new__(Simulator)
    simulator._server, simulator.jvm = Interrupted(), SimpleNamespace(program=textworld_express.PROGRAM)
    with pytest.raises(KeyboardInterrupt):
        simulator.ask("step")
    with pytest.raises(AttributeError, match="shutdown_socket"):
        simulator.ask("other")


def test_the_command_line_says_what_is_missing(invoke, monkeypatch, tmp_path):
    monkeypatch.setattr(jvm, "_RUNNING", {})
    monkeypatch.setattr(jvm.shutil, "which", lambda name: None)
    done = invoke("run", "--suite", "textworld", "--backend", "expert", "--episodes", "1", "--out", tmp_path / "run")
    assert isinstance(done.exception, SimulatorError)
    assert "TextWorld-Express" in str(done.exception)


# ---- the simulators themselves --------------------------------------------------------------------------------------------------


@simulated
@pytest.mark.parametrize("env_id", TEXTWORLD_EXPRESS)
def test_the_gold_path_wins_every_kind_of_game(env_id, players):
    run = players.play(env_id, seed=HELD_OUT)
    assert run.end.end == "success"
    assert all(step.succeeded for step in run.steps), "the world refuses an action of its own gold path"


@simulated
@pytest.mark.parametrize("env_id", TEXTWORLD_SEARCHED)
def test_the_expert_that_searches_wins_from_wherever_another_agent_has_gone(env_id):
    env = make_env(env_id)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        _, info = env.reset(seed=seed)
        over = False
        for _ in range(12):
            harmless = [action for action in info["valid_actions"] if action.startswith(("move ", "open ", "look "))]
            *_, info = env.step(harmless[rng.integers(len(harmless))])
        while not over:
            for action in env.unwrapped.expert_plan():
                assert action in info["valid_actions"]
                _, _, ended, late, info = env.step(action)
                over = ended or late
        assert info["success"]
    env.close()


@simulated
def test_a_real_game_answers_what_it_does_not_know_and_repeats_itself():
    env = make_env("ERecap/TextWorldCooking-v0")
    first = env.reset(seed=5)
    assert env.reset(seed=5) == first
    assert env.step("fly to the moon")[0].startswith("Unknown action")
    assert env.unwrapped.expert_plan(), "it has changed nothing"
    env.close()


@simulated
def test_parameters_reach_the_game():
    env = TextWorldExpressEnv("coin", "numLocations=3, includeDoors=0")
    env.reset(seed=0)
    made = json.loads(env._simulator.ask("getGenerationPropertiesJSON"))
    assert (made["numLocations"], made["includeDoors"]) == (3, 0)
    env.close()
    with pytest.raises(ValueError, match="parameters 'numRooms=3' of the game 'coin' are refused"):
        TextWorldExpressEnv("coin", "numRooms=3").reset(seed=0)


@simulated
@pytest.mark.slow
@pytest.mark.parametrize("env_id", SCIENCE_WORLD)
def test_the_gold_path_passes_every_lesson(env_id, players):
    assert players.play(env_id, seed=HELD_OUT).end.end == "success"


@simulated
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_java_ends_with_the_command(number, tmp_path):
    words = ["run", "--suite", "textworld", "--backend", "expert", "--episodes", "500", "--out", str(tmp_path / "run")]
    errors = tmp_path / "errors"
    with errors.open("w") as file:
        command = subprocess.Popen([sys.executable, "-m", "benchmarks.cli", *words], cwd=ROOT, start_new_session=True, stderr=file)
    steps = tmp_path / "run" / "steps.jsonl"
    while not (steps.exists() and steps.stat().st_size):
        with pytest.raises(subprocess.TimeoutExpired):
            command.wait(0.1)
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    ends = [os.pidfd_open(int(child)) for child in children]  # each can be read from as soon as its process has ended
    os.killpg(command.pid, number)
    assert command.wait() == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors.read_text()
    assert ends
    assert all(select.select([end], [], [], 20)[0] for end in ends), "Java still runs"
    for end in ends:
        os.close(end)
