"""The planner's tokenizer."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2ForCausalLM

from erecap.training.config import PlannerShape, planner_config
from erecap.training.tokenizer import build_tokenizer

TEXTS = ["goto the kitchen\npickup red ball 17", "<|im_start|>user\nYou see a red ball.<|im_end|>\n"] * 30
TOKENIZER = build_tokenizer(TEXTS)
CHAT = [
    {"role": "system", "content": "plan"},
    {"role": "user", "content": "see: red ball"},
    {"role": "assistant", "content": "goto x"},
]


def test_frequent_words_are_tokens_and_the_vocabulary_stops_growing():
    assert len(TOKENIZER.tokenize("goto the kitchen")) == 3
    assert len(TOKENIZER) < 340


def test_numbers_are_digits():
    assert TOKENIZER.tokenize("17") == ["1", "7"]


def test_headers_are_single_tokens():
    assert TOKENIZER.tokenize("<|im_start|>assistant\n") == ["<|im_start|>", "assistant", "Ċ"]


def test_special_tokens():
    assert (TOKENIZER.eos_token, TOKENIZER.pad_token) == ("<|im_end|>", "<|endoftext|>")


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_round_trips(text: str):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_template_is_chatml_with_a_header_for_the_answer():
    assert TOKENIZER.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nplan<|im_end|>\n<|im_start|>user\nsee: red ball<|im_end|>\n<|im_start|>assistant\n"
    )


def test_saved_beside_a_model_auto_tokenizer_reads_the_same(tmp_path: Path):
    config = planner_config(len(TOKENIZER), PlannerShape(hidden_size=16, intermediate_size=16, num_layers=1, head_dim=8), TOKENIZER)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert loaded.apply_chat_template(CHAT)["input_ids"] == TOKENIZER.apply_chat_template(CHAT)["input_ids"]
    assert (loaded.eos_token, loaded.pad_token) == (TOKENIZER.eos_token, TOKENIZER.pad_token)


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size=100 must be at least 259"):
        build_tokenizer(TEXTS, vocab_size=100)
