"""``erecap stages``: which prompts and answers are read, the files, continuing, and errors."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agents.records import EpisodeRecord, PlannerCall, TranscriptRecord
from benchmarks.recipes.first_stage import study
from benchmarks.recipes.first_stage.cases import CaseChoice, choose_cases, text_cases
from benchmarks.runs.suites import HELD_OUT, RECORDED
from erecap.backend import make_backend
from erecap.models.loading import load_model
from erecap.training.sequences import TokenSequence
from planner import BackendSpec, Generation, History, Sampling, build_prompt

END = {
    "success": True, "subgoals_done": 1, "subgoals_total": 1, "env_steps": 2, "max_steps": 9, "replans": 2, "skills": 2,
    "parse_errors": 0, "reward": 1.0, "end": "success", "wall_s": 0.1, "system": "You plan.",
}  # fmt: skip
CALL = {"env_step": 0, "reason": "start", "backend_s": 0.1, "overhead_s": 0.1, "replan_s": 0.1}
TURNS = 5
FAST = ("--num-prompts", 4, "--share", "0.85,0.7", "--min-length", 250, "--max-new-tokens", 6)


def answer(turn: int) -> Generation:
    return Generation(
        f"goto hall {turn}\ndone", prompt_tokens=9, new_tokens=1, ttft_s=0.1, first_skill_s=0.1, decode_s=0.1, kv_bytes=1
    )


def write_run(path: Path, seed: int, unreadable: int = -1) -> Path:
    """A run of the baseline, two episodes of ``TURNS`` replans; one answer of each may be unreadable."""
    lines = []
    for key in ({"backend": "baseline", "env_id": "E", "seed": seed + i} for i in range(2)):
        texts = [("task", f"1. open door {key['seed']}")]
        for turn in range(TURNS):
            texts += [("observation", f"hall {turn} and a red ball " * 8), ("plan", f"goto hall {turn}\ndone")]
        records = [TranscriptRecord(**key, index=i, entry=kind, text=text) for i, (kind, text) in enumerate(texts)]
        calls = [
            PlannerCall(
                **key, **CALL, replan=turn, history_entries=2 * turn + 2, generation=answer(turn),
                parse_error="no skill" if turn == unreadable else None,
            )
            for turn in range(TURNS)
        ]  # fmt: skip
        lines += [record.model_dump_json() for record in (*records, *calls, EpisodeRecord(**key, **END))]
    path.mkdir()
    (path / "steps.jsonl").write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "recorded", RECORDED)


def last_line(done) -> dict:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def test_recorded_answers_follow_their_prompts_and_unreadable_ones_are_left_out(tmp_path: Path, model_dir: str):
    loaded = load_model(model_dir, dtype="float32", device="cpu")
    run = write_run(tmp_path / "bad", HELD_OUT, unreadable=1)
    chosen = choose_cases(CaseChoice((run,), prompts=99), loaded, 8)
    assert len(chosen.cases) == 2 * (TURNS - 1)
    texts = {loaded.tokenizer.decode(case.answer) for case in chosen.cases}
    assert texts == {f"goto hall {turn}\ndone<|im_end|>" for turn in (0, 2, 3, 4)}
    assert all(loaded.tokenizer.decode(case.prompt.input_ids).endswith("<|im_start|>assistant\n") for case in chosen.cases)
    assert chosen.sources == ("bad (baseline, 2 episodes of held-out seeds, 8 plans)",)
    again = choose_cases(CaseChoice((run,), prompts=3, seed=1), loaded, 8)
    assert len(again.cases) == 3
    assert again.digest != chosen.digest


def test_an_answer_in_a_text_may_see_its_own_turn_whole():
    turns = np.array([-1, 0, 0, 0, 1, 1, 1], np.int32)
    weights = np.array([0.3, 0.3, 1.0, 1.0, 0.3, 1.0, 1.0], np.float32)
    first, second = text_cases(TokenSequence(np.arange(7, dtype=np.int32), weights, turns))
    assert (first.answer, second.answer) == ((2, 3), (5, 6))
    assert first.prompt.protected.tolist() == [True, True]
    assert (second.prompt.input_ids.tolist(), second.prompt.protected.tolist()) == (
        [0, 1, 2, 3, 4],
        [True, False, False, False, True],
    )


def test_the_command_writes_all_files_and_the_spec_runs(invoke: Callable, run_dir: Path, model_dir: str, tmp_path: Path):
    out = tmp_path / "out"
    last = last_line(invoke("stages", "--data", run_dir, "--model", model_dir, "--tolerance", 9, "--out", out, *FAST))
    content = json.loads((out / "stages.json").read_text())
    assert last["complete"]
    assert content["complete"]
    assert {point["selector"] for point in content["points"]} == {"attention", "random"}
    assert all(point["kept_share"] == pytest.approx(point["share"], rel=0.01) for point in content["points"])
    assert {point["first"] for point in content["points"]} == {0, 1}
    assert (out / "stages.png").stat().st_size > 10_000
    assert f"Recommended: {last['recommended']}" in (out / "stages.md").read_text()
    assert last["recommended"].startswith("erecap?keep=0.")
    assert f"selector=attention&model={model_dir}" in last["recommended"]
    history = History().append("task", "1. open door").append("observation", "hall " * 60).append("observation", "explore hall")
    made = make_backend(BackendSpec.parse(last["recommended"])).generate(build_prompt(history), Sampling(4, ignore_eos=True))
    assert made.dropped_tokens > 0


def test_a_stopped_run_goes_on_to_the_same_file(
    invoke: Callable, run_dir: Path, model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = ("stages", "--data", run_dir, "--model", model_dir, "--selector", "recency", "--no-floor", *FAST, "--share", "0.85")
    last_line(invoke(*options, "--out", tmp_path / "whole"))
    real, answered = study.answer_case, []

    def stop(*arguments):
        answered.append(arguments)
        if len(answered) == 11:  # in the second schedule: 4 cases unpruned, then 4 each
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(study, "answer_case", stop)
    stopped = invoke(*options, "--out", tmp_path / "parts")
    assert stopped.exit_code == 130
    kept = json.loads((tmp_path / "parts" / "stages.json").read_text())
    assert (len(kept["points"]), kept["complete"], len(kept["unpruned"])) == (1, False, 4)
    last_line(invoke(*options, "--out", tmp_path / "parts"))
    assert (tmp_path / "parts" / "stages.json").read_bytes() == (tmp_path / "whole" / "stages.json").read_bytes()
    count = len(answered)
    last_line(invoke(*options, "--out", tmp_path / "parts"))
    assert len(answered) == count  # nothing is measured twice


def test_texts_and_another_family(invoke: Callable, tokenizer, tmp_path: Path):
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    texts = tmp_path / "texts.jsonl"
    record = {"context": "You see a red ball. " * 12, "instruction": "Where is the ball?", "response": "in the hall"}
    texts.write_text("".join(json.dumps(record | {"instruction": f"Where is ball {n}?"}) + "\n" for n in range(3)))
    options = ("--model", tmp_path / "llama", "--share", "0.7", "--no-floor", "--first", "0", "--max-new-tokens", 4)
    done = invoke("stages", "--data", texts, *options, "--out", tmp_path / "out")
    assert last_line(done)["points"] == 1
    assert "texts.jsonl (3 answers)" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--share", "0.6,most"], "numbers separated by commas"),
        (["--share", "0.6,0.6"], "different numbers"),
        (["--share", "1.2"], "between 0 and 1"),
        (["--share", "0.05"], "the lowest is"),
        (["--first", "3"], r"first=3 is no place"),
        (["--first", "a"], "are not layers"),
        (["--tolerance", "-1"], "tolerance=-1"),
        (["--selector", "best"], "selector 'best' is not known"),
        (["--selector", "learned"], "pruner of its own"),
        (["--num-prompts", "0"], "num_prompts=0"),
        (["--min-length", "900"], "no prompt of 900"),
        (["--max-new-tokens", "0"], "max_new_tokens=0"),
        (["--data", "nowhere"], "holds no steps.jsonl"),
    ],
)
def test_bad_options_say_what_is_wrong(invoke: Callable, run_dir: Path, model_dir: str, tmp_path: Path, options, message):
    done = invoke("stages", "--data", run_dir, "--model", model_dir, "--out", tmp_path / "out", *options)
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_another_study_and_a_changed_file_are_refused(invoke: Callable, run_dir: Path, model_dir: str, tmp_path: Path):
    options = ("stages", "--data", run_dir, "--model", model_dir, "--no-floor", "--first", "0", *FAST, "--out", tmp_path / "out")
    last_line(invoke(*options))
    other = invoke(*options, "--seed", 1)
    assert "holds another study" in str(other.exception)
    assert "digest was" in str(other.exception)
    path = tmp_path / "out" / "stages.json"
    path.write_text(path.read_text().replace('"prompts": 4', '"prompts": 5'))
    assert "was changed after it was written" in str(invoke(*options).exception)
