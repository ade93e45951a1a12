"""Other people's texts: what is read, what is pruned and predicted in it, and what is refused."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import erecap
from benchmarks.recipes.sequences import read_hub
from erecap.training.texts import TextDataError, chat_of, encode_chat, read_texts

SAMPLE = Path(erecap.__file__).parent / "bundled" / "texts" / "sample.jsonl"
DOLLY = {
    "instruction": "Where is the key?",
    "context": "The key is in the hall.",
    "response": "In the hall.",
    "category": "closed_qa",
}
CHAT = {
    "messages": [
        {"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "Hello"), ("user", "Go"), ("assistant", "ok"))
    ]
}


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_dolly_s_context_comes_before_the_instruction_and_the_response_answers():
    question, answer = chat_of(DOLLY)
    assert question["content"] == "The key is in the hall.\n\nWhere is the key?"
    assert (answer["role"], answer["content"]) == ("assistant", "In the hall.")
    assert chat_of({**DOLLY, "context": ""})[0]["content"] == "Where is the key?"


def test_all_before_an_answer_may_be_pruned_when_it_is_given(tokenizer: PreTrainedTokenizerFast):
    sequence = encode_chat(tokenizer, chat_of(CHAT))
    texts = [tokenizer.decode(sequence.input_ids[sequence.turns == turn].tolist()) for turn in range(3)]
    assert texts[0].endswith("<|im_start|>user\nHi<|im_end|>\n")
    assert texts[1] == "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nGo<|im_end|>\n"
    assert texts[2] == "<|im_start|>assistant\nok<|im_end|>\n"
    answers = sequence.input_ids[sequence.weights == 1]
    assert tokenizer.decode(answers.tolist()) == "Hello<|im_end|>ok<|im_end|>"


def test_the_bundled_sample_is_read_whole(tokenizer: PreTrainedTokenizerFast):
    assert len(list(read_texts(SAMPLE, tokenizer, 1024))) == 20


def test_plain_text_is_cut_into_pieces_that_end_in_what_is_predicted(tokenizer: PreTrainedTokenizerFast, tmp_path: Path):
    text = "You are in the hall. " * 40
    path = tmp_path / "text.txt"
    path.write_text(text)
    pieces = list(read_texts(path, tokenizer, 100))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert np.concatenate([piece.input_ids for piece in pieces]).tolist() == ids[: sum(map(len, pieces))]
    assert [len(piece) for piece in pieces[:-1]] == [100] * (len(pieces) - 1)
    assert pieces[0].turns.tolist() == [0] * 75 + [1] * 25
    assert pieces[0].weights.tolist() == pytest.approx([0.3] * 75 + [1] * 25)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[1]", "a list, not an object"),
        ({"instruction": "Go"}, "'response'"),
        ({**DOLLY, "response": "  "}, "'response'"),
        ({"messages": "Hi"}, "not a list"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "role 'robot'"),
        ({"messages": [{"role": "user", "content": None}]}, "no text"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "no answer"),
    ],
)
def test_a_bad_line_is_named_or_skipped(tokenizer: PreTrainedTokenizerFast, tmp_path: Path, line: object, reason: str):
    path = write(tmp_path / "texts.jsonl", DOLLY, "", line, CHAT)
    with pytest.raises(TextDataError, match=rf"texts\.jsonl, line 3: .*{reason}"):
        list(read_texts(path, tokenizer, 1024))
    bad = []
    assert len(list(read_texts(path, tokenizer, 1024, bad.append))) == 2
    assert [found.line for found in bad] == [3]


def test_what_is_no_utf_8_is_named(tokenizer: PreTrainedTokenizerFast, tmp_path: Path):
    lines, whole = write(tmp_path / "texts.jsonl", DOLLY, DOLLY), tmp_path / "book.txt"
    lines.write_bytes(lines.read_bytes() + b'{"instruction": "caf\xe9"}\n')
    whole.write_bytes(b"caf\xe9")
    with pytest.raises(TextDataError, match=r"texts\.jsonl, line 3: .*utf-8"):
        list(read_texts(lines, tokenizer, 1024))
    with pytest.raises(TextDataError, match=r"book\.txt is no text in UTF-8"):
        list(read_texts(whole, tokenizer, 1024))


def test_hub_data_need_their_extra(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"erecap\[data\]"):
        list(read_hub("somebody/texts", tokenizer))
    asked = []
    fake = SimpleNamespace(load_dataset=lambda name, split: asked.append((name, split)) or [DOLLY, CHAT])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert len(list(read_hub("somebody/texts", tokenizer))) == 2
    assert asked == [("somebody/texts", "train")]
