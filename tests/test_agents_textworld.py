"""A second family of worlds: a text kitchen of a user's own package, through the loop, the command line, replay and report."""

import importlib
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from agents.families import FAMILIES, Family, make_world, register_family
from agents.gridworld.world import GridWorld
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.textworld.actions import ActionList
from agents.textworld.info import read_actions, read_progress, read_texts
from agents.textworld.world import DEFAULT_MAX_STEPS, TextWorld
from planner import PlanParseError

KITCHEN = "my_kitchen:Kitchen-v0"
DOCS = Path(__file__).parent.parent / "docs" / "worlds.md"


@pytest.fixture(autouse=True)
def registry():
    """Nothing that a test registers with gymnasium stays registered, and no module stays imported that registers something."""
    before, modules = set(gym.registry), set(sys.modules)
    yield
    for env_id in set(gym.registry) - before:
        gym.registry.pop(env_id)
    for name in {"my_kitchen", "my_openenv", "text_zoo"} - modules:
        sys.modules.pop(name, None)


@pytest.fixture
def world(fakes):
    made = make_world(EpisodeJob("test", KITCHEN, 0))
    made.reset(0)
    return made


def carry_out(world, line):
    """The ticks of one line of a plan, and its outcome."""
    ticks, run = [], world.run(world.parse(line)[0])
    try:
        while True:
            ticks.append(next(run))
    except StopIteration as stop:
        return ticks, stop.value


def test_the_page_shows_the_kitchen_that_is_tested():
    assert (Path(__file__).parent / "fakes" / "my_kitchen.py").read_text() in DOCS.read_text()


def test_the_page_shows_the_openenv_client_that_is_tested():
    assert (Path(__file__).parent / "fakes" / "my_openenv.py").read_text() in DOCS.read_text()


class FakeServer:
    """OpenEnv's client of a server that wants a word to be said; ``state`` names the task."""

    def __init__(self):
        self.calls = []

    def answer(self, prompt, reward=None, done=False):
        return SimpleNamespace(
            observation={"prompt": prompt, "valid_actions": ["hello", "bye"]}, reward=reward, done=done, metadata=None
        )

    def reset(self, **options):
        self.calls.append(options)
        return self.answer("Say something.")

    def step(self, action):
        self.calls.append(action)
        right = action == {"message": "hello"}
        return self.answer("Thanks." if right else "What?", reward=float(right), done=right)

    def state(self):
        return {"episode_id": "7", "step_count": len(self.calls), "task": "greet"}

    def close(self):
        self.calls.append("close")


def test_an_environment_of_an_openenv_server_is_played(players, monkeypatch):
    server, module = FakeServer(), importlib.import_module("my_openenv")
    urls = []
    monkeypatch.setattr(module, "connect", lambda url: urls.append(url) or server)
    run = players.play("my_openenv:OpenEnvText-v0", players.Script("bye", "hello"), seed=4)
    assert (run.end.end, run.end.env_steps, run.end.reward) == ("success", 2, 1.0)
    assert urls == ["http://localhost:8000"]
    assert server.calls == [{"seed": 4}, {"message": "bye"}, {"message": "hello"}, "close"]
    assert run.observations[0] == "Say something.\nValid actions: hello, bye.\nProgress 0/1. Goal: greet"


def test_the_expert_serves_every_dish(players):
    runs = [players.play(KITCHEN, seed=seed) for seed in range(20)]
    assert all(run.end.success and run.end.subgoals_done == run.end.subgoals_total == 2 for run in runs)
    assert all(run.end.reward == pytest.approx(1.0) for run in runs)
    assert any(event == "the stove went out" for run in runs for step in run.steps for event in step.disturbances)
    assert all(step.place is None for run in runs for step in run.steps)
    assert {run.end.max_steps for run in runs} == {40}


