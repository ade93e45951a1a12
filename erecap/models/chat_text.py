"""Text as data: a message that writes ``<|im_end|>`` is tokenized as these letters, not as the end of a turn.

A rendered chat mixes the template's control tokens with the text of messages. Control tokens in messages are marked before the
template is rendered, so that the two can be told apart afterwards. Such a chat goes through a copy of the tokenizer that knows
control tokens by other names only: the template's are written by these names, and the messages' are ordinary letters to it. A chat
without control tokens in its messages goes through the tokenizer as it is.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

Int64 = NDArray[np.int64]
ANSWERS = "assistant"
"""The role whose messages may hold markup of the model's own, such as ``<think>``, which the template reads."""
_RESERVED = re.compile("[\ufdd0-\ufdd3]")
"""Characters that Unicode keeps free for such uses (noncharacters)."""
_MARK = re.compile("\ufdd0(\\d+)\ufdd1")


@dataclass(frozen=True, eq=False)
class EncodedText:
    """A rendered text with its tokens.

    Attributes
    ----------
    text
        The text as it was tokenized: the template's control tokens may have other names.
    ids
        Token ids, int64 ``(n,)``.
    starts
        Index of each token's first character in ``text``, int64 ``(n,)``.
    """

    text: str
    ids: Int64
    starts: Int64


class ChatText:
    """What separates the text of messages from a template's control tokens, for one tokenizer.

    Control tokens are the tokenizer's special tokens, and those added tokens that its chat template writes. Other added tokens,
    such as whole phrases, are words.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer with a chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
        template = str(tokenizer.chat_template)
        special = {text for text, token in added.items() if token.special} | set(tokenizer.all_special_tokens) - {""}
        written = {text for text in added if text not in special and text.strip() and text in template}
        self._controls = sorted(special | written, key=lambda text: (-len(text), text))
        self._number = {text: number for number, text in enumerate(self._controls)}
        self._added = added
        self._any, self._special = _any_of(self._controls), _any_of([text for text in self._controls if text in special])
        self._ids = {int(tokenizer.convert_tokens_to_ids(text)) for text in self._controls}
        self._stand_ins: dict[int, int] = {}

    def mark(self, role: str, text: str) -> tuple[str, bool]:
        """Return a message's text with its control tokens marked, and whether there are any. Other text stays as it is."""
        text, controls = whole_characters(text), self._special if role == ANSWERS else self._any
        if controls is None or not controls.search(text):
            return text, False
        return controls.sub(lambda found: f"\ufdd0{self._number[found[0]]}\ufdd1", unreserved(text)), True

    def tokens(self, rendered: str) -> Int64:
        """Tokenize a rendered text in which some messages are marked, int64 ``(n,)``."""
        return self.encode(rendered).ids

    def data_tokens(self, text: str) -> Int64:
        """Tokenize a text that belongs to no chat, as data, int64 ``(n,)``."""
        text, marked = self.mark("", text)
        return self.tokens(text) if marked else np.asarray(self._tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)

    def encode(self, rendered: str, marked: bool = True) -> EncodedText:
        """Tokenize a rendered text, with the place of each token; ``marked`` says whether some messages are marked."""
        if not marked:
            return self._as_it_is(rendered)
        for literally in (True, False):
            text = self._spelled(rendered, literally)
            encoding = self._plain.encode(text, add_special_tokens=False)
            if self._ids.isdisjoint(encoding.ids):
                break
        ids = np.array([self._stand_ins.get(token, token) for token in encoding.ids], np.int64)
        return EncodedText(text, ids, np.array([start for start, _ in encoding.offsets], np.int64))

    def _as_it_is(self, text: str) -> EncodedText:
        encoding = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        starts = np.asarray(encoding["offset_mapping"], np.int64).reshape(-1, 2)[:, 0]
        return EncodedText(text, np.asarray(encoding["input_ids"], np.int64), starts)

    def _spelled(self, rendered: str, literally: bool) -> str:
        """Write the template's control tokens by other names and the messages' as letters.

        Some vocabularies hold control tokens as ordinary pieces too; then the letters are kept apart by a character without width.
        """

        def spell(found: re.Match[str]) -> str:
            if found[1] is None:
                return self._stand_in(found[0])
            control = self._controls[int(found[1])]
            return control if literally else f"{control[:1]}\u200b{control[1:]}"

        assert self._any is not None, "only control tokens are marked"
        return re.sub(f"{_MARK.pattern}|{self._any.pattern}", spell, rendered)

    def _stand_in(self, control: str) -> str:
        """Return the other name of a control token in the copy of the tokenizer."""
        name, like = f"\ufdd2{self._number[control]}\ufdd3", self._added.get(control)
        if self._plain.token_to_id(name) is None:
            sides = {} if like is None else {"lstrip": like.lstrip, "rstrip": like.rstrip, "single_word": like.single_word}
            self._plain.add_tokens([AddedToken(name, normalized=False, special=False, **sides)])
            self._stand_ins[self._plain.token_to_id(name)] = int(self._tokenizer.convert_tokens_to_ids(control))
        return name

    @cached_property
    def _plain(self) -> Tokenizer:
        """The copy of the tokenizer to which control tokens are ordinary text."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ValueError(
                f"a message holds a control token, and {type(self._tokenizer).__name__} cannot take it as text: "
                "use the model's fast tokenizer (tokenizer.json)"
            )
        description = json.loads(backend.to_str())
        for token in description["added_tokens"]:
            token["special"] = token["special"] or token["content"] in self._number
        copy = Tokenizer.from_str(json.dumps(description))
        copy.encode_special_tokens = True
        copy.no_truncation()
        copy.no_padding()
        return copy


def mark_chat(chat_text: ChatText, messages: Sequence[tuple[str, str]]) -> tuple[list[str], bool]:
    """Mark the messages of one chat, each a role and a text; return the texts, and whether any of them holds a control token."""
    marked = [chat_text.mark(role, text) for role, text in messages]
    if not any(found for _, found in marked):
        return [text for text, _ in marked], False
    return [text if found else unreserved(text) for text, found in marked], True


def chat_text_of(tokenizer: Any) -> ChatText:
    """Return the ``ChatText`` of a tokenizer, the same one each time."""
    known = _known.get(tokenizer)
    if known is None:
        known = _known[tokenizer] = ChatText(tokenizer)
    return known


_known: "WeakKeyDictionary[Any, ChatText]" = WeakKeyDictionary()


def whole_characters(text: str) -> str:
    """Join halves of a character (surrogates) that stand side by side, and write U+FFFD for one that stands alone."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def unreserved(text: str) -> str:
    """Write U+FFFD for the characters that marks are made of."""
    return _RESERVED.sub("\ufffd", text)


def _any_of(texts: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, texts))) if texts else None
