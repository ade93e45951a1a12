"""Reasoning that is turned off by the chat template."""

from copy import deepcopy

import pytest

from erecap.backend import make_backend
from erecap.models.tokenization import ChatTokenizer
from planner import BackendSpec

THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


def thinking(tokenizer):
    changed = deepcopy(tokenizer)
    changed.chat_template = THINKING
    return changed


def test_the_answer_begins_behind_empty_reasoning(tokenizer):
    messages = [("system", "You plan.", True), ("user", "a red ball", False)]
    changed = thinking(tokenizer)
    on, off = (ChatTokenizer(changed, reasoning).encode(messages) for reasoning in (True, False))
    end = on.segment_ends[-1]
    assert off.segment_ends == on.segment_ends
    assert off.input_ids[:end].tolist() == on.input_ids[:end].tolist()
    assert changed.decode(off.input_ids[end:]) == changed.decode(on.input_ids[end:]) + "<think>\n\n</think>\n\n"
    assert off.protected[end:].all()


def test_a_template_without_the_switch_is_refused(tokenizer):
    with pytest.raises(ValueError, match="no switch for reasoning"):
        ChatTokenizer(tokenizer, reasoning=False)


@pytest.mark.parametrize(("value", "message"), [("off", "no switch for reasoning"), ("no", "reasoning='no' is neither on nor off")])
def test_backends_take_the_option(model_dir, value, message):
    with pytest.raises(ValueError, match=message):
        make_backend(BackendSpec.parse(f"baseline?model={model_dir}&device=cpu&dtype=float32&reasoning={value}"))
