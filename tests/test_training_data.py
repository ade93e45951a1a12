"""Sequences from chat messages, their files, and batches."""

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from erecap.models.tokenization import ChatTokenizer
from erecap.training.batches import Batches, collate, length_curriculum
from erecap.training.encoding import encode_episode
from erecap.training.sequences import ALWAYS_KEPT, SequenceList, ShardedSequences, TokenSequence, cut_after_plan, write_shard

EPISODE = [
    {"role": "system", "content": "You plan."},
    {"role": "user", "content": "Put the ball in the box!", "protected": True},
    {"role": "user", "content": "You see a user and a red ball."},
    {"role": "assistant", "content": "goto kitchen\npickup key"},
    {"role": "user", "content": "You are in the hall."},
    {"role": "assistant", "content": "fly", "train": False},
    {"role": "user", "content": "line 1: unknown", "same_turn": True},
    {"role": "assistant", "content": "explore"},
]


def make(length: int, seed: int = 0) -> TokenSequence:
    ids = np.random.default_rng(seed).integers(3, 50, length).astype(np.int32)
    return TokenSequence(ids, np.full(length, 0.3, np.float32), np.zeros(length, np.int32))


def text_where(tokenizer: PreTrainedTokenizerFast, sequence: TokenSequence, mask: np.ndarray) -> str:
    return tokenizer.decode(sequence.input_ids[mask].tolist())


def test_tokens_are_what_the_template_renders(tokenizer: PreTrainedTokenizerFast):
    sequence = encode_episode(tokenizer, EPISODE)
    chat = [{"role": m["role"], "content": m["content"]} for m in EPISODE]
    assert sequence.input_ids.tolist() == tokenizer.apply_chat_template(chat)["input_ids"]


@pytest.mark.parametrize("plan", [3, 5, 7])
def test_the_engine_s_prompts_are_prefixes(tokenizer: PreTrainedTokenizerFast, plan: int):
    sequence = encode_episode(tokenizer, EPISODE)
    prompt = ChatTokenizer(tokenizer).encode([(m["role"], m["content"], False) for m in EPISODE[:plan]]).input_ids
    assert sequence.input_ids[: len(prompt)].tolist() == prompt.tolist()


def test_plans_weigh_one_with_their_closing_token_and_untrained_ones_nothing(tokenizer: PreTrainedTokenizerFast):
    sequence = encode_episode(tokenizer, EPISODE)
    assert text_where(tokenizer, sequence, sequence.weights == 1) == "goto kitchen\npickup key<|im_end|>explore<|im_end|>"
    assert text_where(tokenizer, sequence, sequence.weights == 0) == "fly<|im_end|>"
    assert set(np.unique(sequence.weights)) == {np.float32(0), np.float32(0.3), np.float32(1)}


def test_the_label_of_a_wrong_plan_is_a_branch_behind_the_episode(tokenizer: PreTrainedTokenizerFast):
    wrong = [*EPISODE[:3], {**EPISODE[3], "train": False, "label": "goto kitchen\ndrop"}, *EPISODE[4:]]
    sequence, plain = encode_episode(tokenizer, wrong), encode_episode(tokenizer, EPISODE)
    right = encode_episode(tokenizer, [*EPISODE[:3], {**EPISODE[3], "content": "goto kitchen\ndrop"}])
    length = sequence.episode_length
    assert sequence.input_ids[:length].tolist() == plain.input_ids.tolist()
    assert sequence.forks is not None
    at = int(sequence.forks[length])
    assert set(sequence.forks[length:]) == {at}
    assert [*sequence.input_ids[:at], *sequence.input_ids[length:]] == right.input_ids[: len(sequence) - length + at].tolist()
    assert text_where(tokenizer, sequence, sequence.weights == 1) == "explore<|im_end|>goto kitchen\ndrop<|im_end|>"
    assert (sequence.turns[length:] == ALWAYS_KEPT).all()
    short = sequence.cut(at)
    assert (short.forks, len(short)) == (None, at), "a branch goes with what it forks off from"
    assert sequence.cut(at + 1).episode_length == at + 1
    assert len(sequence.cut(at + 1)) == at + 1 + len(sequence) - length


@pytest.mark.parametrize("at", [0, 1, 9, 12])
def test_a_branch_forks_off_inside_the_episode(at: int):
    with pytest.raises(ValueError, match=f"a branch at token {at}"):
        make(9).branch(at, [1, 2])
    with pytest.raises(ValueError, match="a branch at token 10"):
        make(9).branch(5, [1, 2, 3]).branch(10, [1])


