"""``make_env`` and environments of other packages: it returns text environments as they are and refuses others with a reason."""

import sys
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

from envs import HOUSEHOLDS, LEVELS, EmbodiedLevel, HouseholdEnv, holds_text, make_env
from envs.observation.text_space import text_key

CORRIDORS = ("text_worlds:Corridor-v0", "text_worlds:fakes/CorridorDict-v0")


@pytest.fixture(autouse=True)
def text_worlds(monkeypatch):
    """The folder of the fakes is on the path, as a user's package would be; nothing stays registered or imported."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    before = set(gym.registry)
    yield
    for env_id in set(gym.registry) - before:
        gym.registry.pop(env_id)
    sys.modules.pop("text_worlds", None)


@pytest.mark.parametrize("env_id", CORRIDORS)
def test_a_text_environment_is_returned_as_gymnasium_makes_it(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make_env(env_id, length=2)
        env.reset(seed=0)
        assert [env.step("walk")[2] for _ in range(2)] == [False, True]
    assert type(env.unwrapped).__name__ == "Corridor"
    assert env.unwrapped.length == 2
    assert env.spec.id == env_id.partition(":")[2]
    assert not isinstance(env, EmbodiedLevel)
    check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("env_id", CORRIDORS)
@pytest.mark.parametrize("max_steps", [3, 40])
def test_max_steps_is_the_time_limit_of_a_text_environment(env_id, max_steps):
    env = make_env(env_id, max_steps=max_steps)
    env.reset(seed=0)
    assert [env.step("wait")[3] for _ in range(max_steps)] == [False] * (max_steps - 1) + [True]
    assert env.spec.max_episode_steps == max_steps


def test_without_max_steps_the_registered_limit_stands():
    assert not isinstance(make_env(CORRIDORS[0]), TimeLimit)
    assert make_env(CORRIDORS[1]).spec.max_episode_steps == 30


def test_a_registered_environment_needs_no_package_in_its_id():
    make_env(CORRIDORS[0]).close()
    assert type(make_env("Corridor-v0").unwrapped).__name__ == "Corridor"


def test_gymnasium_checks_a_text_environment():
    env = make_env(CORRIDORS[0], length=10**300)
    with pytest.warns(UserWarning, match="not within the observation space"):
        env.reset(seed=0)


def test_a_package_may_be_named_for_our_own_environments_too():
    assert isinstance(make_env("envs:ERecap/Household-v0").unwrapped, HouseholdEnv)
    assert isinstance(make_env("minigrid:BabyAI-GoTo-v0"), EmbodiedLevel)


def test_a_household_that_a_user_registers_is_a_household():
    gym.register("Flat-v0", entry_point="envs.household.env:HouseholdEnv", kwargs={"rows": 1, "cols": 2})
    env = make_env("Flat-v0", max_steps=7)
    assert isinstance(env.unwrapped, HouseholdEnv)
    assert not isinstance(env, EmbodiedLevel)
    assert env.unwrapped.config.max_steps == 7


@pytest.mark.parametrize(
    ("env_id", "space", "base"),
    [
        ("CartPole-v1", "Box", "CartPoleEnv"),
        ("text_worlds:Numbers-v0", "Dict(left: Discrete, right: Discrete)", "Numbers"),
        ("MiniGrid-Empty-5x5-v0", "Dict(direction: Discrete, image: Box, mission: MissionSpace)", "EmptyEnv"),
    ],
)
def test_what_cannot_be_played_says_why_and_what_can(env_id, space, base):
    with pytest.raises(ValueError, match="cannot be played") as caught:
        make_env(env_id, max_steps=5)
    message = str(caught.value)
    assert f"environment {env_id!r} cannot be played: its observation space {space} holds no text" in message
    assert f"and {base} has no rooms" in message
    assert "a level that is built on minigrid's RoomGrid" in message
    assert "a Text space or a Dict with a Text entry" in message
    assert all(name in message for name in [*HOUSEHOLDS, *LEVELS])


def test_a_package_that_cannot_be_imported_is_an_error_with_the_remedy():
    with pytest.raises(ValueError, match=r"module 'nowhere' of environment 'nowhere:Kitchen-v0' cannot be imported") as caught:
        make_env("nowhere:Kitchen-v0")
    assert "No module named 'nowhere'" in str(caught.value)
    assert "install its package, or add the folder that holds it to PYTHONPATH" in str(caught.value)


def test_an_entry_point_that_cannot_be_imported_is_an_error_with_the_remedy():
    make_env(CORRIDORS[0])
    with pytest.raises(ValueError, match="module 'no_such_module' of environment 'Orphan-v0' cannot be imported"):
        make_env("Orphan-v0")


def test_a_package_that_does_not_register_the_id_is_an_error():
    with pytest.raises(ValueError, match="importing text_worlds registers no 'Larder-v0'; correct the id, or call gymnasium"):
        make_env("text_worlds:Larder-v0")


def test_an_unknown_id_points_to_packages():
    with pytest.raises(ValueError, match="or name your own as my_package:Name-v0"):
        make_env("Larder-v0")


def test_which_spaces_hold_text():
    text, number = gym.spaces.Text(5), gym.spaces.Discrete(3)
    assert holds_text(text)
    assert holds_text(gym.spaces.Dict(a=number, b=text))
    assert not holds_text(number)
    assert not holds_text(gym.spaces.Dict(a=number))
    assert not holds_text(gym.spaces.Tuple((text,)))


def test_a_render_mode_that_an_environment_does_not_list_is_an_error():
    with pytest.raises(ValueError, match=r"cannot be drawn as 'rgb_array', its render modes are \[\].*or play it without pictures"):
        make_env(CORRIDORS[0], render_mode="rgb_array")
    assert make_env("ERecap/Household-v0", render_mode="rgb_array").render_mode == "rgb_array"


def test_any_kind_of_environment_is_returned_where_a_family_of_the_users_own_may_play_it():
    env = make_env("CartPole-v1", max_steps=5, any_kind=True)
    assert env.spec.max_episode_steps == 5
    assert not isinstance(env, EmbodiedLevel)


def test_where_the_text_of_an_observation_is():
    text, number = gym.spaces.Text(5), gym.spaces.Discrete(3)
    assert text_key(text) == ""
    assert text_key(gym.spaces.Dict(a=text, obs=text, n=number)) == "obs"
    assert text_key(gym.spaces.Dict(n=number, z=text)) == "z"
    assert text_key(number) is None
