"""What every environment owes: gymnasium's contract, determinism under a seed, pictures, and clear errors."""

import os
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import structlog
from gymnasium.utils.env_checker import check_env

from envs import HOUSEHOLDS, LEVELS, EmbodiedLevel, EpisodeOverError, make_env, register_all, verbosity_of

ALL = [*HOUSEHOLDS, *LEVELS]
INFO = {"subgoals", "subgoals_done", "subgoals_total", "subgoal", "success", "disturbances"}


def play(env, seed, steps):
    """Observations and the rest of each step under random actions, until the end."""
    rng = np.random.default_rng(seed)
    yield env.reset(seed=seed)
    for _ in range(steps):
        result = env.step(int(rng.integers(7)))
        yield result
        if result[2] or result[3]:
            return


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b)


@pytest.mark.parametrize("env_id", ALL)
def test_gymnasium_env_checker(env_id, monkeypatch):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        warnings.filterwarnings("ignore", message=".*not in the possible render_modes")  # minigrid's levels do not list ansi
        warnings.filterwarnings("ignore", message=".*system font")  # minigrid's window
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
        check_env(make_env(env_id))


@pytest.mark.parametrize("env_id", ALL)
def test_a_seed_decides_everything(env_id):
    for one, two in zip(play(make_env(env_id), 7, 150), play(make_env(env_id), 7, 150), strict=True):
        assert same(one, two)


@pytest.mark.parametrize("env_id", ALL)
def test_what_a_step_says(env_id):
    env = make_env(env_id)
    for observation, *rest, info in play(env, 3, 60):
        assert observation in env.observation_space
        assert info.keys() >= INFO
        assert info["subgoals_total"] == len(info["subgoals"]) > 0
        assert 0 <= info["subgoals_done"] <= info["subgoals_total"]
        assert info["success"] == (info["subgoals_done"] == info["subgoals_total"])
        assert bool(info["subgoal"]) != info["success"]
        terminated = rest[1] if rest else False
        assert terminated or not info["success"]
        unseen = observation["image"][..., 0] == 0
        assert (observation["rooms"][unseen] == -1).all()


@pytest.mark.parametrize("env_id", ["ERecap/Household-v0", "BossLevel"])
def test_seeds_differ_and_an_unseeded_reset_goes_on(env_id):
    env = make_env(env_id)
    missions = [env.reset(seed=seed)[0]["mission"] for seed in (1, 2, 1)]
    assert missions[0] == missions[2] != missions[1]
    assert env.reset()[0]["mission"] != missions[2]