def test_a_script_plays_and_what_the_world_refuses_is_a_failure(players):
    backend = players.Script("1. **Open fridge**\n2. eat fridge\n3. open drawer", "open cupboard", "done")
    run = players.play(KITCHEN, backend)
    assert [(step.skill, step.succeeded) for step in run.steps] == [
        ("open fridge", True), ("eat fridge", False), ("open cupboard", True), ("done", True),
    ]  # fmt: skip
    assert [call.reason for call in run.calls] == ["start", "failure", "plan_end"]
    assert run.steps[1].outcome == "failed, the world does not take this action here"
    assert run.end.end == "gave_up"
    assert "> eat fridge\nYou cannot eat fridge here." in run.observations[1]
    assert all(text.splitlines()[-2].startswith("Valid actions: ") for text in run.observations)
    assert run.observations[-1].splitlines()[-1].startswith("Progress 0/2. Goal: serve ")


def test_each_prompt_begins_with_the_one_before_it_and_with_the_worlds_own_system_text(players):
    backend = players.Script("open fridge", "open drawer", "open cupboard")
    run = players.play(KITCHEN, backend, max_replans=3)
    for before, after in pairwise(backend.prompts):
        assert after.messages()[: len(before.messages())] == before.messages()
    assert all(prompt.segments[0].text == TextWorld.system == run.end.system for prompt in backend.prompts)


def test_what_there_is_now_stands_at_the_end_unless_it_was_just_said(players):
    run = players.play("text_zoo:Told-v0", players.Script("Open (the) Door", "read map"))
    assert [entry.text for entry in run.transcript if entry.entry == "briefing"] == ["Speak\nand be heard."]
    assert run.observations[0] == "Here you are.\nYou hold nothing.\nProgress 0/3. Goal: get out"
    assert run.observations[1].splitlines()[1:4] == ["Right.", "Here you are.", "You hold nothing."]
    assert run.steps[1].outcome == "failed, there is no map"


def test_an_empty_answer_cannot_be_read(world):
    with pytest.raises(PlanParseError, match="there is no action in the answer"):
        world.parse("\n```\n```")


def test_an_action_keeps_the_worlds_own_spelling(world):
    world.actions = ActionList(["Open Fridge"])
    assert [action.text for action in world.parse("- open fridge\n- Look")] == ["Open Fridge", "look"]


def test_an_idle_step_counts(world):
    tick = world.idle()
    assert (tick.reward, tick.success, tick.progress.done) == (0.0, False, 0)
    assert "> wait\nYou cannot wait here." in world.describe([])


def test_the_step_limit_is_the_jobs(players):
    run = players.play(KITCHEN, players.Script(*["open fridge"] * 9), max_steps=3)
    assert (run.end.end, run.end.env_steps, run.end.max_steps) == ("step_limit", 3, 3)
    assert run.steps[-1].outcome == "interrupted, out of time"


class Silent(gym.Env):
    """Says nothing in ``info``, has no limit of steps, and its text is one part of the observation."""

    observation_space = gym.spaces.Dict({"score": gym.spaces.Discrete(2), "text": gym.spaces.Text(99)})
    action_space = gym.spaces.Text(99)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"score": 0, "text": "A door."}, {}

    def step(self, action):
        return {"score": 0, "text": "Open."}, 1.0, action == "open door", False, {}


def test_an_environment_that_says_nothing_more_is_played():
    world = TextWorld(Silent())
    progress = world.reset(0)
    assert (progress.task, progress.total) == ("Task: do what the text asks for", 1)
    assert world.max_steps == DEFAULT_MAX_STEPS
    assert world.describe([]).startswith("A door.\nProgress 0/1.")
    assert world.expert() is None
    ticks, outcome = carry_out(world, "open door")
    assert outcome.succeeded
    assert (ticks[0].terminated, ticks[0].success, ticks[0].progress.done) == (True, True, 1)


def test_a_world_without_an_expert_says_so(players, monkeypatch):
    monkeypatch.setattr("agents.families.make_env", lambda *args, **kwargs: Silent())
    with pytest.raises(ValueError, match=r"this environment has no expert.*expert_plan"):
        players.play("Silent")


