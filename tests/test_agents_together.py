"""Several episodes at once: each agent gets the plans that it gets alone; an end or an error of one does not hold up others."""

from collections.abc import Sequence
from functools import partial
from types import ModuleType

import pytest

from agents import AgentConfig, EpisodeJob, LocalPool
from agents.runner import Player
from agents.together import AbandonedError, play_together
from planner import Generation, PlannerBackend, PlanRequest, Prompt, PromptTooLongError, Sampling, Segment
from tests.fakes.echo_planner import Echo

QUIET = "ERecap/HouseholdQuiet-v0"


def ask(times: int, backend: PlannerBackend) -> int:
    for length in range(1, times + 1):
        backend.generate(Prompt((Segment("user", "?"),) * length), Sampling())
    return times


def test_all_that_are_under_way_share_a_batch() -> None:
    echo = Echo()
    assert dict(play_together([partial(ask, times) for times in (3, 1, 0, 2)], echo)) == {0: 3, 1: 1, 2: 0, 3: 2}
    assert echo.batches == [3, 2, 1]


def test_no_episodes_end_at_once() -> None:
    assert list(play_together([], Echo())) == []


def test_a_prompt_that_is_too_long_ends_its_own_episode_only() -> None:
    def careful(times: int, backend: PlannerBackend) -> str:
        try:
            ask(times, backend)
        except PromptTooLongError:
            return "too long"
        return "ended"

    played = dict(play_together([partial(careful, times) for times in (2, 5, 3)], Echo(too_long=3)))
    assert played == {0: "ended", 1: "too long", 2: "ended"}


def test_an_error_in_one_episode_ends_the_others_at_their_next_request() -> None:
    ended: list[str] = []

    def fails(backend: PlannerBackend) -> None:
        ask(1, backend)
        raise ZeroDivisionError

    def goes_on(backend: PlannerBackend) -> None:
        try:
            ask(1000, backend)
        except AbandonedError:
            ended.append("abandoned")
            raise

    with pytest.raises(ZeroDivisionError):
        list(play_together([fails, goes_on], Echo()))
    assert ended == ["abandoned"]


def test_an_error_of_the_backend_is_raised_in_every_episode() -> None:
    class Broken(Echo):
        def generate_batch(self, requests: Sequence[PlanRequest]) -> list[Generation]:
            raise RuntimeError("the model is gone")

    with pytest.raises(RuntimeError, match="the model is gone"):
        list(play_together([partial(ask, 2)] * 2, Broken()))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pool_gives_the_same_records_whatever_the_number_at_once(workers: int, echo_planner: ModuleType) -> None:
    jobs = [EpisodeJob("echo", QUIET, seed) for seed in range(5)]
    player = Player(echo_planner.make_echo, AgentConfig(max_replans=4))
    alone = sorted(_without_times(lines) for lines in LocalPool().play(jobs, player))
    together = sorted(_without_times(lines) for lines in LocalPool(workers, envs=3).play(jobs, player))
    assert together == alone


def _without_times(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if '"kind":"transcript"' in line or '"entry"' in line]


def test_episodes_at_once_need_a_player_that_can() -> None:
    def play(job: EpisodeJob) -> list[str]:
        return [str(job)]

    with pytest.raises(ValueError, match="one at a time"):
        list(LocalPool(envs=2).play([EpisodeJob("a", QUIET, 0), EpisodeJob("a", QUIET, 1)], play))
    with pytest.raises(ValueError, match="envs=0"):
        LocalPool(envs=0)
    assert len(list(LocalPool(envs=2).play([EpisodeJob("a", QUIET, 0), EpisodeJob("b", QUIET, 0)], play))) == 2
