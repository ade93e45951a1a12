"""Which tokens of a stock model's prompts no stage may drop: by token, by character, or by the role of a chat's messages."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erecap.models.tokenization import ChatTokenizer

Flags = Tensor | NDArray[np.bool_]
"""Protected tokens of a batch, bool ``(batch, n)`` in the columns of ``input_ids``, or ``(n,)`` for one prompt."""
Span = tuple[int, int]
"""First character, and one past the last."""


def protect_spans(tokenizer: Any, texts: str | Sequence[str], spans: Sequence[Span] | Sequence[Sequence[Span]]) -> Tensor:
    """Mark the tokens that hold characters of the spans, for ``erecap.pruned(..., protected=...)``.

    Parameters
    ----------
    tokenizer
        The model's tokenizer, a fast one.
    texts
        The prompt, or a batch of prompts, as they are given to ``tokenizer(texts, padding=True, padding_side="left")``.
    spans
        Spans of the prompt's characters; of a batch, one list of spans for each prompt.

    Returns
    -------
    Tensor
        Bool ``(batch, n)``; ``(1, n)`` for one prompt.

    Raises
    ------
    ValueError
        For a slow tokenizer, another number of lists than prompts, and a span that is empty or not within its prompt.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"a {type(tokenizer).__name__} does not tell which characters a token holds: load it with use_fast=True, or give the "
            "protected tokens themselves"
        )
    batch = [texts] if isinstance(texts, str) else list(texts)
    listed: list[Any] = [list(spans)] if isinstance(texts, str) else [list(own) for own in spans]
    if len(listed) != len(batch):
        raise ValueError(f"{len(listed)} lists of spans for {len(batch)} prompts: give one list of spans for each prompt")
    for text, own in zip(batch, listed, strict=True):
        _check_spans(text, own)
    padding = {"padding": True, "padding_side": "left"} if len(batch) > 1 else {}
    offsets = np.asarray(tokenizer(batch, return_offsets_mapping=True, **padding)["offset_mapping"])
    begins, ends = offsets[..., 0], offsets[..., 1]
    flags = [
        np.any([(begin < last) & (first < end) for first, last in own], axis=0) if own else np.zeros(begin.shape, np.bool_)
        for begin, end, own in zip(begins, ends, listed, strict=True)
    ]
    return torch.from_numpy(np.stack(flags))


def protect_roles(tokenizer: Any, messages: Sequence[Mapping[str, str]], roles: Collection[str]) -> Tensor:
    """Mark the tokens of the messages of some roles, for ``erecap.pruned(..., protected=...)``.

    Parameters
    ----------
    tokenizer
        The model's tokenizer, with a chat template that writes message by message.
    messages
        The conversation, as it is given to ``tokenizer.apply_chat_template(messages, add_generation_prompt=True)``.
    roles
        Roles whose messages are protected, such as ``("system",)``. The answer's header always is.

    Returns
    -------
    Tensor
        Bool ``(1, n)``.

    Raises
    ------
    ValueError
        For a role that no message has, a message that writes control tokens of the template, and a chat template that writes a
        message differently depending on its neighbours.
    """
    known = {message["role"] for message in messages}
    missing = [role for role in roles if role not in known]
    if missing:
        raise ValueError(f"no message has the role {', '.join(missing)}: the roles here are {', '.join(sorted(known))}")
    chat = ChatTokenizer(tokenizer)
    made = chat.encode((message["role"], message["content"], message["role"] in roles) for message in messages)
    whole = chat.tokens_of(chat.render([(message["role"], message["content"], False) for message in messages]))
    if not np.array_equal(made.input_ids, whole):
        raise ValueError(
            "a message writes control tokens of the chat template, which stock tokenizers take for the end of a turn: leave them "
            "out, or tokenize the chat with erecap.ChatTokenizer, which takes them for letters"
        )
    return torch.from_numpy(made.protected)[None]


def rows_of_flags(protected: Flags, lengths: Sequence[int], width: int) -> list[NDArray[np.bool_]]:
    """Divide the flags of a batch into its prompts, without padding.

    Parameters
    ----------
    protected
        The flags.
    lengths
        Number of tokens of each prompt. Beams repeat each prompt.
    width
        Columns of the input, padding on the left included.

    Returns
    -------
    list of NDArray
        Bool ``(tokens,)`` for each prompt.

    Raises
    ------
    ValueError
        Where there are not as many columns as the input has, or the prompts are no multiple of the rows.
    """
    flags = np.asarray(protected.cpu() if isinstance(protected, Tensor) else protected)
    flags = flags[None] if flags.ndim == 1 else flags
    if flags.dtype != np.bool_:
        raise ValueError(f"protected has the dtype {flags.dtype}: give bool, true where a token must stay")
    if flags.ndim != 2 or flags.shape[1] != width or not len(flags) or len(lengths) % len(flags):
        raise ValueError(
            f"protected has the shape {tuple(flags.shape)} and the prompts {(len(lengths), width)}: give one flag for each column "
            "of input_ids, padding included, and one row for each prompt"
        )
    repeated = np.repeat(flags, len(lengths) // len(flags), axis=0)
    return [row[width - length :] for row, length in zip(repeated, lengths, strict=True)]


def _check_spans(text: str, spans: Sequence[Span]) -> None:
    for first, last in spans:
        if not 0 <= first < last <= len(text):
            raise ValueError(
                f"the span {(first, last)} is not within a prompt of {len(text)} characters: give first < last within them"
            )
