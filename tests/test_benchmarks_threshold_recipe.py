"""From runs to thresholds: which prompts are read, how they are halved, and the command on a small run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from agents.records import EpisodeRecord, PlannerCall, TranscriptRecord
from benchmarks import cli
from benchmarks.recipes.thresholds import PromptChoice, choose_prompts
from benchmarks.runs.suites import HELD_OUT, RECORDED
from erecap.backend import make_backend
from erecap.calibration.thresholds import read_calibration
from erecap.models.loading import bundled_pruner_dir
from erecap.models.tokenization import ChatTokenizer
from planner import BackendSpec, Generation, History, Sampling, build_prompt

END = {
    "success": True, "subgoals_done": 1, "subgoals_total": 1, "env_steps": 2, "max_steps": 9, "replans": 2, "skills": 2,
    "parse_errors": 0, "reward": 1.0, "end": "success", "wall_s": 0.1,
}  # fmt: skip
ANSWER = Generation("explore", prompt_tokens=9, new_tokens=1, ttft_s=0.1, first_skill_s=0.1, decode_s=0.1, kv_bytes=1)
CALL = {"env_step": 0, "reason": "start", "generation": ANSWER, "backend_s": 0.1, "overhead_s": 0.1, "replan_s": 0.1}
Write = Callable[..., Path]


@pytest.fixture
def run_dir(tmp_path: Path) -> Write:
    """``run_dir(episodes, seed, name, turns)``: a run of the baseline, two replans (or ``turns``) per episode."""

    def write(episodes: int = 4, seed: int = RECORDED, name: str = "run", turns: int = 2) -> Path:
        lines = []
        for key in ({"backend": "baseline", "env_id": "E", "seed": seed + i} for i in range(episodes)):
            texts = [("task", f"1. open door {key['seed']}")]
            texts += [(kind, f"explore hall {turn}") for turn in range(turns) for kind in ("observation", "plan")]
            records = [TranscriptRecord(**key, index=i, entry=kind, text=text) for i, (kind, text) in enumerate(texts)]
            calls = [PlannerCall(**key, **CALL, replan=turn, history_entries=2 * turn + 2) for turn in range(turns)]
            lines += [record.model_dump_json() for record in (*records, *calls, EpisodeRecord(**key, **END))]
        (tmp_path / name).mkdir()
        (tmp_path / name / "steps.jsonl").write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def chat(tokenizer: PreTrainedTokenizerFast) -> ChatTokenizer:
    return ChatTokenizer(tokenizer)


def episodes_of(prompts, chat: ChatTokenizer) -> set[str]:
    return {chat.decode(prompt.input_ids.tolist()).partition("open door ")[2][:6] for prompt in prompts}


def test_halves_share_no_episode_and_all_prompts_are_recorded_ones(run_dir: Write, chat: ChatTokenizer):
    chosen = choose_prompts(PromptChoice((run_dir(4), run_dir(3, RECORDED + 50, "more"))), chat)
    assert (len(chosen.fit), len(chosen.held_out)) == (8, 6)
    fit, held_out = (episodes_of(half, chat) for half in (chosen.fit, chosen.held_out))
    assert (len(fit), len(held_out), fit & held_out) == (4, 3, set())
    history = History().append("task", "1. open door 500000").append("observation", "explore hall 0")
    wanted = chat.encode((s.role, s.text, s.protected) for s in build_prompt(history).segments)
    found = [p for p in (*chosen.fit, *chosen.held_out) if p.input_ids.tolist() == wanted.input_ids.tolist()]
    assert [(p.protected.tolist(), p.segment_ends) for p in found] == [(wanted.protected.tolist(), wanted.segment_ends)]
    assert chosen.data == "run (baseline), more (baseline)"


def test_number_and_length_are_limited(run_dir: Write, chat: ChatTokenizer):
    path = run_dir(6, turns=5)
    everything = choose_prompts(PromptChoice((path,)), chat)
    longest = max(map(len, everything.fit))
    chosen = choose_prompts(PromptChoice((path,), prompts=5, max_length=longest - 1), chat)
    assert (len(chosen.fit), len(chosen.held_out)) == (3, 2)
    assert max(len(p) for p in (*chosen.fit, *chosen.held_out)) < longest


def test_what_cannot_be_fitted_to_is_refused(run_dir: Write, chat: ChatTokenizer, tmp_path: Path):
    with pytest.raises(ValueError, match=r"held-out seed 1000000.*--training-seeds"):
        choose_prompts(PromptChoice((run_dir(seed=HELD_OUT, name="held"),)), chat)
    with pytest.raises(ValueError, match=r"1 episodes.*record more"):
        choose_prompts(PromptChoice((run_dir(1, name="one"),)), chat)
    with pytest.raises(ValueError, match=r"no steps\.jsonl"):
        choose_prompts(PromptChoice((tmp_path,)), chat)
    with pytest.raises(ValueError, match="num_prompts=1"):
        PromptChoice((tmp_path,), prompts=1)


def test_the_command_makes_the_rule_usable(run_dir: Write, tmp_path: Path):
    pruner = tmp_path / "pruner"
    shutil.copytree(bundled_pruner_dir(), pruner, ignore=shutil.ignore_patterns("calibration.json"))
    spec = BackendSpec.parse(f"erecap?keep=0.8&rule=threshold&stages=2+4&pruner={pruner}")
    with pytest.raises(ValueError, match=r"no calibration\.json.*erecap calibrate"):
        make_backend(spec)
    options = ["--pruner", pruner, "--keeps", "0.9,0.8", "--stages", "2+4", "--num-prompts", "6"]
    done = CliRunner().invoke(cli.app, ["calibrate", "--data", str(run_dir(4, turns=6)), *map(str, options)])
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["fit_prompts"], last["held_out_prompts"], list(last["kept_share"])) == (3, 3, ["0.9", "0.8"])
    assert all(0.5 < share <= 1.0 for shares in last["kept_share"].values() for share in shares.values())
    assert [len(fit.stages) for fit in read_calibration(pruner).fits] == [2, 2]
    assert "threshold" in done.stdout
    history = History().append("task", "1. open door").append("observation", "hall " * 60).append("observation", "explore hall")
    answer = make_backend(spec).generate(build_prompt(history), Sampling(4, ignore_eos=True))
    assert answer.dropped_tokens > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keeps", "0.9,most"], "numbers separated by commas"),
        (["--keeps", "0.9,0.9"], "twice"),
        (["--keeps", "1.9"], "keep=1.9"),
        (["--model", "somewhere"], "pruner of its own"),
        (["--stages", "7"], "does not fit a model of 8 layers"),
    ],
)
def test_bad_options_say_what_is_wrong(run_dir: Write, options, message):
    done = CliRunner().invoke(cli.app, ["calibrate", "--data", str(run_dir()), *options])
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)