@pytest.mark.parametrize("env_id", ["ERecap/Household-v0", "GoTo"])
def test_pictures(env_id):
    env = make_env(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame.dtype == np.uint8
    assert frame.ndim == 3
    assert frame.shape[2] == 3
    assert frame.std() > 0
    env.step(0)
    assert not np.array_equal(frame, env.render())


@pytest.mark.parametrize("env_id", ["ERecap/Household-v0", "GoTo"])
def test_pictures_as_text(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make_env(env_id, render_mode="ansi")
    assert env.render_mode == "ansi"
    observation, _ = env.reset(seed=0)
    *grid, rooms, mission, held = env.render().splitlines()
    base = env.unwrapped
    assert len(grid) == base.height
    assert {len(line) for line in grid} == {2 * base.width}
    assert "".join(grid).count("WG") == sum(thing is not None and thing.type == "wall" for thing in base.grid.grid)
    assert rooms.startswith("Rooms: ")
    assert rooms.count(" / ") == base.num_rows - 1
    assert mission == f"Mission: {observation['mission']}"
    assert held == "Holding: nothing"


@pytest.mark.parametrize("env_id", ["ERecap/Household-v0", "GoTo"])
def test_an_action_without_an_episode_is_an_error(env_id):
    env = make_env(env_id, max_steps=2)
    env.reset(seed=0)
    env.step(0)
    assert env.step(0)[3]
    with pytest.raises(EpisodeOverError, match=r"action 0 while no episode is under way: call reset\(\) first"):
        env.step(0)
    env.reset(seed=0)
    env.step(0)


def test_an_action_before_the_first_reset_is_an_error():
    with pytest.raises(EpisodeOverError):
        make_env("GoTo").step(0)
    with pytest.raises(EpisodeOverError):
        make_env("ERecap/Household-v0").unwrapped.step(0)


@pytest.mark.parametrize("env_id", ["ERecap/Household-v0", "GoTo"])
@pytest.mark.parametrize("action", [7, -1, "fly", 2.0, None, [2]])
def test_an_unknown_action_is_an_error_and_costs_no_step(env_id, action):
    env = make_env(env_id)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"Unknown action .*: choose from 0 left, 1 right, .*, 6 done"):
        env.step(action)
    assert env.unwrapped.step_count == 0
    env.step(np.array(2))


@pytest.mark.parametrize("env_id", ["ERecap/Household-v0", "GoTo"])
def test_seeds_are_integers_of_any_type(env_id):
    env = make_env(env_id)
    assert same(env.reset(seed=np.uint8(3)), env.reset(seed=3))
    for seed in (1.5, "1", -1, True, [1]):
        with pytest.raises(ValueError, match=r"seed=.* must be an integer of at least 0, or None"):
            env.reset(seed=seed)


@pytest.mark.parametrize("env_id", ["ERecap/Household-v0", "GoTo"])
def test_options_that_nobody_knows_are_an_error(env_id):
    env = make_env(env_id)
    env.reset(seed=0, options={})
    with pytest.raises(ValueError, match=r"reset option 'rooms', 'size' is unknown: a .* takes none; give parameters to"):
        env.reset(seed=0, options={"rooms": 3, "size": 5})


@pytest.mark.parametrize("env_id", ["Nowhere", "ERecap/Household-v9", ""])
def test_an_unknown_environment_is_an_error_with_the_known_names(env_id):
    with pytest.raises(ValueError, match="is unknown: choose from") as caught:
        make_env(env_id)
    assert all(known in str(caught.value) for known in [*HOUSEHOLDS, *LEVELS.values()])


def test_an_environment_without_rooms_is_an_error():
    with pytest.raises(ValueError, match="CartPoleEnv has no rooms: use a level that is built on minigrid's RoomGrid"):
        make_env("CartPole-v1")


@pytest.mark.parametrize("env_id", ALL)
def test_levels_are_known_by_short_and_by_long_name(env_id):
    env = make_env(LEVELS.get(env_id, env_id))
    assert isinstance(env, EmbodiedLevel) == (env_id in LEVELS)
    assert env.spec.id == LEVELS.get(env_id, env_id)


def test_registering_again_changes_nothing():
    before = dict(gym.registry)
    register_all()
    assert gym.registry == before


def test_max_steps_ends_the_episode():
    env = make_env("ERecap/HouseholdQuiet-v0", max_steps=5)
    env.reset(seed=0)
    assert [env.step(6)[3] for _ in range(5)] == [False] * 4 + [True]


def test_verbosity_follows_the_registration():
    assert verbosity_of("ERecap/HouseholdLong-v0") == verbosity_of("envs:ERecap/HouseholdLong-v0") == "verbose"
    assert {verbosity_of("ERecap/Household-v0"), verbosity_of("BabyAI-GoTo-v0")} == {"terse"}


def test_what_a_level_prints_goes_to_the_log(capsys):
    env = make_env("BossLevel")
    with structlog.testing.capture_logs() as logs:
        for seed in range(10):
            env.reset(seed=seed)
    assert capsys.readouterr().out == ""
    assert {(entry["event"], entry["log_level"]) for entry in logs} == {("level printed", "debug")}
    assert "Sampling rejected" in logs[0]["text"]


BANNERS = """
import importlib.metadata, warnings
warnings.warn("old and tired", UserWarning, stacklevel=1)
print("HELLO from a banner")
notifications = {name: {importlib.metadata.version(name): f"NOTICE of {name}"} for name in ("gymnasium", "minigrid")}
"""


@pytest.mark.parametrize("package", ["envs", "agents"])
def test_importing_prints_nothing(package, tmp_path):
    """Gymnasium and minigrid print what ``farama_notifications`` says of their version; pygame prints a banner."""
    (tmp_path / "farama_notifications.py").write_text(BANNERS)
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    clean = {name: value for name, value in os.environ.items() if name != "PYGAME_HIDE_SUPPORT_PROMPT"}
    code = f"import {package}, envs.quiet; assert 'NOTICE of minigrid' in envs.quiet.PRINTED; assert 'tired' in envs.quiet.PRINTED"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**clean, "PYTHONPATH": paths})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