def test_families_of_the_users_own_are_asked_first(fakes, monkeypatch):
    monkeypatch.setattr("agents.families.FAMILIES", dict(FAMILIES))
    marked = []
    register_family("mine", Family(TextWorld.plays, lambda env, job: marked.append(job) or TextWorld.of_job(env, job)))
    make_world(EpisodeJob("test", KITCHEN, 0)).close()
    assert len(marked) == 1
    assert isinstance(make_world(EpisodeJob("test", "GoTo", 0)), GridWorld)


def test_what_no_family_plays_is_an_error(monkeypatch):
    monkeypatch.setattr("agents.families.make_env", lambda *args, **kwargs: gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="of no family that can be played"):
        make_world(EpisodeJob("test", "CartPole-v1", 0))


# ---- through the command line ---------------------------------------------------------------------------------------------------


def test_run_plays_a_users_environment(invoke, fakes, tmp_path):
    done = invoke("run", "--env", KITCHEN, "--backend", "expert", "--episodes", "3", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["backends"]["expert"] == last["backends"]["expert"] | {"episodes": 3, "success_rate": 1.0}


def test_run_plays_a_users_environment_in_workers(invoke, fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "fakes"))
    done = invoke("run", "--env", KITCHEN, "--backend", "expert", "--episodes", "3", "--workers", "2", "--out", tmp_path)
    assert done.exit_code == 0, done.output


# ---- environments that are odd in one way or another ----------------------------------------------------------------------------


def test_an_environment_that_lists_no_actions_gets_the_planners_own_spelling(players):
    plan = '1. Open (the) Door\n2) **say "hello, world"**\n- "take a key, then go"\ntoo much'
    run = players.play("text_zoo:Mute-v0", players.Script(plan))
    assert (run.end.end, run.end.env_steps, run.end.max_steps) == ("success", 3, DEFAULT_MAX_STEPS)
    assert [step.skill for step in run.steps] == ["Open (the) Door", 'say "hello, world"', "take a key, then go"]
    assert [step.subgoals_done for step in run.steps] == [0, 0, 1]


@pytest.mark.parametrize(
    "plan", ["open the door\nsay hello, world\ntake key, then go", "OPEN DOOR.\nSay 'hello, world'\ntake the key, then go"]
)
def test_a_line_finds_the_action_that_the_world_lists_when_it_is_taken(players, plan):
    run = players.play("text_zoo:Listed-v0", players.Script(plan))
    assert run.end.success
    assert all(step.succeeded for step in run.steps)
    assert [(step.subgoals_done, step.subgoals_total) for step in run.steps] == [(33, 100), (67, 100), (100, 100)]
    assert "Valid actions: Open (the) Door, Wait., Done (really)." in run.observations[0]


def test_actions_with_commas_are_listed_with_semicolons(players):
    run = players.play("text_zoo:Listed-v0", players.Script("open door", "done really", "wait", "done"))
    assert 'Valid actions: say "hello, world"; Wait.; Done (really).' in run.observations[1]
    assert [line for text in run.observations for line in text.splitlines() if line.startswith(">")] == [
        "> Open (the) Door", "> Done (really)", "> Wait.",
    ]  # fmt: skip
    assert run.end.end == "gave_up"


def test_an_expert_may_return_its_plan_as_one_text(players):
    run = players.play("text_zoo:Listed-v0")
    assert (run.end.end, run.end.replans, run.end.skills) == ("success", 1, 3)


def test_what_is_said_at_the_beginning_only_stands(players):
    run = players.play("text_zoo:Forgetful-v0", players.Script("Open (the) Door\nturn back", "Done"))
    assert [call.reason for call in run.calls] == ["start", "plan_end"]
    assert run.observations[0] == "Here you are.\nProgress 0/3. Goal: get out"
    assert run.observations[1] == "> Open (the) Door\nRight.\n> turn back\nWrong.\nProgress 0/3. Goal: get out"
    assert run.end.end == "gave_up"


