"""Masks over a tokenizer's vocabulary that hold an answer to a regular expression.

The masks are llguidance's (https://github.com/guidance-ai/llguidance), which walks a trie of all tokens along the expression. Only
this module imports it, and only where a mask is made: it belongs to the extra ``formats``.
"""

from collections.abc import Sequence
from copy import copy
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD = 32  # bits of a word of llguidance's masks


class MissingExtraError(ValueError):
    """An error for a package of an extra that is not installed."""


class MaskVocabulary:
    """The tokens of a model as llguidance reads them. Making one takes about a second for 150,000 tokens.

    Parameters
    ----------
    tokenizer
        A fast transformers tokenizer.
    size
        Number of the model's logits.
    eos_ids
        Tokens that end an answer.

    Raises
    ------
    MissingExtraError
        Where llguidance is not installed.
    ValueError
        For a tokenizer that is not of the ``tokenizers`` library, and for a model without an end token.
    """

    def __init__(self, tokenizer: Any, size: int, eos_ids: frozenset[int]) -> None:
        if not eos_ids:
            raise ValueError("the model has no end token, so an answer held to a grammar cannot end: use format=free")
        fast = getattr(tokenizer, "backend_tokenizer", None)
        if fast is None:
            raise ValueError(
                f"{type(tokenizer).__name__} is no fast tokenizer, of which masks can be made: save the tokenizer.json of the "
                "tokenizers library with the model, or use format=free"
            )
        self._library = _llguidance()
        self.size, self.eos_ids = size, eos_ids
        alone = copy(fast)  # padding and truncation belong to the model's own
        alone.no_padding()
        alone.no_truncation()
        self.tokens = self._library.LLTokenizer(alone.to_str(), n_vocab=size, eos_token=sorted(eos_ids))
        self._limits = self._library.LLParserLimits(verbose_errors=False)

    def mask(self, expression: str) -> "GrammarMask":
        """Make the mask of one answer, which must match ``expression``, in the syntax of Rust's ``regex``.

        Raises
        ------
        ValueError
            For an expression that llguidance cannot read.
        """
        grammar = self._library.LLMatcher.grammar_from_regex(expression)
        matcher = self._library.LLMatcher(self.tokens, grammar, log_level=0, limits=self._limits)
        _check(matcher)
        return GrammarMask(self, matcher)


def _llguidance() -> Any:
    """Import llguidance. Raise ``MissingExtraError`` where it is not installed."""
    try:
        return import_module("llguidance")
    except ImportError as error:
        raise MissingExtraError(
            "format=lines needs llguidance, which is not installed: pip install 'erecap[formats]', or use format=choice or "
            "format=free"
        ) from error


class GrammarMask:
    """The tokens with which one answer may go on. Called once per token.

    It follows an answer from call to call; one that goes back, such as a draft that was rejected, costs the way back.

    Parameters
    ----------
    vocabulary
        The tokens.
    matcher
        llguidance's matcher of the expression.
    """

    def __init__(self, vocabulary: MaskVocabulary, matcher: Any) -> None:
        self._vocabulary, self._matcher = vocabulary, matcher
        self._taken: list[int] = []
        self._bits = np.zeros((vocabulary.size + _WORD - 1) // _WORD, np.int32)

    def __call__(self, tokens: Sequence[int]) -> NDArray[np.bool_]:
        """Return the tokens with which an answer that begins with ``tokens`` must not go on, bool ``(vocab,)``.

        Behind an end token nothing is banned: whoever decodes on wants tokens, whatever they are.

        Raises
        ------
        ValueError
            For an answer that the mask has not held to the expression.
        """
        if not self._follow(tokens):
            return np.zeros(self._vocabulary.size, np.bool_)
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        _check(self._matcher)
        allowed = np.unpackbits(self._bits.view(np.uint8), count=self._vocabulary.size, bitorder="little")
        ban: NDArray[np.bool_] = np.logical_not(allowed.view(np.bool_))
        return ban

    def forced(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens that must follow ``tokens``, in order; none where there is a choice."""
        return list(self._matcher.compute_ff_tokens()) if self._follow(tokens) else []

    def _follow(self, tokens: Sequence[int]) -> bool:
        """Bring the matcher to the end of ``tokens``; return whether the answer is still open."""
        if not self._vocabulary.eos_ids.isdisjoint(tokens):
            return False
        same = _in_common(self._taken, tokens)
        if same < len(self._taken):
            self._matcher.rollback(len(self._taken) - same)
        if same < len(tokens):
            self._matcher.consume_tokens(list(tokens[same:]))
        _check(self._matcher)
        self._taken = list(tokens)
        return True


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens that two answers begin with alike."""
    if len(other) >= len(one) and list(other[: len(one)]) == list(one):  # the usual case: the answer has grown
        return len(one)
    return next(place for place, pair in enumerate(zip((*one, -1), (*other, -2), strict=False)) if pair[0] != pair[1])


def _check(matcher: Any) -> None:
    """Raise ``ValueError`` where a matcher is in error, which it never leaves."""
    if matcher.is_error():
        raise ValueError(f"llguidance cannot follow the answer ({matcher.get_error().splitlines()[0]}): use format=free")


def literal(text: str) -> str:
    """Write a text as a regular expression that matches nothing else."""
    return "".join(f"\\{character}" if character in r"\.+*?()|[]{}^$" else character for character in text)


def one_of(expressions: Sequence[str]) -> str:
    """Write an expression that matches what one of ``expressions`` matches."""
    return f"(?:{'|'.join(expressions)})"
