"""Chat to tokens: message by message equals the whole, and only new messages are tokenized."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.models.tokenization import ChatTokenizer, TokenizedPrompt

ROLES = st.sampled_from(["user", "assistant"])
TURNS = st.lists(st.tuples(ROLES, st.text(max_size=30), st.booleans()), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def chat(tokenizer):
    return ChatTokenizer(tokenizer)


def whole(tokenizer, messages) -> list[int]:
    chats = [{"role": role, "content": text} for role, text, _ in messages]
    return tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=False)


@settings(deadline=None)
@given(turns=TURNS, system=st.booleans())
def test_segments_equal_the_whole(chat, tokenizer, turns, system):
    messages = [("system", "You plan.\nBriefly.", True), *turns] if system else turns
    assert chat.encode(messages).input_ids.tolist() == whole(tokenizer, messages)


def test_default_system_prompt_belongs_to_the_first_message(chat, tokenizer):
    prompt = chat.encode([("user", "hall", False), ("user", "key", True)])
    assert tokenizer.decode(prompt.input_ids[: prompt.segment_ends[0]]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhall<|im_end|>\n"
    )


def test_protects_whole_messages_and_the_header(chat, tokenizer):
    prompt = chat.encode([("system", "s", True), ("user", "old", False), ("user", "new", True)])
    start, end = prompt.segment_ends[:2]
    assert prompt.protected.tolist() == [not start <= i < end for i in range(len(prompt))]
    assert tokenizer.decode(prompt.input_ids[prompt.segment_ends[-1] :]) == "<|im_start|>assistant\n"


def test_only_new_messages_are_tokenized(tokenizer, monkeypatch):
    chat = ChatTokenizer(tokenizer)
    history = [("system", "s", True), *(("user", f"see {i}", False) for i in range(50))]
    chat.encode(history)
    seen = []
    monkeypatch.setattr(chat, "tokens_of", lambda text: seen.append(text) or np.zeros(1, np.int64))
    chat.encode([*history, ("user", "new", True)])
    assert seen == ["<|im_start|>user\nnew<|im_end|>\n"]


def test_decodes_without_special_tokens(chat, tokenizer):
    assert chat.decode(tokenizer("goto key\n<|im_end|>")["input_ids"]) == "goto key\n"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }}{{ m['content'] }}{% endfor %}",
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] }}{% if not loop.last %}|{% endif %}{% endfor %}",
        "{% if messages | length > 1 %}{{ raise_exception('one message only') }}{% endif %}x",
    ],
)
def test_templates_that_look_around_are_refused(tokenizer, template):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    with pytest.raises(ValueError, match="cannot be rendered message by message"):
        ChatTokenizer(other)


def test_a_tokenizer_without_a_template_is_refused(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        ChatTokenizer(other)


@pytest.mark.parametrize(
    "make", [lambda c: c.encode([]), lambda c: TokenizedPrompt.from_ids([]), lambda c: TokenizedPrompt.from_ids([1], [True, False])]
)
def test_empty_or_crooked_prompts_are_refused(chat, make):
    with pytest.raises(ValueError, match=r"give (at least one|a prompt|one flag)"):
        make(chat)
