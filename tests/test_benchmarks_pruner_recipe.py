"""What the pruner is trained on: recorded runs of training seeds, one backend, the plans that could be read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from agents.demonstrations import Sample
from agents.records import EpisodeRecord, PlannerCall, TranscriptRecord
from benchmarks.recipes.planner.dataset import chat_messages
from benchmarks.recipes.sequences import SequenceChoice, choose_sequences, read_transcripts
from benchmarks.runs.suites import HELD_OUT, RECORDED
from erecap.backend import encode_prompt
from erecap.models.tokenization import ChatTokenizer
from erecap.training.batches import collate
from erecap.training.encoding import encode_episode
from erecap.training.sequences import PLAN_WEIGHT
from erecap.training.softmask import draw_replans
from planner import Entry, Generation, History, build_prompt, system_text
from planner.history import EntryKind

END = {
    "success": True,
    "subgoals_done": 1,
    "subgoals_total": 1,
    "env_steps": 2,
    "max_steps": 9,
    "replans": 2,
    "skills": 2,
    "parse_errors": 0,
    "reward": 1.0,
    "end": "success",
    "wall_s": 0.1,
}
FIRST_CALL = {"replan": 0, "env_step": 0, "reason": "start", "history_entries": 2}
CALL = {"replan": 1, "env_step": 1, "reason": "plan_end", "history_entries": 4}
TIMES = {"backend_s": 0.1, "overhead_s": 0.1, "replan_s": 0.2}
Write = Callable[..., Path]


@pytest.fixture
def run_dir(tmp_path: Path) -> Write:
    def write(
        backends: tuple[str, ...] = ("baseline",),
        seed: int = RECORDED,
        plan: str = "explore",
        error: str | None = None,
        cut: bool = False,
        system: str | None = None,
    ) -> Path:
        texts = [("task", "1. open door"), ("observation", "Goal: open door"), ("plan", "explore")]
        texts += [("observation", "explore: ok"), ("plan", plan)]
        lines = []
        for name in backends:
            key = {"backend": name, "env_id": "E", "seed": seed}
            records = [TranscriptRecord(**key, index=i, entry=kind, text=text) for i, (kind, text) in enumerate(texts)]
            first = PlannerCall(**key, **FIRST_CALL, **TIMES, generation=Generation(text="explore"))
            last = PlannerCall(**key, **CALL, **TIMES, generation=Generation(text=plan, truncated=cut), parse_error=error)
            lines += [record.model_dump_json() for record in (*records, first, last, EpisodeRecord(**key, **END, system=system))]
        (tmp_path / "steps.jsonl").write_text("\n".join(lines) + "\n")
        return tmp_path

    return write


def test_one_backend_is_read(run_dir: Write, tokenizer: PreTrainedTokenizerFast):
    path = run_dir(("expert", "baseline", "erecap?keep=0.5"))
    assert len(choose_sequences(SequenceChoice((path,)), tokenizer)) == 1


def test_a_plan_that_could_not_be_read_is_no_target(run_dir: Write, tokenizer: PreTrainedTokenizerFast):
    plans = ({"plan": "explore"}, {"plan": "fly away", "error": "unknown skill 'fly'"}, {"plan": "explore\ngo", "cut": True})
    readable, broken, cut = (choose_sequences(SequenceChoice((run_dir(**plan),)), tokenizer)[0] for plan in plans)
    turns = [set(s.turns[s.weights >= PLAN_WEIGHT].tolist()) for s in (readable, broken, cut)]
    assert turns == [{0, 1}, {0}, {0}]


def test_a_recording_of_another_world_keeps_its_system_text_and_its_plans(run_dir: Write, tokenizer: PreTrainedTokenizerFast):
    path = run_dir(plan="take carrot", system="You act in a text world.")
    (sample,) = read_transcripts(path / "steps.jsonl")
    assert sample.labels == ("explore", "take carrot")
    (sequence,) = choose_sequences(SequenceChoice((path,)), tokenizer)
    text = tokenizer.decode(sequence.input_ids.tolist())
    assert "You act in a text world." in text
    assert system_text() not in text


def test_held_out_episodes_are_refused(run_dir: Write, tokenizer: PreTrainedTokenizerFast):
    with pytest.raises(ValueError, match=r"held-out seed 1000000.*erecap run --training-seeds"):
        choose_sequences(SequenceChoice((run_dir(seed=HELD_OUT),)), tokenizer)


def test_files_of_texts_are_read_and_bad_lines_counted(tokenizer: PreTrainedTokenizerFast, tmp_path: Path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"instruction": "Go", "response": "ok"}\n{"instruction": "Go"}\n')
    with pytest.raises(ValueError, match="line 2"):
        choose_sequences(SequenceChoice((path,)), tokenizer)
    assert len(choose_sequences(SequenceChoice((path,), skip_bad=True), tokenizer)) == 1


def test_a_directory_without_episodes_says_what_is_wanted(tokenizer: PreTrainedTokenizerFast, tmp_path: Path):
    with pytest.raises(ValueError, match=r"steps\.jsonl.*\.jsonl or \.txt"):
        choose_sequences(SequenceChoice((tmp_path,)), tokenizer)


def test_training_protects_what_the_prompts_of_a_whole_task_protect(tokenizer: PreTrainedTokenizerFast):
    """The pruner may drop a token in training if and only if it may drop it at the same replan of the agent."""
    told: list[tuple[EntryKind, str]] = [
        ("task", "1. open door. 2. open box."), ("briefing", "hall: red ball."), ("observation", "You are in the hall."),
        ("plan", "fly away"), ("feedback", "That plan could not be read."), ("plan", "goto hall\nopen door"),
        ("outcome", "goto hall: ok."), ("outcome", "open door: failed."), ("observation", "You are still here."),
        ("feedback", "Nothing has changed."), ("plan", "explore"), ("outcome", "explore: ok."), ("observation", "Open box left."),
        ("plan", "sing"), ("feedback", "That plan could not be read."), ("plan", "dance"), ("outcome", "plan: failed."),
        ("observation", "Open box still left."), ("plan", "open box"),
    ]  # fmt: skip
    entries = tuple(Entry(kind, text) for kind, text in told)
    plans = [index for index, entry in enumerate(entries) if entry.kind == "plan"]
    labels = tuple(None if entries[index].text in ("fly away", "sing", "dance") else entries[index].text for index in plans)
    batch = collate([encode_episode(tokenizer, chat_messages(Sample(entries, labels, "You plan.")))])
    chat, compared = ChatTokenizer(tokenizer), 0
    for _ in range(40):
        replans = draw_replans(batch)
        count = int(replans.prompts[0])
        kept = (replans.batch.turns[0, :count] < 0) | (replans.batch.turns[0, :count] == replans.turns[0])
        index = next(i for i in plans if len(encode_prompt(chat, build_prompt(History(entries[:i]), "You plan."))) == count)
        protected = encode_prompt(chat, build_prompt(History(entries[:index]), "You plan.")).protected
        differ = tokenizer.decode(batch.input_ids[0, :count][kept.numpy() != protected].tolist())
        assert differ.replace("<|im_start|>assistant\n", "").strip() == ""  # the header of the current plan is not marked
        compared |= 1 << index
    assert [i for i in plans if compared >> i & 1] == [5, 10, 18]
