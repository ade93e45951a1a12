"""From chat messages to token ids, segment by segment.

An agent's history only grows, so each replan's prompt is the previous prompt plus a few messages. Messages are rendered and
tokenized one by one and cached, so only new messages cost time. This requires a chat template that renders a message the same way
whatever its neighbours are. ``ChatTokenizer`` checks this once per tokenizer and refuses other templates.

The text of a message is data: what looks like a control token in it is tokenized as letters (``erecap.models.chat_text``).
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erecap.models.chat_text import ChatText

Message = tuple[str, str, bool]
"""A chat message: role, text, and whether its tokens are protected from pruning."""

_CACHED_SEGMENTS = 8192
_SWITCH = "enable_thinking"
"""The variable by which chat templates turn reasoning off."""
_ANCHOR = {"role": "system", "content": "anchor"}


@dataclass(frozen=True, eq=False)
class TokenizedPrompt:
    """A prompt as token ids, on the host.

    Attributes
    ----------
    input_ids
        Token ids, int64 ``(n,)``.
    protected
        Tokens that no stage may drop, bool ``(n,)``.
    segment_ends
        Index one past the last token of each message. The tokens after the last end are the header of the answer.
    draft
        Tokens that the answer may repeat. They are no part of the prompt.
    """

    input_ids: NDArray[np.int64]
    protected: NDArray[np.bool_]
    segment_ends: tuple[int, ...] = ()
    draft: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.input_ids.ndim != 1 or not len(self.input_ids):
            raise ValueError(
                f"input_ids of shape {self.input_ids.shape} must be one row of at least one token: give a prompt to answer"
            )
        if self.protected.shape != self.input_ids.shape:
            raise ValueError(
                f"protected has shape {self.protected.shape}, input_ids {self.input_ids.shape}: give one flag per token"
            )
        if list(self.segment_ends) != sorted(self.segment_ends) or max(self.segment_ends, default=0) > len(self):
            raise ValueError(
                f"segment_ends={self.segment_ends} must rise within the prompt's {len(self)} tokens: give ends in order"
            )

    def __len__(self) -> int:
        return len(self.input_ids)

    def without_header(self) -> "TokenizedPrompt":
        """Return the prompt's messages alone."""
        end = self.segment_ends[-1] if self.segment_ends else len(self)
        return TokenizedPrompt(self.input_ids[:end], self.protected[:end], self.segment_ends)

    @classmethod
    def from_ids(
        cls, ids: Sequence[int] | NDArray[np.int64], protected: Sequence[bool] | NDArray[np.bool_] | None = None
    ) -> "TokenizedPrompt":
        """Make a prompt of one message from token ids, int ``(n,)``; ``protected``, bool ``(n,)``, is false by default."""
        row = np.asarray(ids, dtype=np.int64)
        return cls(row, np.zeros(row.shape, np.bool_) if protected is None else np.asarray(protected, np.bool_), (row.size,))


