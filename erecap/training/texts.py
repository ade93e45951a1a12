"""General texts as training sequences: instructions as in Dolly-15k, chats, plain text.

Each answer is a turn of its own, and every token before it may be dropped unless the schedule forces it, as in ``erecap.pruned``.
(In an agent's episode the latest observation is never pruned.)
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from erecap.models.chat_text import chat_text_of
from erecap.training.encoding import TrainingMessage, encode_episode
from erecap.training.sequences import OTHER_WEIGHT, PLAN_WEIGHT, TokenSequence

TEXT_SUFFIXES = (".jsonl", ".txt")
ROLES = ("system", "user", "assistant")
CONTINUATION = 0.25
"""Share of a piece of plain text that serves as the answer to the rest."""


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be read as a sample.

    Attributes
    ----------
    path
        The file or data set.
    line
        Number of the line, from 1.
    reason
        What is wrong with the line.
    """

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.reason}"


class TextDataError(ValueError):
    """An error for a file that cannot be read as texts."""


OnBad = Callable[[BadLine], None]


def refuse(bad: BadLine) -> None:
    """Raise ``TextDataError``. This is the default for bad lines."""
    raise TextDataError(f"{bad}. Correct the line, or leave such lines out with --skip-bad")


def read_texts(path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int, on_bad: OnBad = refuse) -> Iterator[TokenSequence]:
    """Read the sequences of a ``.jsonl`` file (an instruction or a chat per line) or of a ``.txt`` file (one document).

    Parameters
    ----------
    path
        The file, in UTF-8.
    tokenizer
        A fast tokenizer with a chat template.
    max_length
        Plain text is cut into pieces of this many tokens. Longer chats are not cut.
    on_bad
        Called with each line that cannot be read as a sample; raises by default.

    Raises
    ------
    TextDataError
        For a bad line (by default), and for a ``.txt`` file that is not in UTF-8.
    """
    if path.suffix == ".txt":
        yield from _pieces(_whole(path), tokenizer, max_length)
        return
    with path.open("rb") as lines:  # decoded line by line, so that an error can name the line
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


def encode_chat(tokenizer: PreTrainedTokenizerBase, chat: list[TrainingMessage]) -> TokenSequence:
    """Encode a chat; its answers are plans to imitate, each a turn of its own."""
    return encode_episode(tokenizer, chat, answers_begin_turns=True)


def chat_of(record: Any) -> list[TrainingMessage]:
    """Read the chat messages of one record: ``messages``, or Dolly's ``instruction``, ``context`` and ``response``.

    Raises
    ------
    ValueError
        For anything else, and for a chat without an answer.
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


def _checked(messages: Any) -> list[TrainingMessage]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("'messages' is not a list of objects")
    found: list[TrainingMessage] = []
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


def _pieces(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[TokenSequence]:
    """Cut a text into pieces of 8 to ``max_length`` tokens; the last quarter of each is the answer to the rest."""
    ids = chat_text_of(tokenizer).data_tokens(text).astype(np.int32)
    for start in range(0, len(ids), max_length):
        piece = ids[start : start + max_length]
        if len(piece) >= 8:
            answer = np.arange(len(piece)) >= len(piece) - round(len(piece) * CONTINUATION)
            weights = np.where(answer, PLAN_WEIGHT, OTHER_WEIGHT).astype(np.float32)
            yield TokenSequence(piece, weights, answer.astype(np.int32))
