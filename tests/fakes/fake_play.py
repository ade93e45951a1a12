"""Episodes and backends that cost nothing, importable by worker processes (the tests put this folder on ``sys.path``)."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agents.records import EpisodeRecord, PlannerCall, Record, TranscriptRecord
from planner import Generation, Prompt, Sampling

LAYERS = 2


class FakeModel:
    """A backend with 2 layers whose times follow from the prompt's length: 1 ms a token that enters a layer, times ``cost``."""

    def __init__(self, keep: float, cost: float = 1.0) -> None:
        config = SimpleNamespace(
            num_hidden_layers=LAYERS, hidden_size=64, num_attention_heads=4, num_key_value_heads=1, intermediate_size=128
        )
        identity = SimpleNamespace(name="fake", checksum="0123")
        self.loaded = SimpleNamespace(model=SimpleNamespace(config=config), identity=identity, dtype="torch.float32", device="cpu")
        self.keep, self.cost = keep, cost
        self.asked: list[tuple[int, Sampling]] = []

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: Callable[[str], None] | None = None) -> Generation:
        tokens = sum(len(segment.text.split()) for segment in prompt.segments)
        self.asked.append((tokens, sampling))
        kept = max(1, int(tokens * self.keep))
        ttft = self.cost * (tokens + kept) / 1000
        return Generation(
            text="explore",
            prompt_tokens=tokens,
            new_tokens=sampling.max_new_tokens,
            stage_tokens=(kept,),
            layer_tokens=(tokens, kept),
            ttft_s=ttft,
            decode_s=0.1,
            total_s=ttft + 0.1,
            kv_bytes=(tokens + kept) * 64,
        )


class FakeSession(FakeModel):
    """A backend that keeps the last prompt and its answer. It fails where it is asked otherwise than in whole episodes in order.

    ``forgetful=False`` makes a backend whose ``reset`` does nothing.
    """

    def __init__(self, keep: float = 1.0, forgetful: bool = True) -> None:
        super().__init__(keep)
        self.forgetful, self.held, self.last = forgetful, list[str](), list[str]()
        self.fresh = False
        self.events: list[str] = []

    def reset(self) -> None:
        self.events.append("reset")
        self.last, self.fresh = [], True
        if self.forgetful:
            self.held = []

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: Callable[[str], None] | None = None) -> Generation:
        words = [word for segment in prompt.segments for word in segment.text.split()]
        answered = any(segment.role == "assistant" for segment in prompt.segments)
        assert answered != self.fresh, "an episode that does not begin with its first prompt, or no reset before it"
        assert words[: len(self.last)] == self.last, "another episode without a reset, or a prompt out of order"
        assert words != self.last, "a prompt that was answered already"
        reused = 0
        while reused < min(len(words) - 1, len(self.held)) and words[reused] == self.held[reused]:
            reused += 1
        made = super().generate(prompt, sampling)
        self.events.append("ask")
        self.last, self.held, self.fresh = words, [*words, "explore"], False
        ttft = (len(words) - reused) / 1000
        return replace(made, reused_tokens=reused, ttft_s=ttft, total_s=ttft + 0.1)


class ObservingSession(FakeSession):
    """A session that takes in the history while the agent acts."""

    def observe(self, prompt: Prompt) -> None:
        self.events.append("observe")
        words = [word for segment in prompt.segments for word in segment.text.split()]
        assert words[: len(self.last)] == self.last != words, "nothing new, or another episode"
        self.held = words


def fake_backend(spec: str) -> Any:
    """``baseline``, ``erecap?keep=...``, ``baseline-session``, or anything else for an expert that is never asked."""
    name, _, keep = spec.partition("?keep=")
    if name == "baseline-session":
        return FakeSession()
    return FakeModel(float(keep.partition("&")[0] or 1.0)) if name in ("baseline", "erecap", "hf-generate") else None


