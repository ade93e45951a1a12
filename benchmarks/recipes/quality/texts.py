"""The user's texts as plain text, and as sentences to hide something among."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from erecap.training.texts import TEXT_SUFFIXES, chat_of

LONGEST_SENTENCE = 40
"""Words after which a sentence is divided, for texts without full stops."""


def check_file(path: Path) -> None:
    """Raise ``ValueError`` unless there is a file of a kind that ``read_plain`` reads."""
    if path.suffix not in TEXT_SUFFIXES or not path.is_file():
        raise ValueError(
            f"{path} is no file of texts: give a .txt file, or a .jsonl file, an instruction as in Dolly-15k or a chat per line"
        )


def read_plain(path: Path) -> str:
    """Read a ``.txt`` file, or the messages of a ``.jsonl`` file one after another.

    Raises
    ------
    ValueError
        For another kind of file, one that is not there or not in UTF-8, and a line that is no instruction and no chat.
    """
    check_file(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}): convert it") from error
    return text if path.suffix == ".txt" else "\n\n".join(_messages(path, text))


def _messages(path: Path, text: str) -> list[str]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append("\n".join(message["content"] for message in chat_of(json.loads(line))))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}. Correct the line, or remove it") from error
    return found


def sentences(texts: Sequence[str]) -> list[str]:
    """Divide texts after full stops and line breaks; a longer run of words after ``LONGEST_SENTENCE`` of them."""
    found = []
    for text in texts:
        for sentence in re.split(r"(?<=[.!?])\s+|\s*\n\s*", text):
            words = sentence.split()
            found += [" ".join(words[at : at + LONGEST_SENTENCE]) for at in range(0, len(words), LONGEST_SENTENCE)]
    return found
