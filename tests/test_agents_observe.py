"""Backends that take in the history while the agent acts: when they are asked, and that plans do not depend on it."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agents import AgentConfig, EpisodeJob
from agents.loop import run_episode
from agents.records import EpisodeRecord, PlannerCall, Record, TranscriptRecord
from benchmarks.backends.registry import BackendFactory
from planner import (
    Generation,
    History,
    LineCallback,
    ObservingBackend,
    PlannerBackend,
    Prompt,
    Sampling,
    before_observation,
    build_prompt,
)

QUIET = "ERecap/HouseholdQuiet-v0"
SMALL = "ERecap/HouseholdSmall-v0"


@dataclass
class Watcher:
    """Plans two lines, and notes how many segments it was shown, and of which kind the request was."""

    seen: list[tuple[str, int]] = field(default_factory=list)

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        self.seen.append(("plan", len(prompt.segments)))
        return Generation(text="explore\ngoto kitchen")

    def observe(self, prompt: Prompt) -> None:
        self.seen.append(("observe", len(prompt.segments)))


def play(backend: PlannerBackend, job: EpisodeJob, config: AgentConfig) -> tuple[EpisodeRecord, list[Record]]:
    records: list[Record] = []
    return run_episode(job, backend, config, records.append), records


def test_each_line_is_shown_when_it_has_ended() -> None:
    watcher = Watcher()
    assert isinstance(watcher, ObservingBackend)
    play(watcher, EpisodeJob("w", QUIET, 3, horizon="task"), AgentConfig(max_replans=2))
    assert watcher.seen[:3] == [("plan", 3), ("observe", 5), ("observe", 6)]


@pytest.mark.parametrize(("horizon", "observe"), [("subgoal", True), ("task", False)])
def test_nothing_is_shown_where_the_history_does_not_grow_or_the_flag_is_off(horizon: str, observe: bool) -> None:
    watcher = Watcher()
    play(watcher, EpisodeJob("w", QUIET, 3, horizon=horizon), AgentConfig(max_replans=3, observe=observe))
    assert {kind for kind, _ in watcher.seen} == {"plan"}


def test_a_prompt_before_its_latest_observation_is_what_the_agent_knew() -> None:
    history = History().append("task", "Task: 1. a.")
    assert before_observation(build_prompt(history.append("observation", "one"))) is None
    for number in range(3):
        history = history.append("observation", f"o{number}").append("plan", f"p{number}").append("outcome", f"e{number}: ok.")
        known = build_prompt(history)
        asked = build_prompt(history.append("observation", "new").append("feedback", "again"))
        assert (before_observation(asked) or known) == known


@pytest.mark.parametrize("spec", ["baseline-session?dtype=float32", "erecap-session?dtype=float32&keep=0.5&stages=0-5"])
def test_plans_are_the_same_whether_the_history_was_taken_in_before_or_not(spec: str, tmp_path: Path) -> None:
    job, config = EpisodeJob(spec, SMALL, 5, horizon="task"), {"max_replans": 8, "sampling": Sampling(40)}
    plans, waited = [], []
    for observe in (True, False):
        _, records = play(BackendFactory(1)(spec), job, AgentConfig(observe=observe, **config))
        plans.append([record.text for record in records if isinstance(record, TranscriptRecord)])
        calls = [record for record in records if isinstance(record, PlannerCall)]
        waited.append(sum(call.observe_s for call in calls))
        assert all(call.generation.reused_tokens > 0 for call in calls[1:])
    assert plans[0] == plans[1]
    assert waited[0] > 0 == waited[1]
