"""Verification of drafts under greedy decoding: which tokens the model writes, given its logits along a draft."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from erecap.engine.decode import DecodeOptions, banned
from erecap.sessions.reuse import common_prefix


@dataclass(frozen=True)
class Verified:
    """The outcome of one forward pass of a decode.

    Attributes
    ----------
    drafted
        Number of tokens that were drafted.
    accepted
        Number of those that the model writes itself.
    """

    drafted: int
    accepted: int


def write_along(logits: Tensor, draft: Sequence[int], answer: Sequence[int], options: DecodeOptions) -> list[int]:
    """Write the tokens that greedy decoding writes, as far as the draft foresaw them, and one more.

    Parameters
    ----------
    logits
        Logits of the next token after the answer, and after each token of the draft, float32 ``(1 + draft, vocab)``.
    draft
        The drafted tokens.
    answer
        Tokens of the answer so far.
    options
        Settings of the decode. Its ban is asked before each token.

    Returns
    -------
    list of int
        New tokens, at least one. They end at an end token and at the limit of new tokens.
    """
    best: list[int] = logits.argmax(-1).tolist()  # the host waits for the device once
    made = list[int]()
    for row, token in enumerate(best):
        chosen = token if options.ban is None else _allowed(logits[row : row + 1], [*answer, *made], options)
        made.append(options.scripted(len(answer) + len(made), chosen))
        ended = made[-1] in options.eos_ids and not options.ignore_eos
        if ended or len(answer) + len(made) == options.max_new_tokens or row == len(draft) or made[-1] != draft[row]:
            break
    return made


def _allowed(logits: Tensor, answer: Sequence[int], options: DecodeOptions) -> int:
    ban = options.ban[0] if isinstance(options.ban, tuple) else options.ban
    return int(banned(logits, [() if ban is None else ban(answer)]).argmax(-1))


def accepted(made: Sequence[int], draft: Sequence[int]) -> int:
    """Count the tokens of a draft that were written."""
    return common_prefix(np.array(made, np.int64), np.array(draft, np.int64))
