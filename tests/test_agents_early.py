"""The first line of a plan is carried out while the planner writes the rest: the same plans and outcomes as without."""

import random
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import gymnasium as gym
import pytest

from agents import AgentConfig, Clock, EpisodeJob
from agents.early import Ahead, Done
from agents.gridworld.world import GridWorld
from agents.loop import run_episode
from agents.recorder import Reply, Request
from agents.records import PlannerCall, Record, StepRecord, TranscriptRecord
from agents.together import play_together
from agents.world import OK
from benchmarks.backends.registry import BackendFactory
from envs.observation.names import ROOM_NAMES
from planner import BatchBackend, Generation, LineCallback, PlannerBackend, PlanRequest, Prompt, ReplanPolicy, Sampling, SkillCall

QUIET, DISTURBED = "ERecap/HouseholdQuiet-v0", "ERecap/Household-v0"
OWN = {"backend_s", "overhead_s", "replan_s", "observe_s", "wall_s", "wait_s", "early", "wait_rest_s"}
"""Times, and what the option alone records."""
MEASURED = {"ttft_s", "first_skill_s", "decode_s", "total_s", "tokenize_s", "peak_memory_bytes"}
LONG = 60.0
"""Seconds after which a test gives up."""


@dataclass
class Reciter:
    """Gives answers line by line; a last line that was cut it does not pass on."""

    answers: Sequence[tuple[str, bool]]
    asked: int = 0

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        text, cut = self.answers[self.asked % len(self.answers)]
        self.asked += 1
        lines = text.split("\n")
        for line in lines[:-1] if cut else lines:
            if on_line is not None and line.strip():
                on_line(line)
        return Generation(text, prompt_tokens=len(prompt.segments), new_tokens=9, truncated=cut)


def play(backend: Any, env_id: str = QUIET, seed: int = 0, horizon: Any = "task", **config: Any) -> list[Record]:
    records: list[Record] = []
    run_episode(EpisodeJob("b", env_id, seed, max_steps=200, horizon=horizon), backend, AgentConfig(**config), records.append)
    return records


def calls_of(records: Sequence[Record]) -> list[PlannerCall]:
    return [record for record in records if isinstance(record, PlannerCall)]


def bare(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Leave out times and memory."""
    dumped = [record.model_dump(exclude=OWN) for record in records]
    for call in dumped:
        for name in MEASURED if "generation" in call else ():
            del call["generation"][name]
    return dumped


def some_answers(seed: int) -> list[tuple[str, bool]]:
    """Answers of all forms. One that cannot be read shows it in its first line."""
    draw = random.Random(seed)
    answers = []
    for number in range(40):
        rooms, colour = draw.sample(ROOM_NAMES, 2), draw.choice(["red", "blue", "grey"])
        lines = draw.sample(
            ["explore", *(f"goto {room}" for room in rooms), f"pickup {colour} ball", f"open {colour} door", "drop"], 3
        )
        plan = "\n".join(lines)
        forms = [
            (plan, False),
            ("\n".join(f"{place}. {line}" for place, line in enumerate(lines, number)), False),
            (f"Here is the plan:\n```\n{plan}\n```", False),
            (f"<think>\ngoto hall\nor not\n</think>\n\n{plan}", False),
            (f'["{lines[0]}",\n"{lines[1]}"]', False),
            (f"fly away\n{plan}", False),
            (f"{plan}\ngoto kit", True),
            ("goto kitchen", True),
            ("pickup the red ball.", False),
        ]
        answers.append(draw.choice(forms))
    return answers


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Is released each time a skill has ended."""
    ended, run = threading.Semaphore(0), GridWorld.run

    def noting(world: GridWorld, call: SkillCall) -> Any:
        outcome = yield from run(world, call)
        ended.release()
        return outcome

    monkeypatch.setattr(GridWorld, "run", noting)
    return ended


# ---- what is carried out ------------------------------------------------------------------------------------------------------


def test_a_skill_runs_while_the_answer_is_unfinished(acted: threading.Semaphore) -> None:
    class Slow:
        def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback) -> Generation:
            on_line("explore")
            assert acted.acquire(timeout=LONG)
            on_line("done")
            return Generation("explore\ndone")

    records = play(Slow(), start_early=True)
    (call,) = calls_of(records)
    assert (call.early, call.plan) == ("explore", ("explore", "done"))
    kinds = [record.entry if isinstance(record, TranscriptRecord) else record.kind for record in records]
    after = ["outcome", "step"]
    assert kinds == ["task", "observation", "plan", "planner_call", *after, *after, "episode"]


