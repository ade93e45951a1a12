"""Decode from exactly the cache that a prefill left, pruned or not.

It yields token ids; ``erecap.models.answers`` turns them into lines of text.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from erecap.engine.decode_steps import DecodeSteps
from erecap.engine.prefill import PrefillResult
from erecap.models.architecture import DecoderParts, check_length, decoder_parts

Banned = Iterable[int] | NDArray[np.bool_]
"""Tokens that must not come next: a few ids, or a mask of the whole vocabulary, bool ``(vocab,)``, true where one is banned."""
TokenBan = Callable[[Sequence[int]], Banned]
"""Takes the tokens of an answer so far, and returns those with which it must not go on; at least one must be left."""


@dataclass(frozen=True)
class DecodeOptions:
    """Settings of a decode.

    Attributes
    ----------
    max_new_tokens
        The most tokens to decode per row, end token included.
    temperature
        Divisor of the logits before sampling; 0 decodes greedily.
    seed
        Seed of the draws, the same for every row.
    eos_ids
        Tokens that end a row.
    ignore_eos
        Whether to decode exactly ``max_new_tokens`` tokens, for paired timings.
    ban
        Tokens that must not come next, by the tokens of the row so far; ``None`` for none. A tuple holds one for each row.
    script
        Tokens that every row writes first, whatever the logits say: a measurement repeats a recorded answer with it. Each is
        chosen as usual and then replaced, so that the time is that of an answer.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    eos_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    ban: TokenBan | tuple[TokenBan | None, ...] | None = None
    script: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1: ask for one token or more")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must not be negative: use 0 for greedy decoding")

    def scripted(self, step: int, token: int) -> int:
        """Return the script's token at ``step``; behind its end ``token``, which was chosen."""
        return self.script[step] if step < len(self.script) else token


def decode(model: PreTrainedModel, start: PrefillResult, options: DecodeOptions) -> Iterator[tuple[int | None, ...]]:
    """Decode all rows, one step at a time.

    The first step reads ``start.logits`` and runs no layer. In each step the host waits for the device once, to read the tokens.
    The cache in ``start`` grows with each step, and loses the rows that have ended, so a prefill can be decoded only once.

    Parameters
    ----------
    model
        The model that ran the prefill.
    start
        Result of the prefill.
    options
        Settings of the decode.

    Returns
    -------
    iterator of tuple of int or None
        For each step the token of each row, the end token included; ``None`` for a row that has ended.

    Raises
    ------
    ContextLengthError
        Where prompt and answer exceed the model's positions.
    ValueError
        For a prefill whose decode has begun before, and for one whose cache was changed since.
    """
    check_length(model.config, max(start.next_positions), options.max_new_tokens)
    _take(start)
    return _decode(decoder_parts(model), start, options)


@torch.inference_mode()
def _decode(parts: DecoderParts, start: PrefillResult, options: DecodeOptions) -> Iterator[tuple[int | None, ...]]:
    steps = DecodeSteps(parts, start, options.max_new_tokens)
    yield from decode_by(steps.run, parts, start.logits, options, steps.keep_rows)


@torch.inference_mode()
def decode_by(
    run: Callable[[Tensor, int], Tensor],
    parts: DecoderParts,
    logits: Tensor,
    options: DecodeOptions,
    keep_rows: Callable[[Sequence[int]], object] = lambda places: None,
) -> Iterator[tuple[int | None, ...]]:
    """Choose the tokens of all rows, one step at a time, and decide when to stop.

    Parameters
    ----------
    run
        Runs the last token of each row, int64 ``(batch,)``, as ``DecodeSteps.run`` does. The last tokens of all are not run.
    parts
        The model's modules.
    logits
        Logits of the first token, float32 ``(batch, vocab)``.
    options
        Settings of the decode.
    keep_rows
        Takes the rows that have ended out of the batch, as ``DecodeSteps.keep_rows`` does. The next ``run`` has fewer rows.

    Returns
    -------
    iterator of tuple of int or None
        As ``decode`` returns it.
    """
    choose, bans, rows = Chooser(options, logits), _Bans(options.ban, len(logits)), list(range(len(logits)))
    tokens = parts.agree(choose(bans.masked(logits)))
    for step in range(options.max_new_tokens):
        ids = [options.scripted(step, token) for token in tokens.tolist()]
        if step < len(options.script):
            tokens = torch.tensor(ids, device=tokens.device)
        made = dict(zip(rows, ids, strict=True))
        yield tuple(made.get(row) for row in range(len(logits)))
        going = [place for place, token in enumerate(ids) if options.ignore_eos or token not in options.eos_ids]
        if not going or step == options.max_new_tokens - 1:
            return
        bans.take(ids)
        if len(going) < len(rows):
            places = _closed_up(going)
            for part in (keep_rows, bans.keep_rows, choose.keep_rows):
                part(places)
            rows, tokens = [rows[place] for place in places], tokens[places]
        tokens = parts.agree(choose(bans.masked(run(tokens, step))))


