"""A real instruct model, SmolLM2-135M-Instruct, through the whole path. `make test-real-model` makes its directory and runs this.

The model is small and weak. What is proven is the path, not its plans.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, get_args

import pytest

from agents.records import End
from benchmarks.runs.records import RunRecords

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