def test_a_success_reaches_all_subgoals_where_nothing_else_is_said(players):
    run = players.play("text_zoo:Forgetful-v0", players.Script('Open (the) Door\nsay "hello, world"\ntake a key, then go'))
    assert [(step.subgoals_done, step.subgoals_total) for step in run.steps] == [(0, 3), (0, 3), (3, 3)]
    assert run.end.success


def test_a_world_that_draws_itself_shows_each_step(players):
    shown = []
    job = EpisodeJob("test", "text_zoo:Painted-v0", 0)
    backend = players.Script("Open (the) Door\nlook\ndone")
    run_episode(job, backend, AgentConfig(), lambda record: None, lambda frame, caption: shown.append((int(frame.max()), caption)))
    assert shown == [(0, "start"), (50, "Open (the) Door"), (50, "look"), (50, "done")]


@pytest.mark.parametrize("env_id", ["text_zoo:Buttons-v0", "text_zoo:Robot-v0"])
def test_actions_that_are_no_text_are_named(fakes, env_id):
    with pytest.raises(ValueError, match=r"its action space Discrete\..*A text world takes Text actions"):
        make_world(EpisodeJob("test", env_id, 0))


def test_a_family_of_the_users_own_plays_what_has_neither_text_nor_rooms(fakes, monkeypatch):
    monkeypatch.setattr("agents.families.FAMILIES", dict(FAMILIES))
    made = []
    register_family(
        "robot", Family(lambda env: isinstance(env.observation_space, gym.spaces.Box), lambda env, job: made.append(env))
    )
    make_world(EpisodeJob("test", "text_zoo:Robot-v0", 0))
    assert type(made[0].unwrapped).__name__ == "Robot"


@pytest.mark.parametrize(("env_id", "said"), [("Broken", "has crashed"), ("Stillborn", "does not start")])
def test_an_environment_that_raises_is_closed(players, env_id, said):
    zoo = importlib.import_module("text_zoo")
    with pytest.raises(RuntimeError, match=said):
        players.play(f"text_zoo:{env_id}-v0", players.Script("Open (the) Door\nlook"))
    assert getattr(zoo, env_id).closed == 1


def test_a_world_that_cannot_be_drawn_says_so(fakes):
    with pytest.raises(ValueError, match=r"cannot be drawn as 'rgb_array', its render modes are \[\]: list the mode in Kitchen"):
        make_world(EpisodeJob("test", KITCHEN, 0), render=True)


@pytest.mark.parametrize(
    ("said", "progress"),
    [(0.25, (25, 100)), (np.float32(1), (100, 100)), (0, (0, 100)), ((1, 3), (1, 3)), (np.array([2, 4]), (2, 4)), (None, None)],
)
def test_progress_is_a_share_or_a_pair(said, progress):
    assert read_progress({"progress": said}) == progress


@pytest.mark.parametrize("said", [1.5, -1, float("nan"), (3, 2), (0.5, 1), (1, 2, 3), (-1, 2)])
def test_any_other_progress_is_an_error(said):
    with pytest.raises(ValueError, match=r"info\['progress'\] is .*: give a share from 0 to 1"):
        read_progress({"progress": said})


def test_valid_actions_are_a_list_of_texts():
    assert not read_actions({})
    assert not read_actions({"valid_actions": []})
    assert read_actions({"valid_actions": {"b", "c", "a"}}).actions == ("a", "b", "c")
    with pytest.raises(ValueError, match="is the string 'look': give a list"):
        read_actions({"valid_actions": "look"})


