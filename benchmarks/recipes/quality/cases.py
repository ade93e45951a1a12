"""The prompts on which selectors are judged: beginnings of the user's texts, and texts with a needle."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.recipes.quality.needles import Needle, draw_needles, first_tokens, needle_cases
from benchmarks.recipes.quality.texts import check_file, read_plain, sentences
from erecap.first_stage.answers import AnswerCase
from erecap.models.chat_text import chat_text_of
from erecap.models.loading import LoadedModel
from erecap.models.tokenization import TokenizedPrompt
from erecap.training.texts import CONTINUATION

SHORTEST = 64
"""Shortest piece of text in tokens: of a shorter one the guards of a schedule keep nearly all."""
ASKED = 96
"""Room in tokens for a needle, its question and the chat template."""


@dataclass(frozen=True)
class TextChoice:
    """A choice of texts and needles.

    Attributes
    ----------
    paths
        ``.txt`` and ``.jsonl`` files.
    pieces
        Number of pieces, chosen at random.
    length
        Longest piece, and text around a needle, in tokens.
    needles
        Number of needles.
    max_new_tokens
        Tokens of a greedy answer.
    seed
        Seed of the choice.

    Raises
    ------
    ValueError
        For numbers out of range, and for paths that are no such files.
    """

    paths: tuple[Path, ...]
    pieces: int = 16
    length: int = 640
    needles: int = 8
    max_new_tokens: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        for path in self.paths:
            check_file(path)
        if self.pieces < 1 or self.length < SHORTEST or self.max_new_tokens < 1:
            raise ValueError(
                f"texts={self.pieces}, length={self.length}, max_new_tokens={self.max_new_tokens}: give at least 1 text, pieces of "
                f"{SHORTEST} tokens or more, and 1 new token or more"
            )


@dataclass(frozen=True)
class QualityCases:
    """The chosen prompts.

    Attributes
    ----------
    texts
        Pieces of text: the prompt is the first part, the answer the rest.
    hidden
        Prompts with a needle; the answer is its value.
    needles
        The needles, in the order of ``hidden``.
    """

    texts: tuple[AnswerCase, ...]
    hidden: tuple[AnswerCase, ...]
    needles: tuple[Needle, ...]

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all token ids."""
        checksum = hashlib.sha256()
        for case in (*self.texts, *self.hidden):
            checksum.update(case.prompt.input_ids.tobytes() + b"|" + np.array(case.answer, np.int64).tobytes() + b"|")
        return checksum.hexdigest()[:16]


def choose_texts(choice: TextChoice, loaded: LoadedModel) -> QualityCases:
    """Read the texts, cut them into pieces, and hide the needles.

    Raises
    ------
    ValueError
        For files that cannot be read, pieces that the model has no positions for, and texts that are too short.
    """
    positions = int(loaded.model.config.max_position_embeddings)
    if choice.length + ASKED + choice.max_new_tokens > positions:
        raise ValueError(
            f"length={choice.length} and the question exceed the model's {positions} positions (max_position_embeddings): give "
            f"--length {max(SHORTEST, positions - ASKED - choice.max_new_tokens)} or less"
        )
    texts = [read_plain(path) for path in choice.paths]
    pieces = [piece for text in texts for piece in _pieces(text, loaded.tokenizer, choice.length)]
    if not pieces:
        raise ValueError(f"no piece of {SHORTEST} tokens in {', '.join(map(str, choice.paths))}: give longer texts (--text)")
    order = np.random.default_rng([choice.seed, 1]).permutation(len(pieces))[: choice.pieces]
    needles = draw_needles(choice.needles, choice.seed)
    hidden = needle_cases(needles, sentences(texts), loaded.tokenizer, choice.length, choice.seed)
    return QualityCases(tuple(pieces[index] for index in sorted(order)), tuple(hidden), tuple(needles))


def _pieces(text: str, tokenizer: object, length: int) -> Sequence[AnswerCase]:
    """Cut a text into pieces of ``SHORTEST`` to ``length`` tokens; the last quarter of each is the answer to the rest."""
    ids, begin = chat_text_of(tokenizer).data_tokens(text), first_tokens(tokenizer)
    cuts = [ids[start : start + length] for start in range(0, len(ids), length)]
    found = []
    for piece in cuts:
        if len(piece) >= SHORTEST:
            prompt = len(piece) - round(len(piece) * CONTINUATION)
            ahead = TokenizedPrompt.from_ids([*begin, *piece[:prompt].tolist()])
            found.append(AnswerCase(ahead, tuple(piece[prompt:].tolist())))
    return found
