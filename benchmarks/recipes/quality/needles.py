"""Needles: a key and a value hidden in the user's text, asked for at the end.

As in the test "needle in a haystack" (Kamradt 2023) and the single-key tasks of RULER (arXiv 2404.06654). Each prompt hides one
needle, at depths that are spread evenly over the prompts. Perplexity alone cannot judge a selector: what keeps the newest tokens
only has a good one, and finds no needle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from erecap.first_stage.answers import AnswerCase
from erecap.models.chat_text import chat_text_of
from erecap.models.tokenization import ChatTokenizer, TokenizedPrompt

_COLOURS = ("amber", "silver", "violet", "copper", "scarlet", "ivory", "olive", "crimson", "azure", "golden")
_THINGS = ("lantern", "kettle", "compass", "anchor", "violin", "saddle", "lighthouse", "barrel", "umbrella", "telescope")
FEWEST_SENTENCES = 4
"""Fewest sentences of text among which something can be hidden."""


@dataclass(frozen=True)
class Needle:
    """A hidden sentence, and the question for it.

    Attributes
    ----------
    key
        What has a number.
    value
        The number, four digits.
    depth
        Share of the text that comes before it, 0 to 1.
    """

    key: str
    value: str
    depth: float

    @property
    def sentence(self) -> str:
        """The sentence that is hidden."""
        return f"The secret number of the {self.key} is {self.value}."

    @property
    def question(self) -> str:
        """The question at the end of the prompt."""
        return f"What is the secret number of the {self.key}?"

    @property
    def beginning(self) -> str:
        """The words that the answer begins with; the model goes on from there."""
        return f"The secret number of the {self.key} is"


def draw_needles(count: int, seed: int) -> list[Needle]:
    """Draw ``count`` needles with different keys, at depths from near the beginning to near the end."""
    rng = np.random.default_rng([seed, 2])
    keys = [f"{colour} {thing}" for thing in _THINGS for colour in _COLOURS]
    if not 0 <= count <= len(keys):
        raise ValueError(f"needles={count} must be from 0 to {len(keys)}: each has a key of its own")
    chosen = rng.permutation(len(keys))[:count]
    values = rng.integers(1000, 10_000, count)
    return [Needle(keys[key], str(value), (n + 0.5) / count) for n, (key, value) in enumerate(zip(chosen, values, strict=True))]


def needle_cases(needles: Sequence[Needle], sentences: Sequence[str], tokenizer: Any, length: int, seed: int) -> list[AnswerCase]:
    """Make a prompt for each needle; the answer is the value.

    A tokenizer with a chat template gives chats: text and question are the user's message, and the beginning of the answer stands
    behind the answer's header. Without one all is plain text. Nothing is protected but what the schedule guards.

    Parameters
    ----------
    needles
        The needles.
    sentences
        The text to hide them in. Each prompt takes another stretch of it, from the start again where it ends.
    tokenizer
        The model's tokenizer.
    length
        Tokens of the text around a needle.
    seed
        Seed of the stretches.

    Raises
    ------
    ValueError
        For a text of too few sentences.
    """
    if needles and len(sentences) < FEWEST_SENTENCES:
        raise ValueError(
            f"{len(sentences)} sentences are too few to hide a needle among: give --text files of at least {FEWEST_SENTENCES}, or "
            "--needles 0"
        )
    rng, text = np.random.default_rng([seed, 3]), chat_text_of(tokenizer)
    sizes = [len(text.data_tokens(sentence)) + 1 for sentence in sentences]
    chat = ChatTokenizer(tokenizer) if getattr(tokenizer, "chat_template", None) else None
    cases = []
    for needle in needles:
        around = _stretch(int(rng.integers(len(sentences))), sentences, sizes, length)
        around.insert(round(needle.depth * len(around)), needle.sentence)
        cases.append(_case(needle, " ".join(around), tokenizer, chat))
    return cases


def _stretch(start: int, sentences: Sequence[str], sizes: Sequence[int], length: int) -> list[str]:
    """Take consecutive sentences of at most ``length`` tokens, each sentence once, at least one."""
    found, tokens = list[str](), 0
    for step in range(len(sentences)):
        at = (start + step) % len(sentences)
        if found and tokens + sizes[at] > length:
            break
        found.append(sentences[at])
        tokens += sizes[at]
    return found


def _case(needle: Needle, text: str, tokenizer: Any, chat: ChatTokenizer | None) -> AnswerCase:
    plain = chat_text_of(tokenizer)
    if chat is None:
        ids = [*first_tokens(tokenizer), *plain.data_tokens(f"{text}\n\n{needle.question}\n{needle.beginning}").tolist()]
    else:
        asked = chat.encode([("user", f"{text}\n\n{needle.question}", False)])
        ids = [*asked.input_ids.tolist(), *plain.data_tokens(needle.beginning).tolist()]
    return AnswerCase(TokenizedPrompt.from_ids(ids), tuple(plain.data_tokens(f" {needle.value}").tolist()))


def first_tokens(tokenizer: Any) -> list[int]:
    """Return what the tokenizer puts before any plain text: the token that begins a text, where the model has one."""
    found: list[int] = tokenizer("")["input_ids"]
    return found if found == [tokenizer.bos_token_id] else []
