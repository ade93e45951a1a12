"""Suites: which episodes they hold."""

import gymnasium as gym
import pytest

from benchmarks.recipes.planner.config import Recipe
from benchmarks.recipes.seeds import SEEDS_PER_ROUND
from benchmarks.runs.suites import HELD_OUT, RECORDED, SUITES, find_suite, suite_of_env


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda s: s.name)
def test_suites_are_made_of_registered_environments_and_held_out_seeds(suite):
    assert all(env_id in gym.registry for env_id in suite.env_ids)
    cases = suite.cases(suite.episodes, seed=0)
    assert len(set(cases)) == suite.episodes
    assert min(case.seed for case in cases) == HELD_OUT


def test_runs_with_different_seeds_share_no_episode():
    suite = find_suite("household-small")
    assert not {c.seed for c in suite.cases(10_000, 0)} & {c.seed for c in suite.cases(10_000, 1)}


def test_recordings_to_train_on_share_no_seed_with_suites_or_the_recipe():
    suite = find_suite("household-small")
    seeds = {case.seed for seed in (0, 49) for case in suite.cases(10_000, seed, training=True)}
    assert min(seeds) >= RECORDED
    assert max(seeds) < HELD_OUT
    assert SEEDS_PER_ROUND * (Recipe.model_fields["student_rounds"].metadata[0].max_length + 1) <= RECORDED
    with pytest.raises(ValueError, match="seed=50 with training seeds must be below 50"):
        suite.cases(1, 50, training=True)


def test_more_episodes_begin_with_the_same_ones():
    suite = find_suite("babyai")
    assert suite.cases(20, 4)[:7] == suite.cases(7, 4)
    assert [c.env_id for c in suite.cases(8, 0)] == [*suite.env_ids, suite.env_ids[0]]


@pytest.mark.parametrize(("episodes", "seed"), [(0, 0), (10_001, 0), (-3, 0), (1, -1)])
def test_numbers_out_of_range_are_refused(episodes, seed):
    with pytest.raises(ValueError, match="must"):
        find_suite("smoke").cases(episodes, seed)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="choose from smoke, household-small"):
        find_suite("nope")
    with pytest.raises(ValueError, match="unknown"):
        suite_of_env("Nope-v0")


def test_one_environment_is_a_suite():
    assert suite_of_env("BossLevel").env_ids == ("BabyAI-BossLevel-v0",)
    assert suite_of_env("ERecap/HouseholdLong-v0").verbosity == "verbose"