def _closed_up(going: Sequence[int]) -> list[int]:
    """Return the rows that go on in an order that leaves most of them in their places; the last ones fill the gaps."""
    stay, late = set(going), iter(place for place in going if place >= len(going))
    return [place if place in stay else next(late) for place in range(len(going))]


class _Bans:
    """The tokens that must not come next, row by row. It reads the tokens that the host knows, so it never waits for the device."""

    def __init__(self, ban: TokenBan | tuple[TokenBan | None, ...] | None, rows: int) -> None:
        self._bans = ban if isinstance(ban, tuple) else (ban,) * rows
        if len(self._bans) != rows:
            raise ValueError(f"{len(self._bans)} bans for {rows} rows: give one for each row, or one for all")
        self._answers: list[list[int]] = [[] for _ in range(rows)]

    def take(self, ids: Sequence[int]) -> None:
        """Take the next token of each row."""
        for answer, token in zip(self._answers, ids, strict=True):
            answer.append(token)

    def keep_rows(self, places: Sequence[int]) -> None:
        """Keep only the rows ``places``, in this order."""
        self._bans, self._answers = tuple(self._bans[place] for place in places), [self._answers[place] for place in places]

    def masked(self, logits: Tensor) -> Tensor:
        """Set the logits of banned tokens to minus infinity, in a copy; float32 ``(batch, vocab)``."""
        rows = zip(self._bans, self._answers, strict=True)
        return banned(logits, [() if ban is None else ban(answer) for ban, answer in rows])


def banned(logits: Tensor, tokens: Sequence[Banned]) -> Tensor:
    """Set the logits of each row's ``tokens`` to minus infinity.

    Parameters
    ----------
    logits
        Logits, float ``(batch, vocab)``.
    tokens
        Banned tokens by row.

    Returns
    -------
    Tensor
        ``logits`` where no row has such tokens, else a copy.
    """
    masks = [(row, ids) for row, ids in enumerate(tokens) if isinstance(ids, np.ndarray)]
    places = [(row, token) for row, ids in enumerate(tokens) if not isinstance(ids, np.ndarray) for token in ids]
    masked = logits.clone() if places or masks else logits
    for row, mask in masks:
        masked[row].masked_fill_(torch.from_numpy(mask).to(logits.device), float("-inf"))
    for place in places:  # few; an index tensor would have to be copied to the device, which waits for it
        masked[place].fill_(float("-inf"))
    return masked


class Chooser:
    """A choice of next tokens. Each row has its own random generator, so it gets the same tokens in a batch as alone."""

    def __init__(self, options: DecodeOptions, logits: Tensor) -> None:
        self._temperature = options.temperature
        self._draws = [torch.Generator(logits.device).manual_seed(options.seed) for _ in logits] if options.temperature else []

    def keep_rows(self, places: Sequence[int]) -> None:
        """Keep only the rows ``places``, in this order."""
        self._draws = [self._draws[place] for place in places] if self._draws else []

    def __call__(self, logits: Tensor) -> Tensor:
        """Choose token ids, int64 ``(batch,)``, from ``logits``, float32 ``(batch, vocab)``."""
        if not self._temperature:
            return logits.argmax(dim=-1)
        shares = torch.softmax(logits / self._temperature, dim=-1)
        return torch.cat([torch.multinomial(row, 1, generator=draw) for row, draw in zip(shares, self._draws, strict=True)])


_TAKEN: WeakSet[DynamicCache] = WeakSet()
"""Caches from which a decode has begun."""


def _take(start: PrefillResult) -> None:
    """Let one decode have the cache of ``start``; raise ``ValueError`` where another had it, or where the cache was changed."""
    layers: list[Any] = start.cache.layers
    left = [max(tokens) for tokens in zip(*start.layer_tokens, strict=True)]
    if start.cache in _TAKEN:
        raise ValueError("a decode of this prefill has begun before, and its cache grows with every token: prefill again")
    if [layer.get_seq_length() for layer in layers] != left or any(layer.rows_moved for layer in layers):
        raise ValueError("the cache was changed after the prefill, which left other tokens or rows in it: prefill again")
    _TAKEN.add(start.cache)
