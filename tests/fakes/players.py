"""Backends that play from a script or at random, and environments that only play back, to test the agent with."""

import random
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

from agents.expert_backend import ExpertBackend
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.records import EpisodeRecord, PlannerCall, Record, StepRecord, TranscriptRecord
from planner import Generation, Prompt


class Script:
    """Answers with the given texts one after the other, then with ``explore``; keeps the prompts that it was given."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.prompts: list[Prompt] = []

    def generate(self, prompt: Prompt, sampling: Any, on_line: Any = None) -> Generation:
        self.prompts.append(prompt)
        return Generation(text=self.texts.pop(0) if self.texts else "explore", prompt_tokens=len(prompt.segments))


class Wanderer:
    """Plans at random over the names of the game, seen or not; every tenth plan cannot be read."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def plan(self, world: Any, prompt: Prompt, sampling: Any, on_line: Any = None) -> Generation:
        self.belief = world.belief
        lines = [self._line() for _ in range(self.random.randint(1, 3))]
        return Generation(text="fly away" if self.random.random() < 0.1 else "\n".join(lines))

    def _line(self) -> str:
        pick = self.random.choice
        known = [thing.name for thing in self.belief.things.values()]
        thing, other = (pick([*known, *known, *known, "red ball", "blue box", "green door"]) for _ in range(2))
        room = pick(self.belief.room_names)
        thing, other = (pick([name, f"{name} in {pick(self.belief.room_names)}"]) for name in (thing, other))
        return pick(
            [
                "explore",
                "explore",
                "explore",
                f"goto {room}",
                f"goto {room}",
                f"goto {thing}",
                f"pickup {thing}",
                f"pickup {thing}",
                "drop",
                f"open {thing}",
                f"unlock {thing}",
                f"put {thing} in {other}",
                f"put {self.belief.held_name or thing} next to {other}",
            ]
        )


class Run:
    """What an episode wrote, sorted by kind."""

    def __init__(self, end: EpisodeRecord, records: list[Record]) -> None:
        self.end, self.records = end, records
        self.transcript = [r for r in records if isinstance(r, TranscriptRecord)]
        self.calls = [r for r in records if isinstance(r, PlannerCall)]
        self.steps = [r for r in records if isinstance(r, StepRecord)]

    @property
    def observations(self) -> list[str]:
        return [r.text for r in self.transcript if r.entry == "observation"]


def play(
    env_id: str,
    backend: Any = None,
    seed: int = 0,
    verbosity: Any = "terse",
    max_steps: int | None = None,
    horizon: Any = "subgoal",
    **config: Any,
) -> Run:
    """One episode (of the expert by default)."""
    records: list[Record] = []
    job = EpisodeJob("test", env_id, seed, verbosity, max_steps, horizon)
    end = run_episode(job, backend or ExpertBackend(), AgentConfig(**config), records.append)
    return Run(end, records)


class Tape:
    """Records what an environment shows and what is done in it; ``player()`` is an environment that has nothing but the tape."""

    def __init__(self, env: Any) -> None:
        base = env if hasattr(env, "room_names") else env.unwrapped
        self.env, self.unique_names, self.max_steps = env, base.unique_names, env.unwrapped.max_steps
        self.observation_space = env.observation_space
        self.results: list[Any] = []
        self.actions: list[int] = []
        self.room_names: tuple[str, ...] = ()

    def reset(self, seed: int) -> Any:
        self.results.append(self.env.reset(seed=seed))
        base = self.env if hasattr(self.env, "room_names") else self.env.unwrapped
        self.room_names = base.room_names
        return deepcopy(self.results[-1])

    def step(self, action: int) -> Any:
        self.actions.append(action)
        self.results.append(self.env.step(action))
        return deepcopy(self.results[-1])

    def close(self) -> None:
        self.env.close()

    @property
    def unwrapped(self) -> "Tape":
        return self

    def player(self) -> Any:
        """An environment without a world: it shows what the tape holds, and insists on the same actions."""
        results, actions = iter(deepcopy(self.results)), iter(self.actions)

        def step(action: int) -> Any:
            assert action == next(actions), "the agent acts on something that it was not shown"
            return next(results)

        return SimpleNamespace(
            reset=lambda seed: next(results),
            step=step,
            close=lambda: None,
            room_names=self.room_names,
            unique_names=self.unique_names,
            observation_space=self.observation_space,
            unwrapped=SimpleNamespace(max_steps=self.max_steps),
        )