@pytest.mark.parametrize("horizon", ["task", "subgoal"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_episodes_are_those_of_an_agent_that_waits(seed: int, horizon: str) -> None:
    settings = {"env_id": DISTURBED, "seed": seed, "horizon": horizon, "max_replans": 30}
    waiting = play(Reciter(some_answers(seed)), **settings)
    early = play(Reciter(some_answers(seed)), start_early=True, **settings)
    assert bare(early) == bare(waiting)
    begun, failed = [call.early for call in calls_of(early)], [call for call in calls_of(early) if call.parse_error]
    assert len(begun) > len([line for line in begun if line]) > 5
    assert failed
    assert {call.wait_s for call in calls_of(waiting)} == {None}


@pytest.fixture
def text_zoo(fakes: ModuleType) -> Iterator[None]:
    """Its worlds do not stay registered."""
    before, modules = set(gym.registry), set(sys.modules)
    yield
    for env_id in set(gym.registry) - before:
        gym.registry.pop(env_id)
    for name in {"text_zoo"} - modules:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("text_zoo")
def test_a_text_world_reads_the_plan_by_the_actions_that_it_listed_before() -> None:
    way = 'open the door\nsay "hello, world"\nTake a key, then go'
    settings = {"env_id": "text_zoo:Listed-v0", "max_replans": 3}
    waiting, early = play(Reciter([(way, False)]), **settings), play(Reciter([(way, False)]), start_early=True, **settings)
    assert bare(early) == bare(waiting)
    assert calls_of(early)[0].early == "Open (the) Door"


@pytest.mark.parametrize("horizon", ["task", "subgoal"])
def test_session_backends_plan_the_same(horizon: str) -> None:
    spec, settings = "baseline-session?dtype=float32", {"max_replans": 4, "sampling": Sampling(40), "horizon": horizon}
    factory = BackendFactory(1)
    waiting, early = play(factory(spec), **settings), play(factory(spec), start_early=True, **settings)
    assert bare(early) == bare(waiting)
    assert any(call.early for call in calls_of(early))


# ---- answers that turn out to be something else -------------------------------------------------------------------------------


def test_a_line_stands_where_the_rest_of_its_plan_cannot_be_read() -> None:
    records = play(Reciter([("explore\nfly away", False), ("goto hall", False)]), start_early=True, max_replans=2)
    first, second = calls_of(records)[:2]
    assert (first.early, first.plan, second.reason, second.early) == ("explore", None, "parse_error", None)
    assert first.parse_error is not None
    step = next(record for record in records if isinstance(record, StepRecord))
    assert (step.skill, step.replan) == ("explore", 0)
    entries = [(record.entry, record.text) for record in records if isinstance(record, TranscriptRecord)]
    kinds = [kind for kind, _ in entries]
    assert kinds[:7] == ["task", "observation", "plan", "feedback", "outcome", "observation", "plan"]
    assert entries[3][1].endswith("Its first line had been carried out by then.")


def test_without_asking_again_the_policy_goes_on_as_after_any_plan() -> None:
    policy = ReplanPolicy(on_parse_error=False, on_plan_end=False, on_failure=False, on_surprise=False)
    records = play(Reciter([("drop\nfly away", False)]), start_early=True, policy=policy)
    assert (len(calls_of(records)), records[-1].model_dump()["end"]) == (1, "plan_end")


def test_a_line_that_the_answer_takes_back_stands_before_its_plan() -> None:
    policy = ReplanPolicy(on_failure=False, on_surprise=False)
    records = play(Reciter([("drop\n</think>\nexplore\ndone", False)]), start_early=True, policy=policy)
    assert (calls_of(records)[0].early, calls_of(records)[0].plan) == ("drop", ("explore", "done"))
    assert [record.skill for record in records if isinstance(record, StepRecord)] == ["drop", "explore", "done"]


# ---- errors and ends ------------------------------------------------------------------------------------------------------------


def planner_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "planner"]


def test_what_a_backend_raises_after_its_first_line_ends_the_episode(acted: threading.Semaphore) -> None:
    class Broken:
        def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback) -> Generation:
            on_line("explore")
            acted.acquire(timeout=LONG)
            raise ZeroDivisionError("lost the model")

    with pytest.raises(ZeroDivisionError, match="lost the model"):
        play(Broken(), start_early=True)
    assert planner_threads() == []


