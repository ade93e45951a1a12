"""A second family of worlds: a text kitchen of a user's own package, through the loop, the command line, replay and report."""

import json
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import pytest

from agents.families import FAMILIES, Family, make_world, register_family
from agents.gridworld.world import GridWorld
from agents.job import EpisodeJob
from agents.textworld.world import UNLIMITED, TextWorld
from planner import PlanParseError

KITCHEN = "my_kitchen:Kitchen-v0"
DOCS = Path(__file__).parent.parent / "docs" / "worlds.md"


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


def test_an_empty_answer_cannot_be_read(world):
    with pytest.raises(PlanParseError, match="there is no action in the answer"):
        world.parse("\n```\n```")


def test_an_action_keeps_the_worlds_own_spelling(world):
    world.info = {**world.info, "valid_actions": ["Open Fridge"]}
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
    assert world.max_steps == UNLIMITED
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