def fake_episode(job: Any, backend: Any, config: Any, sink: Callable[[Record], None], frames: Any = None) -> EpisodeRecord:
    """Three replans; the pruned backend fails on odd seeds."""
    key = {"backend": job.backend, "env_id": job.env_id, "seed": job.seed}
    words = ["Task: look around.", "You see a ball. " * (job.seed % 7 + 1), "explore", "You see a box. " * 5, "explore"]
    kinds = ["task", "observation", "plan", "observation", "plan"]
    for index, (kind, text) in enumerate(zip(kinds, words, strict=True)):
        sink(TranscriptRecord(**key, index=index, entry=kind, text=text))
    for replan in range(2):
        sink(fake_call(key, replan, 100 * (replan + 1), entries=2 * replan + 2))
    record = fake_end(key, success=not (job.backend.startswith("erecap") and job.seed % 2))
    sink(record)
    return record


def fake_call(key: dict[str, Any], replan: int, tokens: int, entries: int = 2, replan_s: float = 0.5) -> PlannerCall:
    return PlannerCall(
        **key,
        replan=replan,
        env_step=0,
        reason="start",
        history_entries=entries,
        generation=Generation(
            text="explore",
            prompt_tokens=tokens,
            new_tokens=3,
            stage_tokens=(tokens // 2,),
            layer_tokens=(tokens, tokens // 2),
            ttft_s=0.2,
            first_skill_s=0.25,
            decode_s=0.1,
            kv_bytes=1024,
        ),
        backend_s=0.45,
        overhead_s=0.05,
        replan_s=replan_s,
        plan=("explore",),
    )


def fake_end(key: dict[str, Any], success: bool = True, steps: int = 20) -> EpisodeRecord:
    return EpisodeRecord(
        **key,
        success=success,
        subgoals_done=int(success),
        subgoals_total=2,
        env_steps=steps,
        max_steps=100,
        replans=2,
        skills=2,
        parse_errors=0,
        reward=float(success),
        end="success" if success else "step_limit",
        wall_s=0.1,
    )


@dataclass(frozen=True)
class Dying:
    """An episode that kills its worker the first ``times`` times that seed ``seed`` is played."""

    marks: Path
    seed: int
    times: int

    def __call__(self, job: Any, backend: Any, config: Any, sink: Callable[[Record], None], frames: Any = None) -> EpisodeRecord:
        deaths = len(list(self.marks.iterdir()))
        if job.seed == self.seed and deaths < self.times:
            (self.marks / str(deaths)).touch()
            os._exit(7)
        return fake_episode(job, backend, config, sink)


def interrupting_episode(job: Any, backend: Any, config: Any, sink: Callable[[Record], None], frames: Any = None) -> EpisodeRecord:
    """Seed 3 sends Ctrl-C to the parent of its worker and hangs; again where the parent lost it (inside a callback)."""
    if job.seed == 3:
        os.kill(os.getppid(), signal.SIGINT)
        while not threading.Event().wait(10):
            os.kill(os.getppid(), signal.SIGINT)
    return fake_episode(job, backend, config, sink)


def refusing_episode(job: Any, backend: Any, config: Any, sink: Callable[[Record], None], frames: Any = None) -> EpisodeRecord:
    """Seed 1 is a user's error, seed 2 a bug."""
    if job.seed == 1:
        raise ValueError("no such model: name another")
    if job.seed == 2:
        raise KeyError("a bug")
    return fake_episode(job, backend, config, sink)


def dying_episode(job: Any, backend: Any, config: Any, sink: Callable[[Record], None], frames: Any = None) -> EpisodeRecord:
    """Every episode kills its worker."""
    os._exit(7)


def no_start() -> None:
    """An initializer that ends its worker."""
    os._exit(3)


@dataclass(frozen=True)
class Telling:
    """An episode that, from seed ``hang_from`` on, tells the pid of its worker through a pipe and hangs."""

    pipe: Path
    hang_from: int

    def __call__(self, job: Any, backend: Any, config: Any, sink: Callable[[Record], None], frames: Any = None) -> EpisodeRecord:
        if job.seed >= self.hang_from:
            with self.pipe.open("w") as file:
                file.write(f"{os.getpid()}\n")
            threading.Event().wait()
        return fake_episode(job, backend, config, sink)