def test_a_key_may_hold_one_text_or_several():
    assert read_texts({}, "disturbances") == ()
    assert read_texts({"disturbances": "a bell rings"}, "disturbances") == ("a bell rings",)
    assert read_texts({"state": ["a", np.str_("b")]}, "state") == ("a", "b")


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("2: go east", "2: go east"),
        ("go east", "2: go east"),
        ("put a on b", "put a on b"),
        ("put on b", "put a on b"),
        ("...", "..."),
        ("3.", "3."),
        ("press button", None),  # there are two
        ("press a button", "press a button"),
        ("go", None),
        ("", None),
    ],
)
def test_which_action_a_line_means(line, action):
    assert ActionList(["2: go east", "put a on b", "press a button", "press the button", "...", "3."]).find(line) == action


def test_an_answer_without_an_action_is_told_how_to_write_one(world):
    with pytest.raises(PlanParseError, match="; write one action per line"):
        world.parse("")


# ---- without an expert ----------------------------------------------------------------------------------------------------------


def test_a_world_without_an_expert_is_played_without_it(invoke, fakes, tmp_path):
    arguments = ("run", "--env", "text_zoo:Mute-v0", "--backend", "own_planner:make", "--episodes", "2", "--out", tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])["backends"]
    assert list(found) == ["own_planner:make"]
    assert found["own_planner:make"]["spl"] is None
    assert "this environment has no expert" in done.output
    assert " - " in done.output
    assert invoke(*arguments).exit_code == 0


def test_the_expert_itself_is_not_played_without_an_expert(invoke, fakes, tmp_path):
    done = invoke("run", "--env", "text_zoo:Mute-v0", "--backend", "expert", "--episodes", "1", "--out", tmp_path)
    assert "this environment has no expert" in str(done.exception)


def test_a_gif_of_a_world_that_cannot_be_drawn_is_refused_before_anything_is_played(invoke, fakes, tmp_path):
    done = invoke("run", "--env", KITCHEN, "--episodes", "1", "--out", tmp_path / "run", "--gif", tmp_path / "out.gif")
    assert "cannot be drawn" in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_compare_plays_replays_and_reports_a_users_environment(invoke, fakes, tmp_path):
    """The expert, a scripted backend of the user's own, and two that run a model: the bundled planner, which knows no kitchens."""
    backends = "my_script:OpenEverything,baseline,erecap?keep=0.7"
    options = ["--backends", backends, "--episodes", "1", "--replay-prompts", "3", "--replay-tokens", "2", "--max-new-tokens", "16"]
    done = invoke("compare", "--env", "my_script:SmallKitchen-v0", *options, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["complete"]
    assert list(last["backends"]) == ["expert", *backends.split(",")]
    assert last["backends"]["expert"]["success_rate"] == 1.0
    assert last["paired"]["erecap?keep=0.7"]["ttft_speedup_p50"] > 0
    rows = [json.loads(line) for line in (tmp_path / "replay.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all(set(row["measured"]) == {"baseline", "erecap?keep=0.7"} for row in rows)
    assert (tmp_path / "table.md").read_text().count("my_script:OpenEverything") >= 1
    assert (tmp_path / "latency_by_length.png").exists()


def test_suite_and_environment_exclude_each_other(invoke):
    done = invoke("compare", "--suite", "smoke", "--env", KITCHEN)
    assert "give one of --suite and --env" in str(done.exception)


@pytest.mark.parametrize(
    "answer",
    [
        "<think>\nThe key is here.\nopen door\n</think>\n\nopen the door",
        "I could take the key first.\n</think>\nopen the door<|im_end|>\n<|im_start|>user\ntake key",
        "Here is the plan:\n1. **open the door**",
        "Thought: the door is closed.\nAction: open the door\nObservation: it opens.\nAction: take key",
        '```json\n["open the door"]\n```',
        "<answer>- Open door.</answer>",
    ],
)
def test_what_models_write_around_an_action_makes_no_difference(fakes, answer):
    world = make_world(EpisodeJob("test", "text_zoo:Listed-v0", 0))
    world.reset(0)
    assert [action.text for action in world.parse(answer)] == ["Open (the) Door"]
