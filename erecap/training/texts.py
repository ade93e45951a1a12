"""Other people's texts as training sequences: instructions as in Dolly-15k, chats, plain text.

In an agent's episode the latest observation is never pruned. Here nothing is protected but what the schedule guards, as in
``erecap.pruned``: an answer is a turn of its own, and all that stands before it may be dropped when it is given.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from erecap.training.data import Message, encode_episode
from erecap.training.sequences import PLAN_WEIGHT, Sequence

TEXT_SUFFIXES = (".jsonl", ".txt")
ROLES = ("system", "user", "assistant")
CONTINUATION = 0.25
"""Share of a piece of plain text that is to be predicted from the rest."""


@dataclass(frozen=True)
class BadLine:
    """A line that is no sample, and why."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.reason}"


class TextDataError(ValueError):
    """A file of texts that cannot be read as such."""


OnBad = Callable[[BadLine], None]


def refuse(bad: BadLine) -> None:
    """Raise ``TextDataError``: the default for bad lines."""
    raise TextDataError(f"{bad}. Mend the line, or leave such lines out with --skip-bad")


def read_texts(path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int, on_bad: OnBad = refuse) -> Iterator[Sequence]:
    """The sequences of a ``.jsonl`` file (an instruction or a chat per line) or of a ``.txt`` file (one document).

    Chats that are longer than ``max_length`` tokens are left to the caller; plain text is cut into pieces of that length.
    """
    if path.suffix == ".txt":
        yield from _pieces(_whole(path), tokenizer, max_length)
        return
    with path.open("rb") as lines:  # decoded one by one, so that the line at fault is known
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield encode_chat(tokenizer, chat_of(json.loads(line.decode("utf-8"))))
            except json.JSONDecodeError as error:
                on_bad(BadLine(str(path), number, f"no JSON: {error}"))
            except ValueError as error:
                on_bad(BadLine(str(path), number, str(error)))


def _whole(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TextDataError(f"{path} is no text in UTF-8 ({error}): convert it") from error


def encode_chat(tokenizer: PreTrainedTokenizerBase, chat: list[Message]) -> Sequence:
    """A chat whose answers are to be learned from, each a turn of its own."""
    return encode_episode(tokenizer, chat, answers_begin_turns=True)


def chat_of(record: Any) -> list[Message]:
    """Chat messages of one record: ``messages``, or Dolly's ``instruction``, ``context`` and ``response``.

    Raises ``ValueError`` for anything else, and for a chat without an answer.
    """
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__}, not an object")
    if "messages" in record:
        return _checked(record["messages"])
    missing = [key for key in ("instruction", "response") if not _text(record.get(key))]
    if missing:
        raise ValueError(f"neither 'messages' nor a text under {' and '.join(map(repr, missing))}")
    parts = [_text(record.get("context")), _text(record["instruction"])]
    question = "\n\n".join(part for part in parts if part)
    return _checked([{"role": "user", "content": question}, {"role": "assistant", "content": _text(record["response"])}])


def _checked(messages: Any) -> list[Message]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("'messages' is not a list of objects")
    found: list[Message] = []
    for index, message in enumerate(messages):
        role, content = message.get("role"), _text(message.get("content"))
        if role not in ROLES:
            raise ValueError(f"message {index} has the role {role!r}, not one of {', '.join(ROLES)}")
        if not content:
            raise ValueError(f"message {index} has no text under 'content'")
        found.append({"role": role, "content": content, "protected": False})
    if not any(message["role"] == "assistant" for message in found[1:]):
        raise ValueError("no answer: there is no message of the role 'assistant' after the first")
    return found


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _pieces(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[Sequence]:
    """Pieces of at most ``max_length`` tokens, the last quarter of each being the answer to the rest; none of under 8 tokens."""
    ids = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
    for start in range(0, len(ids), max_length):
        piece = ids[start : start + max_length]
        if len(piece) >= 8:
            answer = np.arange(len(piece)) >= len(piece) - round(len(piece) * CONTINUATION)
            yield Sequence(piece, (answer * PLAN_WEIGHT).astype(np.float32), answer.astype(np.int32))