def test_turns_count_replans_and_mark_protected_messages(tokenizer: PreTrainedTokenizerFast):
    sequence = encode_episode(tokenizer, EPISODE)
    start, end = "<|im_start|>", "<|im_end|>\n"
    parts = [f"{start}{m['role']}\n{m['content']}{end}" for m in EPISODE]
    assert text_where(tokenizer, sequence, sequence.turns == ALWAYS_KEPT) == parts[0] + parts[1]
    assert text_where(tokenizer, sequence, sequence.turns == 0) == parts[2] + parts[3]
    assert text_where(tokenizer, sequence, sequence.turns == 1) == "".join(parts[4:])


def test_shards_give_back_what_was_written(tmp_path: Path):
    sequences = [make(n, seed=n) for n in (5, 9, 2, 30)]
    sequences[1] = sequences[1].branch(4, [7, 8]).branch(6, [9])
    write_shard(tmp_path / "a.safetensors", sequences[:3])
    write_shard(tmp_path / "b.safetensors", sequences[3:])
    stored = ShardedSequences([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    assert stored.lengths.tolist() == [5, 14, 2, 30]
    for index, wanted in enumerate(sequences):
        for name in ("input_ids", "weights", "turns"):
            assert np.array_equal(getattr(stored[index], name), getattr(wanted, name))
        assert (stored[index].forks is None) == (wanted.forks is None)
        assert wanted.forks is None or np.array_equal(stored[index].forks, wanted.forks)
    assert not list(tmp_path.glob("*.partial"))


def test_an_epoch_deals_every_sequence_once_within_the_budget():
    lengths = [*range(2, 60), 200]
    batches = Batches(SequenceList([make(n) for n in lengths]), token_budget=100, seed=1)
    seen: list[int] = []
    while len(seen) < len(lengths):
        batch = batches.next()
        assert batch.input_ids.numel() <= 100 or len(batch.indices) == 1
        seen += batch.indices
    assert sorted(seen) == list(range(len(lengths)))


def test_the_deal_is_deterministic_and_goes_on_from_its_state():
    data = SequenceList([make(n) for n in range(2, 60)])
    first, second, third = (Batches(data, 100, seed=3) for _ in range(3))
    dealt = [first.next().indices for _ in range(50)]
    for _ in range(30):
        second.next()
    third.load_state_dict(second.state_dict())
    assert [third.next().indices for _ in range(20)] == dealt[30:]


def test_a_state_of_other_data_is_refused():
    batches = Batches(SequenceList([make(5)]), 100)
    with pytest.raises(ValueError, match="sequences=2"):
        batches.load_state_dict(Batches(SequenceList([make(5), make(6)]), 100).state_dict())


def test_the_curriculum_holds_long_sequences_back():
    data = SequenceList([make(n) for n in range(2, 200)])
    batches = Batches(data, 200, curriculum=length_curriculum(20, 200, full_at=0.5))
    assert max(batches.next(0.0).input_ids.shape[1] for _ in range(100)) <= 20
    assert max(batches.next(0.5).input_ids.shape[1] for _ in range(400)) > 190


def test_padding_is_marked():
    batch = collate([make(3), make(5)], pad_id=7)
    assert batch.input_ids[0, 3:].tolist() == [7, 7]
    assert batch.weights[0, 3:].tolist() == [0, 0]
    assert batch.turns[0, 3:].tolist() == [ALWAYS_KEPT] * 2
    assert batch.tokens == 8


def test_bad_sequences_are_refused():
    with pytest.raises(ValueError, match="vectors of one length"):
        TokenSequence(np.zeros(3, np.int32), np.zeros(2, np.float32), np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="at least 2 tokens"):
        make(1)


def test_batches_deal_only_what_they_are_told_to(episode):
    data = SequenceList([episode(n) for n in range(8)])
    dealt = Batches(data, 64, only=[1, 4, 6])
    seen = [index for _ in range(9) for index in dealt.next().indices]
    assert set(seen) == {1, 4, 6}
    with pytest.raises(ValueError, match="0 sequences"):
        Batches(data, 64, only=[])


@pytest.mark.parametrize(("length", "wanted"), [(3, None), (4, 4), (8, 4), (9, 9), (11, 9), (12, 12)])
def test_a_long_episode_is_cut_after_the_last_plan_that_is_whole(length: int, wanted: int | None):
    weights = np.array([0.3, 0.3, 1, 1, 0.3, 0.3, 0.3, 1, 1, 0.3, 0.3, 1], np.float32)
    sequence = TokenSequence(np.arange(12, dtype=np.int32), weights, np.zeros(12, np.int32))
    cut = cut_after_plan(sequence, length)
    assert (cut if cut is None else cut.input_ids.tolist()) == (wanted if wanted is None else list(range(wanted)))