class ChatTokenizer:
    """A transformers tokenizer with a chat template, and a cache of the messages it has tokenized.

    Parameters
    ----------
    tokenizer
        The tokenizer of an instruction-tuned model.
    reasoning
        Whether the model may reason before it answers. ``False`` asks the chat template to turn that off (``enable_thinking``, as
        Qwen3's has it).

    Raises
    ------
    ValueError
        For a tokenizer without a chat template, with one that cannot be rendered message by message, and where it has no switch.
    """

    def __init__(self, tokenizer: Any, reasoning: bool = True) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "the tokenizer has no chat template: use an instruction-tuned model, or set tokenizer.chat_template (ChatML)"
            )
        if not reasoning and _SWITCH not in str(tokenizer.chat_template):
            raise ValueError(
                f"the chat template has no switch for reasoning ({_SWITCH}): leave reasoning=off out; what the model reasons "
                "stays out of plan and history in any case"
            )
        self._options = {} if reasoning else {_SWITCH: False}
        self.tokenizer = tokenizer
        self._text = ChatText(tokenizer)
        self._known: OrderedDict[tuple[bool, str, str], NDArray[np.int64]] = OrderedDict()
        self._anchor = self._render([_ANCHOR])
        _check_segmentwise(self)
        self._header = self._encode_header()

    def encode(self, messages: Iterable[Message]) -> TokenizedPrompt:
        """Tokenize a conversation and the header of its answer. The header is protected.

        The ids equal those of the whole conversation rendered with ``add_generation_prompt=True``, but for messages that hold
        control tokens: these are letters here. Cached messages are copied.

        Parameters
        ----------
        messages
            ``(role, text, protected)``, oldest first.

        Raises
        ------
        ValueError
            For an empty conversation.
        """
        listed = list(messages)
        if not listed:
            raise ValueError("a conversation of 0 messages has nothing to answer: give at least one message")
        rows = [self._segment(index == 0, role, text) for index, (role, text, _) in enumerate(listed)]
        lengths = [len(row) for row in rows]
        flags = [protected for _, _, protected in listed]
        return TokenizedPrompt(
            np.concatenate([*rows, self._header]),
            np.repeat(np.array([*flags, True]), [*lengths, len(self._header)]),
            tuple(np.cumsum(lengths).tolist()),
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Turn the tokens of an answer into text, without special tokens and with white space untouched."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_texts(self) -> list[str]:
        """Return the text of each token alone, by id; empty for special tokens."""
        alone = [[token] for token in range(len(self.tokenizer))]
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is not None:  # a quarter of the time
            return list(fast.decode_batch(alone, skip_special_tokens=True))
        return [self.decode(ids) for ids in alone]

    def line_breaks(self) -> frozenset[int]:
        """Find the tokens that end a line."""
        return frozenset(token for token, text in enumerate(self.token_texts()) if text.endswith("\n"))

    def render(self, messages: Sequence[Message]) -> str:
        """Render a conversation and its answer's header as one text, as the template itself writes it."""
        return self._render([{"role": role, "content": text} for role, text, _ in messages], header=True)

    def tokens_of(self, text: str) -> NDArray[np.int64]:
        """Tokenize rendered text, int64 ``(n,)``. Special tokens in the text become special tokens; none are added."""
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    def data_tokens(self, text: str) -> NDArray[np.int64]:
        """Tokenize the text of an answer, int64 ``(n,)``. Special tokens in the text are letters."""
        return self._text.data_tokens(text)

    def _segment(self, first: bool, role: str, text: str) -> NDArray[np.int64]:
        """Tokenize one message. The first is rendered alone: templates may put a default system prompt before it."""
        key = (first, role, text)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        content, marked = self._text.mark(role, text)
        message = {"role": role, "content": content}
        rendered = self._render([message]) if first else self._render([_ANCHOR, message])[len(self._anchor) :]
        self._known[key] = self._text.tokens(rendered) if marked else self.tokens_of(rendered)
        if len(self._known) > _CACHED_SEGMENTS:
            self._known.popitem(last=False)
        return self._known[key]

    def _encode_header(self) -> NDArray[np.int64]:
        return self.tokens_of(self._render([_ANCHOR], header=True)[len(self._anchor) :])

    def _render(self, messages: list[dict[str, str]], header: bool = False) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=header, **self._options))


def _check_segmentwise(chat: ChatTokenizer) -> None:
    """Raise ``ValueError`` unless probe conversations give the same tokens message by message and as a whole."""
    turns: list[Message] = [
        ("user", "Put it\nin 1 box.", False),
        ("user", " see: a", False),
        ("assistant", "goto b\ndone", False),
        ("user", "x", False),
    ]
    for probe in ([("system", "You plan.", True), *turns], turns, turns[:3]):
        try:
            chat._header = chat._encode_header()
            same = np.array_equal(chat.encode(probe).input_ids, chat.tokens_of(chat.render(probe)))
        except Exception as error:  # templates raise anything, jinja2's errors among others
            raise ValueError(_refusal(f"it fails with {error!r}")) from error
        if not same:
            raise ValueError(_refusal("it writes a message differently depending on its neighbours"))
    # Tokenizers split text at added tokens first. Without one between two messages, some other text could merge across.
    added = set(chat.tokenizer.get_added_vocab().values())
    rows = [chat._segment(False, role, text) for role, text, _ in turns]
    if not (all(int(row[0]) in added for row in rows) or all(int(row[-1]) in added for row in rows)):
        raise ValueError(
            _refusal("its messages neither begin nor end with a special token, so tokens could reach across two of them")
        )


def _refusal(reason: str) -> str:
    return (
        f"the tokenizer's chat template cannot be rendered message by message: {reason}. "
        "Use a model with a ChatML template like Qwen2's, or set tokenizer.chat_template to one"
    )
