"""Our environments under what others put around them: wrappers of minigrid and gymnasium, vectors, specs, copies."""

import copy
import pickle
import warnings

import gymnasium as gym
import gymnasium.wrappers as gym_wrappers
import minigrid.wrappers as minigrid_wrappers
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from envs import HOUSEHOLDS, LEVELS, DisturbanceRates, make_env
from envs.mission_words import MISSION_WORDS

ALL = [*HOUSEHOLDS, *LEVELS]
SOME = ["ERecap/HouseholdLong-v0", "BossLevel"]
WORDS = {"word_dict": MISSION_WORDS}
KEYS = ["image", "direction", "mission"]
WRAPPERS = {
    "reseed": lambda env: minigrid_wrappers.ReseedWrapper(env, [1, 2]),
    "action bonus": minigrid_wrappers.ActionBonus,
    "position bonus": minigrid_wrappers.PositionBonus,
    "image": minigrid_wrappers.ImgObsWrapper,
    "partial pixels": minigrid_wrappers.RGBImgPartialObsWrapper,
    "full view": minigrid_wrappers.FullyObsWrapper,
    "view size": lambda env: minigrid_wrappers.ViewSizeWrapper(env, 5),
    "symbols": minigrid_wrappers.SymbolicObsWrapper,
    "noisy actions": minigrid_wrappers.StochasticActionWrapper,
    "no death": lambda env: minigrid_wrappers.NoDeath(env, ("lava",)),
    "mission as numbers": lambda env: minigrid_wrappers.DictObservationSpaceWrapper(
        gym_wrappers.FilterObservation(env, KEYS), max_words_in_mission=80, **WORDS
    ),
    "time limit": lambda env: gym_wrappers.TimeLimit(env, 5),
    "autoreset": gym_wrappers.Autoreset,
    "statistics": gym_wrappers.RecordEpisodeStatistics,
    "sticky action": lambda env: gym_wrappers.StickyAction(env, 0.2),
    "late observation": lambda env: gym_wrappers.DelayObservation(env, 2),
    "time": lambda env: gym_wrappers.TimeAwareObservation(gym_wrappers.TimeLimit(env, 50)),
    "frame stack": lambda env: gym_wrappers.FrameStackObservation(env, 3),
    "flat": gym_wrappers.FlattenObservation,
    "reward": gym_wrappers.NormalizeReward,
}


def steps(env, count=12, seed=3):
    rng = np.random.default_rng(0)
    yield env.reset(seed=seed)[0]
    for _ in range(count):
        observation, _, terminated, truncated, _ = env.step(int(rng.integers(7)))
        yield observation
        if terminated or truncated:
            return


@pytest.mark.parametrize("env_id", SOME)
@pytest.mark.parametrize("name", WRAPPERS)
def test_under_a_wrapper_observations_fit_its_space(env_id, name):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(Casting|precision|dtype).*")
        warnings.filterwarnings("ignore", message=".*seed has been passed to `ReseedWrapper")
        env = WRAPPERS[name](make_env(env_id))
        seen = list(steps(env))
    assert all(observation in env.observation_space for observation in seen)


@pytest.mark.parametrize("env_id", HOUSEHOLDS)
def test_a_households_mission_fits_minigrids_flat_observation(env_id):
    """As it is: at most 96 characters, letters, spaces and commas."""
    env = minigrid_wrappers.FlatObsWrapper(make_env(env_id))
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        assert observation in env.observation_space
        assert observation[-28 * 96 :].sum() == len(env.unwrapped.mission)


@pytest.mark.parametrize("env_id", ["GoTo", "BossLevel"])
def test_a_levels_mission_fits_a_longer_flat_observation(env_id):
    env = minigrid_wrappers.FlatObsWrapper(make_env(env_id), maxStrLen=400)
    assert all(observation in env.observation_space for observation in steps(env))


@pytest.mark.parametrize("env_id", ALL)
def test_the_words_of_all_missions_are_listed(env_id):
    env = make_env(env_id)
    for seed in range(20):
        mission = env.reset(seed=seed)[0]["mission"]
        assert set(mission.replace(",", " , ").split()) <= set(MISSION_WORDS)


def test_words_have_numbers_of_their_own():
    assert sorted(MISSION_WORDS.values()) == list(range(len(MISSION_WORDS)))
    assert set(minigrid_wrappers.DictObservationSpaceWrapper.get_minigrid_words()) & {"bring", "inspect", "kitchen"} == set()


@pytest.mark.parametrize("env_id", ALL)
def test_a_spec_goes_through_json(env_id):
    env = make_env(env_id, max_steps=77)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    for one, two in zip(steps(env), steps(again), strict=True):
        assert repr(one) == repr(two)
    assert again.unwrapped.max_steps == env.unwrapped.max_steps


def test_a_spec_with_rates_of_the_users_own_goes_through_json():
    env = make_env("ERecap/Household-v0", disturbances=DisturbanceRates(door_closes=0.5))
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.config == env.unwrapped.config
    assert again.unwrapped.config.disturbances.door_closes == 0.5


@pytest.mark.parametrize("env_id", SOME)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_as_the_original_does(env_id, clone):
    env = make_env(env_id)
    env.reset(seed=5)
    env.step(2)
    other = clone(env)
    for action in (0, 2, 2, 1, 3, 5, 2):
        assert repr(env.step(action)) == repr(other.step(action))
    for _ in range(2):
        assert repr(env.reset()) == repr(other.reset()), "the episodes of the own generator"


@pytest.mark.parametrize("env_id", SOME)
def test_vectors_of_environments(env_id):
    vector = gym.vector.SyncVectorEnv([lambda: make_env(env_id)] * 2)
    observation, _ = vector.reset(seed=1)
    alone = [make_env(env_id).reset(seed=seed)[0] for seed in (1, 2)]
    assert list(observation["mission"]) == [single["mission"] for single in alone]
    assert np.array_equal(observation["image"], np.stack([single["image"] for single in alone]))
    vector.step(vector.action_space.sample())
    vector.close()


def test_missions_in_shared_memory_are_refused_instead_of_being_wrong():
    with pytest.raises(ValueError, match="shared_memory=False"):
        gym.vector.AsyncVectorEnv([lambda: make_env("ERecap/Household-v0")] * 2)


def test_without_boxes_every_cell_has_a_one_hot_code():
    env = minigrid_wrappers.OneHotPartialObsWrapper(make_env("ERecap/Household-v0", boxes=0))
    assert all(observation in env.observation_space for observation in steps(env, 60))
