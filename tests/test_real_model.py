"""A real instruct model, SmolLM2-135M-Instruct, through the whole path. `make test-real-model` makes its directory and runs this.

The model is small and weak. What is proven is the path, not its plans.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, get_args

import pytest

from agents.expert_backend import ExpertBackend
from agents.guides import guide_for
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.records import End
from agents.world import World
from agents.world_extras import grammar_of
from benchmarks.runs.records import RunRecords
from envs import LEVELS
from erecap.backend import make_backend
from planner import BackendSpec, Generation, LineCallback, PlannerBackend, Prompt, Sampling

REAL_MODEL = Path(os.environ.get("ERECAP_REAL_MODEL", Path(__file__).parents[1] / "runs" / "smollm2-135m"))
REASON = f"{REAL_MODEL} is not there: make it with tools/real_model.sh (a download of 100 MB), or name one with ERECAP_REAL_MODEL"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (REAL_MODEL / "config.json").is_file(), reason=REASON)]

MODEL = f"model={REAL_MODEL}&dtype=float32"
REPLANS = 3


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English prose that every Python has: the help on its language."""
    path = tmp_path_factory.mktemp("text") / "topics.txt"
    path.write_text("\n\n".join(topics[name] for name in sorted(topics)))
    return path


@pytest.mark.parametrize(
    "backend",
    [
        f"baseline?{MODEL}",
        f"erecap?keep=0.9&selector=attention&{MODEL}",
        f"erecap-session?keep=0.9&selector=key-norm&{MODEL}",
        f"hf-generate?{MODEL}",
    ],
    ids=lambda spec: spec.partition("?")[0],
)
def test_free_text_never_crashes_or_stalls_a_run(invoke: Callable[..., Any], tmp_path: Path, backend: str):
    """Whatever the model writes, the episode ends within its replans, and every answer is in the records."""
    limits = ("--max-replans", REPLANS, "--max-new-tokens", 32, "--prompt", "few-shot")
    done = invoke("run", "--suite", "smoke", "--backend", backend, "--episodes", 1, *limits, "--out", tmp_path / "run")
    assert done.exit_code == 0, (done.output, done.exception)
    played = RunRecords.read(tmp_path / "run" / "steps.jsonl").backends[backend]
    (episode,) = played.episodes.values()
    assert episode.end in get_args(End)
    assert 1 <= episode.replans <= REPLANS
    assert len(played.calls) == episode.replans
    assert all(1 <= call.generation.new_tokens <= 32 for call in played.calls)


def test_lines_can_always_be_read(invoke: Callable[..., Any], tmp_path: Path):
    limits = ("--max-replans", REPLANS, "--max-new-tokens", 32, "--prompt", "few-shot")
    backends = ",".join(f"{name}?{MODEL}&format=lines" for name in ("baseline", "hf-generate"))
    done = invoke("compare", "--suite", "smoke", "--backends", backends, "--episodes", 2, *limits, "--out", tmp_path / "run")
    assert done.exit_code == 0, (done.output, done.exception)
    for played in RunRecords.read(tmp_path / "run" / "steps.jsonl").backends.values():
        assert len(played.calls) >= 2
        assert [call.generation.text for call in played.calls if call.parse_error] == []


@dataclass
class Watched:
    """The expert plays, and a model says at each replan which line it would choose."""

    model: PlannerBackend
    decisions: list[tuple[str, str]] = field(default_factory=list)
    """Per replan the expert's first line and the model's choice."""

    def plan(self, world: World, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Return the expert's plan, once the model has chosen."""
        plan, grammar = ExpertBackend().plan(world, prompt, sampling), grammar_of(world)
        assert grammar is not None
        chosen = self.model.generate(prompt, replace(sampling, grammar=grammar))
        self.decisions.append((plan.text.splitlines()[0], chosen.text))
        return plan


def test_choices_agree_with_the_expert_more_often_than_the_commonest_line():
    """On 100 decisions in the seven BabyAI levels, of which the model knows no more than the prompt says."""
    watched = Watched(make_backend(BackendSpec.parse(f"baseline?{MODEL}&format=choice")))
    jobs = (EpisodeJob("expert", env_id, seed) for seed in range(1_000_000, 1_000_100) for env_id in LEVELS.values())
    while len(watched.decisions) < 100:
        job = next(jobs)
        run_episode(replace(job, guide=guide_for(job, "few-shot")), watched, AgentConfig(), lambda record: None)
    decisions = watched.decisions[:100]
    agreed = sum(label == chosen for label, chosen in decisions)
    commonest, times = Counter(label for label, _ in decisions).most_common(1)[0]
    assert agreed > times, f"{agreed} of 100 agree; {commonest!r} alone has {times}"


def test_attention_at_keep_0_9_costs_little(invoke: Callable[..., Any], text: Path, tmp_path: Path):
    """Within 10% of the unpruned perplexity, and within 1 of 8 needles."""
    sizes = ("--texts", 4, "--length", 384, "--needles", 8, "--max-new-tokens", 8, "--dtype", "float32")
    what = ("--model", REAL_MODEL, "--text", text, "--keep", "0.9", "--selector", "attention", "--out", tmp_path / "quality")
    done = invoke("bench-quality", *what, *sizes)
    assert done.exit_code == 0, (done.output, done.exception)
    unpruned, pruned = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert pruned["kept_share"] < 0.9
    assert pruned["perplexity"] <= 1.1 * unpruned["perplexity"]
    assert pruned["needles_found"] >= unpruned["needles_found"] - 1
    assert unpruned["needles_found"] >= 4  # else nothing is asked of the pruned model
