"""Encoding of chat messages as a training sequence.

The tokens are exactly those of the engine's prompts, so every inference prompt of the episode is a prefix of the sequence. Control
tokens in the text of a message are letters, as in prompts (``erecap.models.chat_text``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from erecap.models.chat_text import EncodedText, chat_text_of, mark_chat, unreserved, whole_characters
from erecap.training.sequences import ALWAYS_KEPT, OTHER_WEIGHT, PLAN_WEIGHT, Int64, TokenSequence

TrainingMessage = Mapping[str, Any]
"""A chat message, with ``role`` and ``content`` as for a chat template, and optional keys:

- ``train``, of assistant messages: whether to imitate the plan (default true);
- ``label``, of assistant messages: the correct plan, where ``content`` is a wrong one. It becomes a branch of the sequence;
- ``protected``: whether the message is never pruned (by default only system messages are);
- ``same_turn``: whether the message belongs to the turn of the plan before it, instead of beginning a new turn (default false);
- ``ends_turn``: whether the next message begins a new turn, as it does after a plan (default false).
"""


def encode_episode(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[TrainingMessage], answers_begin_turns: bool = False
) -> TokenSequence:
    """Encode chat messages as the tokenizer's chat template renders them, with a weight per target token.

    The tokens of assistant messages, ``<|im_end|>`` included, have weight ``PLAN_WEIGHT``. With ``train: False`` the message is a
    wrong plan that stays in the context, with weight 0. All other tokens have weight ``OTHER_WEIGHT``. The ``label`` of a wrong
    plan is a branch behind the episode (``TokenSequence.branch``).

    Parameters
    ----------
    tokenizer
        A fast tokenizer with a chat template.
    messages
        The episode, in order.
    answers_begin_turns
        Whether each assistant message begins a turn. If so, all messages before an answer may be pruned for it; otherwise the
        message that it answers belongs to its turn and is kept.

    Raises
    ------
    ValueError
        If the template changes a message's text, or a plan begins inside a token.
    """
    encoded, heads, spans = _render(tokenizer, messages)
    ids, starts = encoded.ids.astype(np.int32), encoded.starts
    weights = np.full(len(ids), OTHER_WEIGHT, dtype=np.float32)
    turns, labels = np.zeros(len(ids), dtype=np.int32), list[tuple[int, list[int]]]()
    # a message begins at the special token before its role
    begins = [0, *(int(np.searchsorted(starts, head)) - 1 for head in heads[1:])]
    for message, begin, turn, span in zip(messages, begins, _turns(messages, answers_begin_turns), spans, strict=True):
        turns[begin:] = turn
        if message["role"] == "assistant":
            plan = _plan_tokens(starts, *span)
            weights[plan] = PLAN_WEIGHT if message.get("train", True) else 0.0
            if "label" in message:
                label = chat_text_of(tokenizer).data_tokens(message["label"]).tolist()
                labels.append((plan.start, [*label, int(ids[plan][-1])]))
    sequence = TokenSequence(ids, weights, turns)
    for at, label in labels:
        sequence = sequence.branch(at, label)
    return sequence


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[TrainingMessage]
) -> tuple[EncodedText, list[int], list[tuple[int, int]]]:
    """Render the chat. Return it with, per message, the index of its role and the character span of its content."""
    chat_text, chat = chat_text_of(tokenizer), [(str(m["role"]), str(m["content"])) for m in messages]
    contents, marked = mark_chat(chat_text, chat)
    rendered = [{"role": role, "content": content} for (role, _), content in zip(chat, contents, strict=True)]
    encoded = chat_text.encode(str(tokenizer.apply_chat_template(rendered, tokenize=False)), marked)
    heads, spans, position = [], [], 0
    for index, (role, content) in enumerate(chat):
        content = unreserved(whole_characters(content)) if marked else whole_characters(content)
        head = encoded.text.find(role, position)
        start = encoded.text.find(content, head + len(role))
        if head < 0 or start < 0:
            raise ValueError(f"the chat template changes the text of message {index}: strip white space at its ends")
        position = start + len(content)
        heads.append(head)
        spans.append((start, position))
    return encoded, heads, spans


def _plan_tokens(starts: Int64, begin: int, end: int) -> slice:
    """Find the tokens of the text at ``[begin, end)`` and the closing token that starts at ``end``."""
    first, closing = (int(i) for i in np.searchsorted(starts, (begin, end)))
    if first >= len(starts) or starts[first] != begin:
        raise ValueError(f"the plan at character {begin} begins inside a token: strip white space at its start")
    return slice(first, closing + 1)


def _turns(messages: Sequence[TrainingMessage], answers_begin_turns: bool) -> list[int]:
    turns, turn, answered = [], 0, False
    for message in messages:
        answers = message["role"] == "assistant"
        begins = not answers and not message.get("same_turn", False)
        if answers if answers_begin_turns else answered and begins:
            turn += 1
        answered = answers or (answered and not begins) or bool(message.get("ends_turn", False))
        turns.append(ALWAYS_KEPT if message.get("protected", message["role"] == "system") else turn)
    return turns