def test_an_interruption_ends_the_answer_too() -> None:
    ended = threading.Event()

    class Talker:
        def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback) -> Generation:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            try:
                for _ in range(10**6):
                    on_line("well")
            finally:
                ended.set()
            return Generation("well")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told a job in its background to ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            play(Talker(), start_early=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.is_set()
    assert planner_threads() == []


def test_the_expert_plans_at_once(players: ModuleType) -> None:
    run = players.play(QUIET, start_early=True)
    assert run.end.success
    assert all(call.early is None and call.wait_s == call.replan_s for call in run.calls)


def test_a_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="a first line has no price of its own; leave out one of the two"):
        AgentConfig(start_early=True, clock=Clock(1.0, lambda generation, replan_s: 0.0))


# ---- times ----------------------------------------------------------------------------------------------------------------------


def test_the_wait_ends_with_the_first_line() -> None:
    request = Request("parse_error", begin=10.0, rest=(), waited_s=0.5)
    ahead = Ahead(SkillCall("explore"), Done(OK, 3, 0.0), known=12.0, rest_s=1.0)
    assert Reply(Generation("x"), 1, 0, 4.0, 0.25).wait_s(request) == 0.5 + 4.0 + 0.25
    assert Reply(Generation("x"), 1, 0, 4.0, 0.25, ahead=ahead).wait_s(request) == 0.5 + 2.0


# ---- several agents -------------------------------------------------------------------------------------------------------------


@dataclass
class Choir:
    """Answers several prompts line by line; each agent must have carried out its first line before any second one comes."""

    acted: threading.Semaphore
    batches: list[int] = field(default_factory=list)

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        return Generation(f"explore\ngoto kitchen\n{'drop' * (len(prompt.segments) % 3 == 0)}")

    def generate_batch(self, requests: Sequence[PlanRequest]) -> list[Generation]:
        while self.acted.acquire(blocking=False):
            pass
        self.batches.append(len(requests))
        for request in requests:
            assert request.on_line is not None
            request.on_line("explore")
        assert all(self.acted.acquire(timeout=LONG) for _ in requests)
        return [self.generate(request.prompt, request.sampling) for request in requests]


def test_agents_that_share_batches_start_early_too(acted: threading.Semaphore) -> None:
    choir, seeds = Choir(acted), (0, 1, 2)
    assert isinstance(choir, BatchBackend)

    def one(seed: int, backend: PlannerBackend) -> list[Record]:
        return play(backend, seed=seed, max_replans=4, start_early=True)

    played: Iterator[tuple[int, list[Record]]] = play_together([partial(one, seed) for seed in seeds], choir)
    together = dict(played)
    assert max(choir.batches) == len(seeds)
    for seed in seeds:
        assert bare(together[seed]) == bare(play(choir, seed=seed, max_replans=4))
        assert {call.early for call in calls_of(together[seed])} == {"explore"}
